"""The benchmark: its figures belong together, its files are complete, its errors are one line."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from internimage import VARIANTS
from internimage.benchmark import contenders, measuring

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'benchmark.py'
PNG = b'\x89PNG\r\n\x1a\n'


def benchmark(folder: Path, options: str) -> tuple[dict, str]:
    """Runs the tool with a JSON file and a plot; returns the JSON's content and the printed lines."""
    files = '--json', folder / 'result.json', '--plot', folder / 'plot.png'
    command = [sys.executable, TOOL, *options.split(), '--threads', '1', *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ['plot.png', 'result.json']
    assert (folder / 'plot.png').read_bytes().startswith(PNG)
    result = json.loads((folder / 'result.json').read_text())
    environment = result['environment']
    assert environment['threads'] == 1 and environment['torch'] == torch.__version__
    assert environment['device'] in done.stdout and environment['copy_gb_per_s'] > 0
    assert all(len(line) <= 140 for line in done.stdout.splitlines())
    for row in result['rows']:
        check_row(row)
    return result, done.stdout


def check_row(row: dict) -> None:
    for figure in row['figures'].values():
        samples = sorted(figure['samples_ms'])
        assert samples[0] > 0 and math.isfinite(samples[-1])
        assert figure['median_ms'] == pytest.approx((samples[(len(samples) - 1) // 2] + samples[len(samples) // 2]) / 2)
        assert 0 <= figure['spread'] <= (samples[-1] - samples[0]) / figure['median_ms'] + 1e-9
        assert figure['peak_bytes'] is None or figure['peak_bytes'] >= 0
    for ratio, value in row['ratios'].items():
        first, second = (row['figures'][name]['median_ms'] for name in ratio.split(' / '))
        assert value == pytest.approx(first / second) and math.isfinite(value)


def test_op(tmp_path):
    result, text = benchmark(tmp_path, 'op --variant small --size 32x64 --batch 2 --dtype float32 bfloat16 --repeats 2')
    rows = result['rows']
    assert len(rows) == 2 * 4 * 2  # dtypes, stages, phases
    assert {row['input'] for row in rows if row['stage'] == 2} == {'2x4x8x64'}
    for row in rows:
        peers = {'reference / ours', 'grid_sample / ours', 'ours / depthwise'}
        if row['dtype'] == 'float32':
            peers.add('deform_conv2d / ours')  # torchvision has no bfloat16 on the CPU
        assert set(row['ratios']) == peers
        assert all(len(figure['samples_ms']) == 2 for figure in row['figures'].values())
    # Stage 1: 2 images of 8 * 16 pixels, 32 channels, 2 groups of 9 offsets (x, y) and 9 modulations, 4 bytes.
    forward, backward = rows[:2]
    output, window = 2 * 8 * 16 * 32 * 4, 2 * 8 * 16 * 2 * 27 * 4
    for row, moved in (forward, 2 * output + window), (backward, 3 * output + 2 * window):
        assert row['gb_per_s'] == pytest.approx(moved / row['figures']['ours']['median_ms'] / 1e6)
        assert row['copy_fraction'] == pytest.approx(row['gb_per_s'] / result['environment']['copy_gb_per_s'])
    (line,) = (
        line for line in result['summary'] if line['ratio'] == 'deform_conv2d / ours' and line['phase'] == 'forward'
    )
    ratios = [row['ratios']['deform_conv2d / ours'] for row in rows[:8:2]]
    assert line['least'] == min(ratios) and line['greatest'] == max(ratios)
    assert line['mean'] == pytest.approx(math.prod(ratios) ** (1 / len(ratios)))
    assert 'grid_sample' in text and 'geometric mean' in text


def test_sweep(tmp_path):
    result, _ = benchmark(tmp_path, 'op --sweep --variant small --repeats 1')
    for phase in ('forward', 'backward'):
        rows = [row for row in result['rows'] if row['phase'] == phase]
        assert [row['input'] for row in rows] == [f'1x{n}x{n}x32' for n in (56, 80, 112, 160, 224, 320, 400)]
        assert rows[0]['ns_per_pixel'] == pytest.approx(rows[0]['figures']['ours']['median_ms'] * 1e6 / 56**2)
        assert min(row['over_fastest'] for row in rows) == 1
        fastest = min(row['ns_per_pixel'] for row in rows)
        assert all(row['over_fastest'] == pytest.approx(row['ns_per_pixel'] / fastest) for row in rows)


def test_peak_memory_of_a_large_map():
    """Real memory: a function that needs 64 MB for a moment, and one that needs none."""
    machine = measuring.Machine(torch.device('cpu'))
    if machine.peak_bytes(lambda: None) is None:
        pytest.skip('/proc/self/clear_refs is not available here')
    assert machine.peak_bytes(lambda: torch.ones(2**24).sum()) == pytest.approx(2**26, rel=0.1)
    assert machine.peak_bytes(lambda: None) < 2**22


def test_layer(tmp_path):
    result, _ = benchmark(tmp_path, 'layer --variant small --size 32 --dtype float32 float16 --repeats 2')
    assert len(result['rows']) == 2 * 4 * 2
    for row in result['rows']:
        assert list(row['ratios']) == ['unfused / ours', 'reference / ours', 'ours / depthwise']
        assert 'gb_per_s' not in row


def test_roi(tmp_path):
    result, text = benchmark(tmp_path, 'roi --rois 9 --size 64x96 --batch 2 --dtype float32 bfloat16 --repeats 2')
    rows = result['rows']
    assert [row['input'] for row in rows[::4]] == ['2x256x16x24', '2x1029x4x6']
    assert len(rows) == 2 * 2 * 2 and all(row['rois'] == 9 for row in rows)  # operators, dtypes, phases
    for row in rows:
        peer = dict(deform_roi_pool='roi_align', deform_ps_roi_pool='ps_roi_align')[row['variant']]
        # torchvision has no bfloat16 on the CPU
        assert list(row['ratios']) == ([f'{peer} / ours'] if row['dtype'] == 'float32' else [])
    assert 'deform_ps_roi_pool' in text and 'ps_roi_align/' in text


@pytest.mark.parametrize('command, peer', [('model', 'swin_tiny'), ('train', 'convnext_atto')])
def test_networks(tmp_path, command, peer):
    result, text = benchmark(tmp_path, f'{command} --variant small --size 64 --batch 2 --repeats 2 --peers {peer}')
    (row,) = result['rows']
    assert list(row['ratios']) == [f'ours / {peer}']
    assert 'internimage_small' in text and peer in text
    for figure in row['figures'].values():
        assert figure['parameters'] > 1e6 and figure['ms_per_image'] == pytest.approx(figure['median_ms'] / 2)
        assert set(figure['layouts_ms']) == {'contiguous', 'channels_last'}
        assert figure['layouts_ms'][figure['layout']] == min(figure['layouts_ms'].values()) == figure['median_ms']


def test_stages_have_the_groups_that_the_benchmark_gives_them():
    for name, (_, groups, _, _) in contenders.VARIANTS.items():
        assert VARIANTS[name]['groups'] == tuple(groups * 2**i for i in range(4))


def test_a_peer_that_computes_something_else_is_found_out(monkeypatch):
    convert, op = contenders.OPERATORS['grid_sample']
    monkeypatch.setitem(contenders.OPERATORS, 'grid_sample', (convert, lambda *args, **kw: op(*args, **kw) * 1.001))
    with pytest.raises(RuntimeError, match='grid_sample does not compute what ours does'):
        contenders.check_operators(['reference', 'grid_sample'], torch.device('cpu'))


@pytest.mark.parametrize(
    'options, message',
    [
        ('', 'command'),
        ('op --size 224*3', '--size must be HxW or one number, at least 32 pixels, got 224*3'),
        ('op --size 16x64', '--size must be HxW or one number, at least 32 pixels, got 16x64'),
        ('op --dtype int8', "invalid choice: 'int8'"),
        ('op --variant q', "invalid choice: 'q'"),
        ('op --batch 0', 'must be a whole number of at least 1, got 0'),
        ('op --repeats x', 'must be a whole number of at least 1, got x'),
        ('op --device tpu', '--device must be cpu, cuda or cuda:N, got tpu'),
        ('op --device cuda:99', '--device cuda:99: torch finds'),
        ('roi --variant t', "invalid choice: 't'"),
        ('roi --peers deform_conv2d', 'roi_align, ps_roi_align, got deform_conv2d'),
        ('op --peers unfused', 'reference, grid_sample, deform_conv2d, depthwise, got unfused'),
        ('layer --peers grid_sample', 'unfused, reference, depthwise, got grid_sample'),
        ('model --peers convnext_tinny', '--peers must be names of timm models, got convnext_tinny'),
        ('op --sweep --size 64', '--sweep has sizes of its own and no peers: leave out --size and --peers'),
        ('layer --sweep', '--sweep'),
        (
            'op --json missing/x.json',
            '--json must be a file in a folder that exists and can be written to, got',
        ),
        ('op --plot x.pdf', '--plot must end in .png, got x.pdf'),
    ],
)
def test_one_clear_line_for_what_cannot_be(options, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *options.split()])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1 and message in err


def test_plot_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'op', '--plot', 'x.png'])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert exit.value.code == 2 and 'needs matplotlib' in capsys.readouterr().err


@pytest.mark.parametrize(
    'command', ['op', *(pytest.param(c, marks=pytest.mark.slow) for c in ('layer', 'roi', 'model'))]
)
def test_it_needs_nothing_of_openmmlab(command):
    absent = 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'matplotlib'
    options = ['--rois', '3'] if command == 'roi' else ['--variant', 'small']
    script = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))
from internimage.__main__ import main
sys.argv = ['internimage', 'benchmark', {command!r}, *{options}, '--size', '32', '--repeats', '1', '--threads', '1']
sys.exit(main())
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=TOOL.parents[1])
    assert done.returncode == 0 and 'ours' in done.stdout, done.stderr
