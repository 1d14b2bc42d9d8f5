"""`internimage serve`: the HTTP interface, the limits, and the page in a headless Chromium."""

import io
import json
import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_tools import fails, load
from tiny_models import detector, names, save_checkpoint

from internimage.openmmlab import Predictor

BGR = np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)
MAX_PIXELS = 1_000_000


def internimage_detector():
    """The tiny detector on a tiny InternImage, whose layers sample at offsets."""
    cfg = detector()
    cfg.model.backbone = dict(
        type='InternImage',
        channels=16,
        depths=[1, 1, 1, 1],
        groups=[1, 2, 4, 8],
        mlp_ratio=2.0,
        out_indices=(0, 1, 2, 3),
    )
    cfg.model.neck.in_channels = [16, 32, 64, 128]
    return cfg


@pytest.fixture(scope='module')
def predictor(tmp_path_factory) -> Predictor:
    pytest.importorskip('gradio', reason='needs gradio: pip install .[serve]')
    cfg = internimage_detector()
    checkpoint = save_checkpoint(cfg, tmp_path_factory.mktemp('model') / 'x.pth', classes=names(2))
    return Predictor(cfg, checkpoint, 'cpu')


@pytest.fixture(scope='module')
def address(predictor, tmp_path_factory):
    """A page that is being served, on a free port."""
    serve, folder = load('serve'), tmp_path_factory.mktemp('examples')
    cv2.imwrite(str(folder / 'example.png'), BGR)
    limits = ['--max-pixels', str(MAX_PIXELS / 1e6), '--max-upload', '0.1', '--examples', str(folder)]
    args = serve.parse_args(['tiny.py', 'x.pth', *limits])
    page = serve.build(predictor, args)
    options = {**serve.launch_options(args), 'server_port': None}
    _, url, _ = page.launch(**options, prevent_thread_lock=True)
    yield url
    page.close()


@pytest.fixture
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False, analytics_enabled=False)


def png(image=BGR) -> bytes:
    return cv2.imencode('.png', image)[1].tobytes()


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('a.txt', 'no image')
    return buffer.getvalue()


def huge_png() -> bytes:
    """100 million pixels in 0.1 MB."""
    buffer = io.BytesIO()
    Image.new('1', (10_000, 10_000)).save(buffer, 'PNG')
    return buffer.getvalue()


WRONG = {
    'byte.png': (b'x', 'byte.png: not an image'),
    'zip.jpg': (zip_file(), 'zip.jpg: not an image'),
    'half.png': (png()[:400], 'half.png: not an image'),
    'huge.png': (huge_png(), 'huge.png: 10000 x 10000 are 100 million pixels, at most 1 million are taken'),
    'large.png': (png(np.zeros((1000, 1001), np.uint8)), '1001 x 1000 are 1 million pixels'),
}


def test_predictions_over_http(client, predictor, tmp_path):
    from gradio_client import handle_file

    (tmp_path / 'x.png').write_bytes(png())
    drawn, table, content, file, said = client.predict(handle_file(tmp_path / 'x.png'), 0.1, api_name='/predict')
    expected = predictor(BGR, score_thr=0.1)
    assert len(expected) > 1
    assert content == {'size': [60, 83], 'predictions': expected.records()} == json.loads(Path(file).read_text())
    assert table['headers'] == ['class', 'score', 'x1', 'y1', 'x2', 'y2'] and len(table['data']) == len(expected)
    np.testing.assert_array_equal(cv2.imread(drawn)[..., ::-1], expected.plot(0.1))
    assert said.startswith(f'{len(expected)} objects in 83 x 60 pixels')


def test_the_spatial_support_of_a_pixel_over_http(client, tmp_path):
    from gradio_client import handle_file

    (tmp_path / 'x.png').write_bytes(png())
    picture, told = client.predict(handle_file(tmp_path / 'x.png'), 41, 30, api_name='/support')
    assert min(cv2.imread(picture).shape[:2]) > 100 and 'sampling points' in told
    with pytest.raises(Exception, match=r'inside the image of 83 x 60, got \(83, 0\)'):
        client.predict(handle_file(tmp_path / 'x.png'), 83, 0, api_name='/support')


