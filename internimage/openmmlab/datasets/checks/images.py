"""Images: can they be read to the end, and is there anything unusual that the reader converts?

Training, test and inference read by the same rule, that of `internimage.openmmlab.images.read_image`.
"""

import io
from typing import NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import ExifTags, Image

from ...images import ImageError, decode_image
from .errors import DataError


class Examined(NamedTuple):
    """What is known of an image: (height, width) upright, EXIF orientation (1: as stored), what is unusual."""

    shape: tuple[int, int]
    orientation: int
    unusual: tuple[str, ...]


def examine(path: str, backend_args: dict | None = None) -> Examined:
    """Reads the image `path` as training does.

    Raises:
        DataError: it does not exist, is broken or cut off, or is not an image.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror or "does not exist"}') from error
    orientation, unusual = 1, []
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format != 'WEBP':  # which OpenCV does not turn
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':  # MPO: a JPEG with a preview behind it
                unusual.append('animations or of several pages: the first is read')
            if image.mode in ('LA', 'PA', 'RGBA') or 'transparency' in image.info:
                unusual.append('transparent in parts or with an alpha channel, which is dropped')
            if image.mode == 'CMYK':
                unusual.append('CMYK, converted to RGB')
            image.load()
    except Image.UnidentifiedImageError:
        pass  # OpenCV may know the format
    except Image.DecompressionBombError:
        pass  # large
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f'{path}: a broken or cut-off image ({" ".join(str(error).split())})') from error
    try:
        pixels = decode_image(content, path, log=False)
    except ImageError as error:
        raise DataError(str(error)) from error
    if depth := _bits_read(content):
        unusual.append(f'of 16 bits per channel, of which the upper 8 of {depth} are read')
    return Examined(pixels.shape[:2], orientation, tuple(unusual))


def _bits_read(content: bytes) -> int | None:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    return 12 if pixels.max() <= 4095 else 16
