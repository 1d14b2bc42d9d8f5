"""Every block of docs/python_api.md runs, in its order, with tiny models in place of the official ones."""

import re
from pathlib import Path

import cv2
import numpy as np
from tiny_models import detector, names, save_checkpoint

from internimage.openmmlab import predictor

PAGE = Path(__file__).parents[2] / 'docs' / 'python_api.md'
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = detector()
    checkpoint = save_checkpoint(cfg, tmp_path / 'tiny.pth', classes=names(2))
    asked = []
    monkeypatch.setattr(predictor, 'load_config', lambda name, options: asked.append(name) or cfg)
    monkeypatch.setattr('internimage.checkpoint.files.fetch', lambda address: asked.append(address) or checkpoint)
    image = np.random.default_rng(0).integers(0, 256, (60, 84, 3), np.uint8)
    (tmp_path / 'folder').mkdir()
    for name, pixels in (
        ('image.jpg', image),
        ('folder/1.jpg', image),
        ('large.png', image.repeat(20, 0).repeat(10, 1)),
    ):
        cv2.imwrite(name, pixels)
    writer = cv2.VideoWriter('video.mp4', cv2.VideoWriter_fourcc(*'mp4v'), 10, (84, 60))
    for _ in range(3):
        writer.write(image)
    writer.release()

    assert len(BLOCKS) == 6
    names_of_the_page = {}
    for block in BLOCKS:
        exec(block, names_of_the_page)
    official = 'mask_rcnn_internimage_t_fpn_1x_coco'
    assert asked == [official, f'https://huggingface.co/OpenGVLab/InternImage/resolve/main/{official}.pth']
    assert {'drawn.png', 'image.json', 'drawn.mp4'} <= {path.name for path in tmp_path.iterdir()}
    assert names_of_the_page['result'].frame == 2
    assert (
        names_of_the_page['yolo'].count('\n')
        == len(names_of_the_page['sure'])
        == len(names_of_the_page['coco']['annotations'])
    )