@pytest.mark.parametrize('name', WRONG)
def test_what_is_not_taken_is_said(name, client, tmp_path):
    from gradio_client import handle_file

    content, said = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Exception, match='(?s).*') as error:
        client.predict(handle_file(tmp_path / name), 0.3, api_name='/predict')
    assert said in str(error.value) and '/' not in str(error.value).replace('x.png', '')


def test_other_values_that_are_not_taken(client, tmp_path):
    from gradio_client import handle_file

    with pytest.raises(Exception, match='no image: upload one'):
        client.predict(None, 0.3, api_name='/predict')
    (tmp_path / 'x.png').write_bytes(png())
    with pytest.raises(Exception, match='threshold must be between 0 and 1|greater than'):
        client.predict(handle_file(tmp_path / 'x.png'), 7, api_name='/predict')
    (tmp_path / 'noise.png').write_bytes(png(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)))
    with pytest.raises(Exception, match='413|exceeds|too large|Too Large'):  # above --max-upload
        client.predict(handle_file(tmp_path / 'noise.png'), 0.3, api_name='/predict')


def test_ten_uploads_at_once(client, predictor, tmp_path):
    from gradio_client import handle_file

    jobs = []
    for index in range(10):
        (tmp_path / f'{index}.png').write_bytes(png(np.roll(BGR, 8 * index, 1)))
        jobs.append(client.submit(handle_file(tmp_path / f'{index}.png'), 0, api_name='/predict'))
    for index, job in enumerate(jobs):
        _, _, content, *_ = job.result(timeout=120)
        assert content['predictions'] == predictor(np.roll(BGR, 8 * index, 1)).records()


def test_files_of_the_machine_are_not_served(address):
    import httpx

    for path in ('/etc/passwd', str(Path(__file__))):
        assert httpx.get(f'{address}gradio_api/file={path}').status_code in (403, 404)
    assert '127.0.0.1' in address


PAGE = Path(__file__).parents[2] / 'docs' / 'serve.md'


