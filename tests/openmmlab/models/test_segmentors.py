"""A test batch of images of several sizes gives what each image gives alone."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import internimage.openmmlab  # noqa: F401  (registers)

SIZES = [(32, 64), (48, 40), (32, 64), (64, 96)]


@pytest.fixture(scope='module', params=['whole', 'slide'])
def segmentor(request):
    torch.manual_seed(0)
    options = dict(type='EncoderDecoder', test_cfg=ConfigDict(mode=request.param))
    if request.param == 'slide':
        options['test_cfg'].update(crop_size=(32, 32), stride=(24, 24))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(
                data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=True),
                backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
                decode_head=dict(
                    type='FCNHead',
                    in_channels=64,
                    in_index=3,
                    channels=16,
                    num_convs=1,
                    concat_input=False,
                    num_classes=3,
                ),
                **options,
            )
        )
    return model.eval()


def batch(sizes):
    generator = torch.Generator().manual_seed(0)
    data = dict(inputs=[], data_samples=[])
    for height, width in sizes:
        data['inputs'].append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
        shape = (height + 3, width + 5)  # before the resizing
        sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *shape))
        data['data_samples'].append(sample)
    return data


def one(data, i):
    return {key: values[i : i + 1] for key, values in data.items()}


@pytest.mark.parametrize('step', ['val_step', 'test_step'])
def test_several_sizes_in_a_batch(segmentor, step):
    with torch.no_grad():
        found = getattr(segmentor, step)(batch(SIZES))
        data = batch(SIZES)
        alone = [getattr(segmentor, step)(one(data, i))[0] for i in range(len(SIZES))]
    for sample, expected, (height, width) in zip(found, alone, SIZES, strict=True):
        assert sample.seg_logits.data.shape == (3, height + 3, width + 5)
        assert torch.equal(sample.seg_logits.data, expected.seg_logits.data)
        assert torch.equal(sample.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_one_size_is_one_batch(segmentor, monkeypatch):
    calls = []
    forward = segmentor.forward
    monkeypatch.setattr(
        segmentor,
        'forward',
        lambda inputs, *args, **options: (calls.append(len(inputs)), forward(inputs, *args, **options))[1],
    )
    with torch.no_grad():
        segmentor.test_step(batch(SIZES[:1] * 3))
        segmentor.test_step(batch(SIZES))
    assert calls == [3, 1, 1, 1, 1]
