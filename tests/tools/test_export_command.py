"""`internimage export`, the program beside its files, and every command of docs/deploy.md on tiny models."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_tools import call, fails
from tiny_models import detector, names, save_checkpoint, segmentor

import internimage.openmmlab  # noqa: F401  (registers)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder: a segmentor, a detector, and a photo of 90 x 70 pixels, red on the left and blue right."""
    monkeypatch.chdir(tmp_path)
    for name, cfg, classes in (('segmentor', segmentor(), 3), ('detector', detector(), 2)):
        cfg.dump(f'{name}.py')
        save_checkpoint(cfg, Path(f'{name}.pth'), classes=names(classes))
    photo = np.zeros((70, 90, 3), np.uint8)
    photo[:, :50, 2], photo[:, 50:, 0] = 255, 255
    photo += np.random.default_rng(0).integers(0, 60, photo.shape, np.uint8) * (photo == 0)
    cv2.imwrite('photo.png', photo)
    return tmp_path


def run_beside(*arguments) -> str:
    """Output of run_onnx.py in a process that cannot import this project or PyTorch."""
    code = (
        'import sys, runpy; sys.modules.update(dict.fromkeys(("torch", "internimage", "mmengine"))); '
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_segmentor_and_the_program_beside_it(folder, capsys):
    pytest.importorskip('onnxruntime')
    model = 'segmentor.py', 'segmentor.pth'
    assert call('export', *model, '--out', 'out/seg.onnx', '--size', 96, 128, '--image', 'photo.png') == 0
    assert sorted(path.name for path in Path('out').iterdir()) == ['run_onnx.py', 'seg.onnx', 'seg.onnx.json']
    output = capsys.readouterr().out
    assert 'the same as the network: logits differ by at most' in output
    assert re.search(r'one image of 96 x 128 pixels takes \d+ ms on this CPU, the network itself \d+ ms', output)
    assert re.search(r'\d+\.\d MB \(\d+ % of the weights in memory\) in\n  out/seg.onnx\n  out/seg.onnx.json\n', output)

    about = json.loads(Path('out/seg.onnx.json').read_text())
    assert about['classes'] == ['class 0', 'class 1', 'class 2'] and about['channel_order'] == 'RGB'
    assert about['mean'] == [127.0, 120.0, 110.0] and about['std'] == [60.0, 61.0, 62.0]
    assert about['resize'] == [64, 48] and about['keep_ratio'] and about['outputs'] == ['logits', 'label_map']

    shares = run_beside('out/run_onnx.py', 'out/seg.onnx', 'photo.png', 'drawn.png')
    assert sum(float(share) for share in re.findall(r'class \d: (\S+)%', shares)) == pytest.approx(100, abs=0.2)
    assert cv2.imread('drawn.png').shape == (70, 90, 3)


def test_errors_are_one_line_and_leave_nothing(folder, capsys):
    model = 'segmentor.py', 'segmentor.pth'
    for arguments, message in (
        (('--out', 'a.pt2'), r'--out a.pt2 must end in .onnx for --format onnx'),
        (('--out', 'a.onnx', '--size', 30, 90), 'at least 32 pixels, got 30 and 90'),
        (('--out', 'a.onnx', '--image', 'segmentor.py'), 'segmentor.py: not an image'),
        (('--out', 'photo.png/a.onnx'), '--out photo.png cannot be written'),
    ):
        assert message in fails(capsys, folder, 'export', *model, *arguments)


def commands() -> list[list[str]]:
    """The lines of docs/deploy.md that start this project's programs."""
    blocks = re.findall(r'```bash\n(.*?)```', (ROOT / 'docs' / 'deploy.md').read_text(), re.S)
    lines = [line for block in blocks for line in block.replace('\\\n', ' ').splitlines()]
    return [shlex.split(line) for line in lines if not line.startswith('pip')]


def test_the_documented_commands_are_found():
    assert len(commands()) == 6 and all(words[0] in ('internimage', 'python') for words in commands())


@pytest.mark.slow
def test_every_documented_command_runs(folder):
    """With the tiny detector in place of InternImage-T, and a small size."""
    pytest.importorskip('openvino')
    Path('photo.jpg').write_bytes(cv2.imencode('.jpg', cv2.imread('photo.png'))[1].tobytes())
    Path('mask_rcnn.pth').write_bytes(Path('detector.pth').read_bytes())
    for program, *words in commands():
        if program == 'python':
            assert 'class' in run_beside(*words) or Path('drawn.png').exists()
            continue
        in_place = {'mask_rcnn_internimage_t_fpn_1x_coco': 'detector.py', '800': '96', '1088': '160'}
        words = [in_place.get(word, word) for word in words]
        assert call(*words, *([] if '--size' in words else ['--size', '96', '128'])) == 0
    for name in ('mask_rcnn.onnx', 'mask_rcnn.pt2', 'mask_rcnn.xml', 'mask_rcnn.bin', 'backbone.onnx', 'drawn.png'):
        assert (folder / name).stat().st_size > 0
