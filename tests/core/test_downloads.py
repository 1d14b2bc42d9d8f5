"""Checkpoints behind an address, from a server on this machine."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import torch

from internimage.checkpoint import CheckpointError, read_state_dict
from internimage.checkpoint.download import cached_path


def checkpoint(value: float) -> bytes:
    buffer = io.BytesIO()
    torch.save({'a': torch.full((1000,), value)}, buffer)
    return buffer.getvalue()


ONE, TWO = checkpoint(1), checkpoint(2)
HASH = hashlib.sha256(ONE).hexdigest()[:8]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        content = TWO if path.startswith('/two') or query == 'revision=2' else ONE
        if path == '/moved/model.pth':
            self.send_response(302)
            self.send_header('Location', '/one/other.pth')
            self.end_headers()
            return
        if path == '/missing.pth':
            self.send_error(404)
            return
        self.send_response(200)
        chunked = path.startswith('/chunked')
        self.protocol_version = 'HTTP/1.1' if chunked else 'HTTP/1.0'
        self.send_header('Content-Type', 'text/html' if path == '/login.pth' else 'application/octet-stream')
        if chunked:
            self.send_header('Transfer-Encoding', 'chunked')
        elif path != '/unknown_size.pth':
            self.send_header('Content-Length', 'many' if path == '/many.pth' else str(len(content)))
        self.end_headers()
        broken = 'broken' in path and self.server.broken
        if chunked:
            self.wfile.write(b'%x\r\n' % len(content) + content[: 1000 if broken else None])
            if not broken:
                self.wfile.write(b'\r\n0\r\n\r\n')
        else:
            self.wfile.write(content[: 1000 if broken else None])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.asked, server.broken = [], True
    server.address = f'http://127.0.0.1:{server.server_address[1]}'
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def kept(tmp_path):
    return lambda: sorted(path.name for path in (tmp_path / 'checkpoints').iterdir())


def value(address) -> float:
    return read_state_dict(address)['a'][-1].item()


def test_files_of_the_same_name_are_not_mixed_up(server):
    addresses = [f'{server.address}/{part}' for part in ('one/m.pth', 'two/m.pth', 'one/m.pth?revision=2')]
    for _ in range(2):  # fetched, then found
        assert [value(address) for address in addresses] == [1, 2, 2]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    'path',
    [
        'one/model.pth?download=true',
        'one/model.pth#part',
        'moved/model.pth',
        'one/%C3%A4%20b/../model%2F.pth',
        'unknown_size.pth',
        'chunked/model.pth',
        'one/model',
        f'one/model-{HASH}.pth',
        'one/model-20240131.pth',
        'one/' + 'x' * 300 + '.pth',
        'one/',
    ],
)
def test_addresses_that_work(server, kept, path):
    assert value(f'{server.address}/{path}') == 1
    assert len(kept()) == 1
    assert value(f'{server.address}/{path}') == 1
    assert len(server.asked) == 1 + path.startswith('moved')


@pytest.mark.parametrize(
    'path, says',
    [
        ('broken.pth', rf'1000 of {len(ONE)} bytes received'),
        ('chunked/broken.pth', 'IncompleteRead'),
        ('missing.pth', '404'),
        ('login.pth', 'a web page, not a file'),
        ('many.pth', 'invalid literal'),
        ('one/model-0123abcd.pth', rf'its SHA-256 is {HASH}\.\.\., its name says 0123abcd'),
        ('one/a b.pth', 'control characters'),
    ],
)
def test_what_cannot_be_fetched_is_not_kept(server, kept, path, says):
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f'cannot be fetched .*{says}') as caught:
            value(f'{server.address}/{path}')
        assert str(caught.value).isprintable() and f'checkpoint {server.address}' in str(caught.value)
        assert kept() == []


def test_a_transfer_that_broke_off_is_repeated(server, kept):
    address = f'{server.address}/broken.pth'
    with pytest.raises(CheckpointError):
        value(address)
    server.broken = False
    assert value(address) == 1
    assert kept() == [cached_path(address).name]


def test_nobody_there(server):
    with pytest.raises(CheckpointError, match='cannot be fetched .*refused'):
        value('http://127.0.0.1:1/model.pth')
    with pytest.raises(CheckpointError, match='cannot be fetched'):
        value('http://[half/model.pth')


def test_six_threads_fetch_one_file(server, kept):
    found = []
    threads = [threading.Thread(target=lambda: found.append(value(f'{server.address}/one/m.pth'))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 6 and len(kept()) == 1
