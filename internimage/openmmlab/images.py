"""Reading images of any kind that `predict` and `Predictor` take as 8 bits per channel in BGR; writing images."""

import glob
import http.client
import os
import stat
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image, ImageOps

from ..errors import UserError
from ..files import whole_file

EXPECTED = (
    'expected a file name, an http(s) address, a PIL image, the bytes of an image file, or a uint8 array: (H, W, 3) '
    'BGR, (H, W, 4) BGRA, (H, W) or (H, W, 1) gray'
)
TIMEOUT = 60  # seconds without a byte from an address
LARGEST_FILE = 2**28  # bytes fetched from an address


class ImageError(UserError, ValueError):
    """Something that is not an image. The message is one line that says what it is."""


def read_image(image) -> np.ndarray:
    """An image as (H, W, 3) uint8, BGR, C-contiguous: the form in which OpenMMLab reads files.

    `image` is one of

    - a file name. The picture is turned upright by its EXIF orientation; gray is repeated and alpha dropped; of
      16 bits per channel the upper 8 are taken, or, where no value is above 4095, the upper 8 of 12 bits (such files
      come from cameras of 12 bits), which is logged;
    - the http(s) address of such a file, fetched at every call;
    - the bytes of such a file;
    - a PIL image of any mode that PIL converts to RGB, turned upright likewise;
    - a uint8 array: (H, W, 3) BGR, (H, W, 4) BGRA, whose alpha is dropped, (H, W) or (H, W, 1) gray.

    Other arrays are refused, since their range or their order of channels is a guess: floating point, 16 bits, bool,
    (3, H, W), tensors.

    Raises:
        ImageError: the file does not exist or is not an image; the object is none of these.
    """
    if is_image_address(image):
        return decode_image(_fetched(image), image)
    if isinstance(image, (str, os.PathLike)):
        return decode_image(_file_bytes(Path(image)), str(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(bytes(image), f'{len(image)} bytes')
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    what = f'{type(image).__module__}.{type(image).__qualname__}'.removeprefix('builtins.')
    if hasattr(image, 'shape') and hasattr(image, 'dtype'):
        what += f' of shape {tuple(image.shape)} and dtype {image.dtype}'
    raise ImageError(f'not an image: {what}; {EXPECTED}')


def as_image(image, channels: str | None = None) -> np.ndarray:
    """What `read_image` takes, or one tensor, as (H, W, 3) uint8, BGR.

    A tensor is (3, H, W), of uint8 or of floating point from 0 to 1, on any device.

    Args:
        channels: the order of the channels of arrays and tensors, 'bgr' or 'rgb'; default: arrays are BGR, as OpenCV
            reads them, tensors RGB, as torchvision does. Files and PIL images know their own.

    Raises:
        ImageError: as `read_image`; a tensor of another shape or type, or with values outside 0 to 1.
    """
    if channels not in (None, 'bgr', 'rgb'):
        raise ValueError(f"channels must be 'bgr' or 'rgb', got {channels!r}")
    if isinstance(image, torch.Tensor):
        image, channels = _from_tensor(image), channels or 'rgb'
    elif not isinstance(image, np.ndarray):
        return read_image(image)
    picture = read_image(image)
    return np.ascontiguousarray(picture[..., ::-1]) if channels == 'rgb' else picture


def _from_tensor(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) as an array (H, W, 3) of uint8."""
    kind = f'tensor of shape {tuple(image.shape)} and dtype {image.dtype}'
    taken = image.dtype == torch.uint8 or image.is_floating_point()
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not taken:
        raise ImageError(f'not an image: {kind}; expected (3, H, W), uint8 or floating point from 0 to 1')
    image = image.detach()
    if image.is_floating_point():
        image = image.float()
        least, most = float(image.min()), float(image.max())
        if not (least >= 0 and most <= 1):  # NaN too
            raise ImageError(f'not an image: {kind} and values from {least:g} to {most:g}; expected 0 to 1')
        image = (image * 255).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def is_image_address(image) -> bool:
    return isinstance(image, str) and image.startswith(('http://', 'https://'))


def _fetched(address: str) -> bytes:
    request = urllib.request.Request(address, headers={'User-Agent': 'internimage'})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            content = response.read(LARGEST_FILE + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f'{address}: cannot be fetched: {" ".join(str(error).split())}') from error
    if len(content) > LARGEST_FILE:
        raise ImageError(f'{address}: more than {LARGEST_FILE / 2**20:.0f} MiB; fetch it and name the local file')
    return content


def find_files(patterns: Iterable) -> list[Path]:
    """The files that the names of files, folders (their visible files) and globs stand for, sorted within each.

    Raises:
        ImageError: one of them stands for none.
    """
    files = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            found = [child for child in path.iterdir() if child.is_file() and not child.name.startswith('.')]
        elif path.exists():
            found = [path]
        else:
            found = [Path(match) for match in glob.glob(str(path), recursive=True) if os.path.isfile(match)]
        if not found:
            raise ImageError(f'no file found for {pattern}')
        files += sorted(found)
    return files


def _file_bytes(path: Path) -> bytes:
    try:
        path = path.expanduser()
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device may never end
            raise ImageError(f'{path}: not a file' if not path.is_dir() else f'{path}: Is a directory')
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f'{path}: {error.strerror or "does not exist"}') from error
    except ValueError as error:  # a null byte in the name
        raise error if isinstance(error, ImageError) else ImageError(f'{str(path)!r}: {error}') from error


def decode_image(content: bytes, name: str, log: bool = True) -> np.ndarray:
    """The image in the bytes of the file `name`, by the rules of `read_image`; training and test read by this too."""
    if not content:
        raise ImageError(f'{name}: not an image, it is empty')
    image = _imdecode(content, name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype == np.uint16:
        narrow = _from_12_bits(image, name, log)
        return _imdecode(content, name, cv2.IMREAD_COLOR) if narrow is None else narrow
    if image.dtype != np.uint8:
        raise ImageError(f'{name}: pixels are {image.dtype}; images of 8 or 16 bits per channel are read')
    return image


def _imdecode(content: bytes, name: str, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:  # too many pixels
        raise ImageError(f'{name}: not an image that OpenCV reads: {error.err or error}') from error
    if image is None:
        raise ImageError(f'{name}: not an image')
    return image


def _from_12_bits(image: np.ndarray, name: str, log: bool = True) -> np.ndarray | None:
    """The upper 8 of 12 bits; None if there are values that need more."""
    if image.max() > 4095:
        return None
    if log:
        print_log(f'{name}: 16 bits per channel, no value above {image.max()}: read as 12 bits', 'current')
    return (image >> 4).astype(np.uint8)


def _from_pil(image: Image.Image) -> np.ndarray:
    name = f'PIL image of mode {image.mode} and size {image.size}'
    if 0 in image.size:
        raise ImageError(f'{name}: it has no pixels')
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I;16'):
            wide = np.asarray(image).astype(np.uint16)
            narrow = _from_12_bits(wide, name)
            narrow = (wide >> 8).astype(np.uint8) if narrow is None else narrow
            return np.repeat(narrow[..., None], 3, 2)
        if image.mode in ('I', 'F'):
            raise ImageError(f'{name}: images of 8 or 16 bits per channel are read')
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # the file is read here
        raise ImageError(f'{name}: {error}') from error


def _from_array(array: np.ndarray) -> np.ndarray:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ImageError(f'not an image: array of shape {array.shape} and dtype {array.dtype}; {EXPECTED}')
    if channels == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, 2)
    return np.ascontiguousarray(array[..., :3])


def write_image(image: np.ndarray, path) -> None:
    """Writes (H, W, 3) BGR or (H, W) to `path`, in the format of its suffix: the complete file or none.

    Raises:
        ImageError: the suffix is of no format that can hold the image.
        OSError: the file cannot be written.
    """
    path = Path(path)
    try:
        _, content = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise ImageError(f'{path}: no image format for {image.dtype} of shape {image.shape}') from error
    write_bytes(content, path)


def write_bytes(content, path: Path) -> None:
    """Writes all of `content` to `path`, or leaves what is there; makes its folder."""
    with whole_file(path) as part:
        part.write_bytes(content)
