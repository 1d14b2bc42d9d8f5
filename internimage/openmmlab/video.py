"""Reading and writing videos."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .images import ImageError

SUFFIXES = {'.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv'}
CODECS = {'.mp4': 'mp4v', '.m4v': 'mp4v', '.mov': 'mp4v', '.mkv': 'mp4v', '.avi': 'MJPG'}


def is_video(source) -> bool:
    """Is it the name of a video file, by its suffix?"""
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in SUFFIXES


class VideoReader:
    """The frames of a video file or a camera, each (H, W, 3) uint8 BGR, upright; to be iterated once.

    Args:
        source: a file's name, or the number of a camera, from 0.

    Attributes:
        rate: frames per second, 25 where the source does not say.
        frames: their number, as far as the file knows it, or None.

    Raises:
        ImageError: the file does not exist or is not a video; there is no such camera.
    """

    def __init__(self, source):
        camera = isinstance(source, int)
        self.name = f'camera {source}' if camera else str(source)
        if not camera and not Path(source).expanduser().is_file():
            raise ImageError(f'{source}: no such file')
        self.capture = cv2.VideoCapture(source if camera else str(Path(source).expanduser()))
        if not self.capture.isOpened():
            raise ImageError(f'{self.name}: not a video that OpenCV reads' if not camera else f'no {self.name}')
        rate, frames = (self.capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = rate if 0 < rate < 1000 else 25.0
        self.frames = int(frames) if not camera and frames > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        read = 0
        try:
            while True:
                more, frame = self.capture.read()
                if not more:
                    break
                read += 1
                yield frame
        finally:
            self.capture.release()
        if not read:
            raise ImageError(f'{self.name}: no frame can be read')


class VideoWriter:
    """Writes frames (H, W, 3) uint8 RGB to a video file, which has its name from `close` on, not before.

    Used in `with`; after an error what was written is kept under that name, as it plays.

    Raises:
        ImageError: a suffix of no format, or OpenCV cannot write it.
    """

    def __init__(self, path, rate: float):
        self.path, self.rate = Path(path), rate
        if self.path.suffix.lower() not in CODECS:
            raise ImageError(f'{path}: videos are written as {", ".join(sorted(CODECS))}')
        self.part = self.path.with_name(f'.part-{self.path.name}')
        self.writer = None

    def write(self, frame: np.ndarray) -> None:
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.part), codec, self.rate, frame.shape[1::-1])
            if not self.writer.isOpened():
                self.part.unlink(missing_ok=True)
                raise ImageError(f'{self.path}: OpenCV cannot write this video')
        self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.release()
            self.writer = None
            os.replace(self.part, self.path)

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(self, *error) -> None:
        self.close()
