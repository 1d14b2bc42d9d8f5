"""Checkpoints behind an http(s) address: fetched once, completely or not at all."""

import hashlib
import http.client
import logging
import re
import sys
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import torch

from ..files import whole_file
from .text import CheckpointError, printable

logger = logging.getLogger('internimage')
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


def is_address(path) -> bool:
    return str(path).startswith(('http://', 'https://'))


def cached_path(address: str) -> Path:
    """Where the file of an address is kept: in torch's hub folder, by a hash of the whole address and its own name."""
    address = urldefrag(address).url
    name = re.sub(r'[^\w.-]', '_', unquote(urlsplit(address).path).rsplit('/', 1)[-1], flags=re.ASCII)[-120:]
    return Path(torch.hub.get_dir(), 'checkpoints', f'{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}')


def fetch(address: str) -> Path:
    """The local copy of the file at `address`, downloaded if there is none.

    The size must be the one that the server states, and the SHA-256 begin with the eight digits that a name such as
    `model-1a2b3c4d.pth` ends with.

    Raises:
        CheckpointError: it cannot be fetched, is cut short, is another file or a web page; nothing is kept then.
    """
    try:
        file = cached_path(address)
        if file.exists():
            return file
        with whole_file(file) as part:
            _download(urldefrag(address).url, part, _expected_hash(file))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CheckpointError(
            f'checkpoint {printable(address, 500)} cannot be fetched ({printable(error, 300)}): fetch it by other '
            'means and name the local file'
        ) from error
    return file


def _download(address: str, file: Path, expected_hash: str) -> None:
    request = urllib.request.Request(address, headers={'User-Agent': 'internimage'})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, file.open('wb') as target:
        if response.headers.get_content_type() == 'text/html':
            raise ValueError('a web page, not a file')
        length = response.headers.get('Content-Length')
        size, received, digest = int(length) if length else None, 0, hashlib.sha256()
        logger.info('fetching %s%s', printable(address, 500), f', {size / 1e6:.0f} MB' if size else '')
        while chunk := response.read(CHUNK):
            target.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            _show(received, size)
    if size is not None and received != size:
        raise ValueError(f'{received} of {size} bytes received')
    if not digest.hexdigest().startswith(expected_hash):
        raise ValueError(f'its SHA-256 is {digest.hexdigest()[:8]}..., its name says {expected_hash}')


def _expected_hash(file: Path) -> str:
    """What the name says about the content: `-1a2b3c4d` before the suffix, unless it is a date."""
    match = re.search(r'-([0-9a-f]{8,64})\.[a-z]\w*$', file.name)
    return match[1] if match and not re.fullmatch(r'20\d\d[01]\d[0-3]\d', match[1]) else ''


def _show(received: int, size: int | None) -> None:
    if sys.stderr.isatty():
        done = f'{received / 1e6:.0f}' + (f' of {size / 1e6:.0f}' if size else '')
        print(f'\r{done} MB', end='\n' if received == size else '', file=sys.stderr, flush=True)
