"""One object from an image, a folder or a video to results:

predictor = Predictor('mask_rcnn_internimage_t_fpn_1x_coco', 'checkpoint.pth')
predictor('image.jpg').save('drawn.png')
"""

import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.models import EncoderDecoder
from PIL import Image

from .cfg_options import ConfigError
from .configuration import load_config
from .images import as_image, find_files, is_image_address
from .inference import load_model, predict_batch, preprocess
from .results import Results
from .tiles import check_tiles, detect_in_tiles, segment_in_tiles, tile_windows
from .video import VideoReader, VideoWriter, is_video

__all__ = ['Predictor']


class Predictor:
    """A trained detector or segmentor that takes images of any kind and returns `Results`.

    Nothing is stored on the network or here while it predicts: threads may share one predictor.

    Args:
        config: the name of a config of the package, a config file, or an mmengine `Config`.
        checkpoint: a file, a Hugging Face folder, an http(s) address, or the name of an official file, such as
            `mask_rcnn_internimage_t_fpn_1x_coco.pth`. What is fetched is logged with its size before, and kept.
        device: 'cpu', 'cuda', 'cuda:1', ...; default: a GPU if there is one.
        dtype: of the network, as 'float16' or `torch.float16`; default: that of its weights. Boxes stay in float32.
        batch_size: images that run together, of those that the network pads to the same size.
        tta: average several views of each image (`internimage test --tta`).
        cfg_options: keys of the config and their values, as `--cfg-options` takes them.

    Attributes:
        model: the network; `names`, `palette`: the classes' names and RGB colors.

    Raises:
        ConfigError, CheckpointError: as `load_model`.
        ValueError: no such device or dtype.
    """

    def __init__(
        self,
        config,
        checkpoint,
        device=None,
        dtype: torch.dtype | str | None = None,
        *,
        batch_size: int = 1,
        tta: bool = False,
        cfg_options: dict | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        if not isinstance(config, Config):
            config = load_config(str(config), cfg_options)
        elif cfg_options:
            raise ValueError('cfg_options are for a config given by name: change the Config itself')
        self.device = find_device(device)
        self.dtype = _dtype(dtype)
        self.model = load_model(config, checkpoint, self.device, tta=tta).to(dtype=self.dtype)
        self.batch_size, self.tta = batch_size, tta
        self.names = tuple(self.model.dataset_meta['classes'])
        self.palette = self.model.dataset_meta['palette']

    def __call__(self, source, *, channels: str | None = None, score_thr: float = 0.0, tile=None, overlap: float = 0.2):
        """Predicts whatever `source` is.

        Args:
            source: one image: a file, an http(s) address, a PIL image, the bytes of a file, an array (H, W, 3) or
                another that `read_image` takes, a tensor (3, H, W) of uint8 or of floating point from 0 to 1.
                Several: a list or tuple of these, a tensor (N, 3, H, W), a folder, a glob, an iterator or a generator.
                Or a video file.
            channels: the order of the channels of arrays and tensors, 'bgr' or 'rgb'; default: arrays BGR, as OpenCV
                reads them, tensors RGB.
            score_thr: leave out detections with at most this score; default: all that the model returns.
            tile: predict large images in tiles of this size, pixels or (height, width), and put the results together.
                Detectors take each tile through their test pipeline, as they take an image; segmentors take the tiles
                unresized and average where these overlap.
            overlap: part of a tile's side that it shares with its neighbour; objects up to this size are whole in one.

        Returns:
            `Results` of one image; a list of several. Of an iterator, a generator or a video: an iterator, which
            predicts as it is asked, in memory that does not grow.

        Raises:
            ImageError: something that is not an image; says what.
            ValueError: a tile of less than 32 pixels, an overlap not in [0, 1).
        """
        options = dict(channels=channels, score_thr=score_thr, tile=tile, overlap=overlap)
        if _is_one(source):
            return next(self.stream([source], **options))
        stream = self.stream(source, **options)
        if is_video(source) or isinstance(source, Iterator):
            return stream
        results = []
        for result in stream:
            result.forget_image()
            results.append(result)
        return results

    def stream(
        self, source, *, channels: str | None = None, score_thr: float = 0.0, tile=None, overlap: float = 0.2
    ) -> Iterator[Results]:
        """The results one after the other, each predicted when it is asked for (up to a batch ahead). Arguments as for
        a call."""
        if is_video(source):
            yield from self.video(source, score_thr=score_thr, tile=tile, overlap=overlap)
            return
        images = iter(_images(source))
        while batch := list(islice(images, self.batch_size)):
            yield from self.predict(batch, channels=channels, score_thr=score_thr, tile=tile, overlap=overlap)

    def video(
        self, source, out=None, *, draw_thr: float = 0.3, score_thr: float = 0.0, tile=None, overlap: float = 0.2
    ) -> Iterator[Results]:
        """The results of the frames of a video file or a camera, one after the other; `frame` is their number.

        Args:
            source: a video file, or the number of a camera, from 0, of which single frames are predicted as they come.
            out: a file (.mp4, .avi, .mov, .mkv) for the drawn video, at the rate of the source. Each frame is written
                before its result is returned; the file is complete when the iterator ends or is closed.
            draw_thr: boxes of a score of at most this are not drawn.

        Raises:
            ImageError: not a video, no such camera, or `out` cannot be written.
        """
        reader = VideoReader(source)
        writer = None if out is None else VideoWriter(out, reader.rate)
        options = dict(score_thr=score_thr, tile=tile, overlap=overlap)
        size = 1 if isinstance(source, int) else self.batch_size
        frames, number = iter(reader), 0
        try:
            while batch := list(islice(frames, size)):
                for result in self.predict(batch, **options):
                    result.path, result.frame = reader.name, number
                    number += 1
                    if writer is not None:
                        writer.write(result.plot(draw_thr))
                    yield result
        finally:
            frames.close()
            if writer is not None:
                writer.close()

    def predict(
        self, batch: list, *, channels: str | None = None, score_thr: float = 0.0, tile=None, overlap: float = 0.2
    ) -> list[Results]:
        """The results of a list of single images, all of which run at once where the network pads them to one size."""
        tile = check_tiles(tile, overlap)
        start = time.perf_counter()
        images = [as_image(image, channels) for image in batch]
        read = (time.perf_counter() - start) / len(batch)
        if tile is None:
            results = self._predict(images)
        else:
            results = [self._predict_tiles(image, tile, overlap) for image in images]
        for i, (source, image) in enumerate(zip(batch, images, strict=True)):
            result = results[i] if score_thr <= 0 else results[i].above(score_thr)
            result._image = image
            result.path = str(source) if isinstance(source, (str, os.PathLike)) else None
            result.times = {'read': read, **result.times}
            results[i] = result
        return results

    def _predict(self, images: list[np.ndarray]) -> list[Results]:
        model, meta = self.model, dict(classes=self.names, palette=self.palette)
        start = time.perf_counter()
        batch = [preprocess(model, image, rle_masks=True) for image in images]
        packed = time.perf_counter()
        samples = predict_batch(model, batch)
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        done = time.perf_counter()
        results = [
            Results.from_sample(sample, meta, image.shape[:2]) for sample, image in zip(samples, images, strict=True)
        ]
        share = dict(preprocess=packed - start, predict=done - packed, convert=time.perf_counter() - done)
        for result in results:
            result.times = {stage: seconds / len(images) for stage, seconds in share.items()}
        return results

    def _predict_tiles(self, image: np.ndarray, tile: tuple[int, int], overlap: float) -> Results:
        windows = tile_windows(image.shape[:2], tile, overlap)
        if self.tta:
            raise ConfigError('test-time augmentation of tiles is not supported: leave one of both')
        if not isinstance(self.model, EncoderDecoder):
            return detect_in_tiles(image, windows, self._predict, self.batch_size)
        start = time.perf_counter()
        pipeline = Compose([step for step in self.model.pipeline.transforms if 'Resize' not in type(step).__name__])
        data = pipeline(dict(img=image, img_id=0))
        packed = time.perf_counter()
        labels = segment_in_tiles(self.model, data['inputs'], data['data_samples'], tile, overlap)
        times = dict(preprocess=packed - start, predict=time.perf_counter() - packed)
        return Results(self.names, self.palette, image.shape[:2], label_map=labels, times=times)


def find_device(name=None) -> torch.device:
    """The device, after a try to allocate on it; without a name, a GPU if there is one.

    Raises:
        ValueError: there is no such device.
    """
    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {name}: {str(error).splitlines()[0]}') from error
    return device


def _dtype(dtype) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is not None and not (isinstance(found, torch.dtype) and found.is_floating_point) or (dtype and not found):
        raise ValueError(f'dtype must be float32, float16, bfloat16 or float64, got {dtype}')
    return found


def _is_one(source) -> bool:
    """Is it one image, or what should be one?"""
    if isinstance(source, (str, os.PathLike)):
        text = str(source)
        return is_image_address(text) or not (is_video(source) or Path(text).expanduser().is_dir() or _is_glob(text))
    if isinstance(source, torch.Tensor):
        return source.ndim != 4
    return isinstance(source, (bytes, bytearray, memoryview, np.ndarray, Image.Image)) or not isinstance(
        source, Iterable
    )


def _is_glob(text: str) -> bool:
    return any(sign in text for sign in '*?[') and not Path(text).expanduser().exists()


def _images(source) -> Iterable:
    if isinstance(source, (str, os.PathLike)):
        return [source] if _is_one(source) else find_files([source])
    return [source] if _is_one(source) else source