def test_the_python_of_the_page(address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('image.jpg', BGR)
    (block,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    found = {}
    exec(block.replace('http://127.0.0.1:7860', address), found)
    assert capsys.readouterr().out.count('\nclass ') + 1 >= len(found['found']['predictions']) > 0
    assert Path(found['drawn']).is_file() and Path(found['picture']).is_file()


def test_the_shell_of_the_page(address, tmp_path):
    if not (shutil.which('curl') and shutil.which('bash')):
        pytest.skip('needs curl and bash')
    cv2.imwrite(str(tmp_path / 'image.jpg'), BGR)
    _, block = re.findall(r'```bash\n(.*?)```', PAGE.read_text(), re.DOTALL)
    block = block.replace('http://127.0.0.1:7860', address.rstrip('/'))
    done = subprocess.run(['bash', '-euc', block], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    event, data = done.stdout.strip().splitlines()[-2:]
    assert event == 'event: complete', done.stdout + done.stderr
    assert json.loads(data.removeprefix('data: '))[2]['size'] == [60, 83]


@pytest.mark.parametrize(
    'options, said',
    [
        (('--max-pixels', '0'), '--max-pixels 0 must be above 0'),
        (('--max-upload', '-1'), '--max-upload -1 must be above 0'),
        (('--queue', '0'), '--queue 0 must be above 0'),
        (('--examples', 'nowhere'), '--examples nowhere is not a folder'),
        (('--device', 'abacus'), '--device abacus: '),
        (('--host', '203.0.113.1'), '--host 203.0.113.1 --port 7860: '),
    ],
)
def test_wrong_options(options, said, tmp_path, monkeypatch, capsys):
    pytest.importorskip('gradio', reason='needs gradio: pip install .[serve]')
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, tmp_path, 'serve', 'config.py', 'x.pth', *options)


def test_without_gradio(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('internimage.openmmlab.cli.serve.find_spec', lambda name: None)
    assert "pip install 'internimage[serve]'" in fails(capsys, tmp_path, 'serve', 'config.py', 'x.pth')


def test_a_port_that_is_taken(address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    port = address.rstrip('/').rsplit(':', 1)[1]
    assert f'--port {port}: ' in fails(capsys, tmp_path, 'serve', 'config.py', 'x.pth', '--port', port)


# The page


def browser():
    """A headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='needs selenium: pip install selenium')
    driver = shutil.which('chromedriver')
    binary = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not (driver and binary):
        pytest.skip('needs Chromium and its driver: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ('--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'):
        options.add_argument(flag)
    options.add_argument('--window-size=1300,1500')
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


class Page:
    """The page as a visitor uses it."""

    def __init__(self, chrome, address: str):
        self.chrome = chrome
        chrome.get(address)
        self.wait('#upload input[type=file]')

    def wait(self, selector: str, holds=lambda element: True, seconds: float = 90):
        """The first element that the selector finds and of which the condition holds."""
        from selenium.common.exceptions import WebDriverException

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                for element in self.chrome.find_elements('css selector', selector):
                    if holds(element):
                        return element
            except WebDriverException:  # the page replaced it meanwhile
                pass
            time.sleep(0.2)
        raise AssertionError(f'{selector} did not come: {self.chrome.find_element("css selector", "body").text[:500]}')

    def upload(self, file: Path) -> None:
        for button in self.chrome.find_elements('css selector', '#upload button[aria-label="Clear"]'):
            button.click()
        self.wait('#upload input[type=file]').send_keys(str(file))

    def click(self, selector: str, part: tuple[float, float]) -> None:
        """Clicks a place in an element, in parts of its width and height."""
        from selenium.webdriver import ActionChains

        element = self.wait(selector)
        self.chrome.execute_script('arguments[0].scrollIntoView({block: "center"})', element)
        time.sleep(0.5)
        size = element.size
        x, y = ((fraction - 0.5) * side for fraction, side in zip(part, (size['width'], size['height']), strict=True))
        ActionChains(self.chrome).move_to_element_with_offset(element, int(x), int(y)).click().perform()

    def error(self) -> str:
        """The message in the corner, which is closed and gone after that."""
        texts = []
        self.wait('.toast-body.error', lambda element: texts.append(element.text.strip()) or texts[-1])
        self.wait('.toast-close').click()
        self.wait('body', lambda body: not body.find_elements('css selector', '.toast-body'))
        return texts[-1]


@pytest.mark.slow
def test_the_page_in_a_browser(address, tmp_path):
    chrome = browser()
    try:
        page = Page(chrome, address)
        (tmp_path / 'x.png').write_bytes(png())
        page.upload(tmp_path / 'x.png')
        picture = page.wait('#result img')
        assert page.wait('#said', lambda element: 'objects in 83 x 60 pixels' in element.text)
        assert page.wait('#table', lambda element: 'class 0' in element.text or 'class 1' in element.text)
        assert page.wait('#file a')
        assert chrome.execute_script('return arguments[0].naturalWidth', picture) == 6 * 83
        page.click('#result img', (0.5, 0.5))
        page.wait('#support img')
        assert page.wait('#told', lambda element: 'sampling points' in element.text)
        for name, (content, said) in WRONG.items():
            (tmp_path / name).write_bytes(content)
            page.upload(tmp_path / name)
            assert said in page.error()
        # after all that it still works
        page.upload(tmp_path / 'x.png')
        assert page.wait('#said', lambda element: 'objects in 83 x 60 pixels' in element.text)
    finally:
        chrome.quit()
