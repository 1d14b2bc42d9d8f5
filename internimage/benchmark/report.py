"""The rows of a benchmark as a table, a summary, a plot and files."""

import math
import statistics
from itertools import zip_longest
from pathlib import Path

from .contenders import ratios_of

WIDTHS = dict(variant=7, image=8, stage=5, input=13, batch=5, dtype=8, phase=9)


def print_row(args, row: dict, header: bool) -> None:
    """One line; for networks one for each."""
    for name in row['figures'] if 'batch' in row else ['ours']:
        make_cells = network_cells if 'batch' in row else roi_cells if 'rois' in row else stage_cells
        cells = make_cells(args, row, name)
        for line in zip_longest(*(title.split('\n') for title, _, _ in cells), fillvalue='') if header else []:
            print(' '.join(f'{title:>{width}}' for title, (_, width, _) in zip(line, cells, strict=True)))
        print(' '.join(f'{text:>{width}}' for _, width, text in cells), flush=True)
        header = False


def stage_cells(args, row: dict, name: str) -> list[tuple[str, int, str]]:
    """(title, width, text) of the columns."""
    cells = [(key, WIDTHS[key], row[key]) for key in ('variant', 'image', 'stage', 'input', 'dtype', 'phase')]
    cells += time_cells(row['figures']['ours'])
    if args.sweep:
        cells += [('ns/\npixel', 6, number(row['ns_per_pixel'])), ('over\nbest', 5, number(row['over_fastest']))]
    if 'gb_per_s' in row:
        cells += [('GB/s', 5, number(row['gb_per_s'])), ('of\ncopy', 5, number(row['copy_fraction'], 100, '%'))]
    cells.append(('peak/\noutput', 6, number(row['peak_outputs'])))
    for a, b in ratios_of(args.peers):
        cells.append((f'{a}/\n{b}', max(len(a) + 1, len(b)), number(row['ratios'].get(f'{a} / {b}'))))
    return cells


def roi_cells(args, row: dict, name: str) -> list[tuple[str, int, str]]:
    cells = [('operator', 18, row['variant']), ('input', 15, row['input']), ('rois', 6, str(row['rois']))]
    cells += [(key, WIDTHS[key], row[key]) for key in ('dtype', 'phase')]
    cells += time_cells(row['figures']['ours'])
    cells.append(('peak MB', 7, number(row['figures']['ours']['peak_bytes'], 1e-6)))
    return cells + [(f'{peer}/\nours', 13, number(row['ratios'].get(f'{peer} / ours'))) for peer in args.peers]


def network_cells(args, row: dict, name: str) -> list[tuple[str, int, str]]:
    figure = row['figures'][name]
    network = f'internimage_{row["variant"]}' if name == 'ours' else name
    return [
        ('network', 28, network),
        *((key, WIDTHS[key], row[key]) for key in ('image', 'batch', 'dtype', 'phase')),
        ('layout', 13, figure['layout']),
        *time_cells(figure),
        ('images/s', 8, number(1e3 / figure['ms_per_image'])),
        ('M params', 8, number(figure['parameters'], 1e-6)),
        ('peak MB', 7, number(figure['peak_bytes'], 1e-6)),
        ('ours/this', 9, number(row['ratios'].get(f'ours / {name}'))),
    ]


def time_cells(figure: dict) -> list[tuple[str, int, str]]:
    return [('ms', 6, number(figure['median_ms'])), ('spread', 6, number(figure['spread'], 100, '%'))]


def number(value: float | None, factor: float = 1, unit: str = '') -> str:
    """Three digits or all before the point."""
    if value is None:
        return '-'
    value *= factor
    return f'{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3}f}{unit}'


def summarise(rows: list[dict]) -> list[dict]:
    """Geometric mean and range of each ratio, by dtype and phase."""
    groups = {}
    for row in rows:
        for ratio, value in row['ratios'].items():
            groups.setdefault((ratio, row['dtype'], row['phase']), []).append(value)
    return [
        dict(ratio=r, dtype=d, phase=p, rows=len(v), mean=statistics.geometric_mean(v), least=min(v), greatest=max(v))
        for (r, d, p), v in groups.items()
    ]


def plot(args, rows: list[dict], environment: dict, path: Path) -> None:
    """Bars, a panel per phase: ratios by row, or times of networks and of the sweep."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    if args.command in ('model', 'train'):
        what, bars = 'ms per image', lambda row: {n: figure['ms_per_image'] for n, figure in row['figures'].items()}
    elif args.sweep:
        what, bars = 'ns per pixel', lambda row: {'ours': row['ns_per_pixel']}
    else:
        what, bars = 'ratio of times', lambda row: row['ratios']
    keys = ('input', 'dtype') if 'input' in rows[0] else ('image', 'batch', 'dtype')
    keys = ['variant', *(key for key in keys if len({row[key] for row in rows}) > 1)]
    series = list(dict.fromkeys(name for row in rows for name in bars(row)))
    phases = {row['phase']: [r for r in rows if r['phase'] == row['phase']] for row in rows}
    width = 1 / (len(series) + 1)
    size = max(8, 2 + 0.15 * max(map(len, phases.values())) / width), 4 * len(phases)
    figure, panels = plt.subplots(len(phases), squeeze=False, figsize=size, layout='constrained')
    for panel, (phase, chosen) in zip(panels[:, 0], phases.items(), strict=True):
        for i, name in enumerate(series):
            x = [j + i * width for j in range(len(chosen))]
            drawn = panel.bar(x, [bars(row).get(name, math.nan) for row in chosen], width, label=name)
            if len(x) <= 12:
                panel.bar_label(drawn, fmt=number, fontsize=7, rotation=90, padding=2)
        centres = [j + (len(series) - 1) * width / 2 for j in range(len(chosen))]
        panel.set_xticks(centres, [' '.join(str(row[key]) for key in keys) for row in chosen], rotation=30, ha='right')
        panel.set(title=phase, ylabel=what + (' (log)' if 'ratio' in what else ''))
        panel.margins(y=0.15)
        if what == 'ratio of times':
            panel.set_yscale('log')
            panel.axhline(1, color='black', linewidth=0.8)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=min(4, len(series)))
    title = f'{args.command}: {environment["device"]}, threads: {environment["threads"]}, {", ".join(args.dtype)}'
    figure.suptitle(title)
    figure.savefig(path, format='png', dpi=120)
