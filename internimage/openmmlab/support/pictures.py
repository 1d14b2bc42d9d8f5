"""Pictures of spatial support: the views of one node side by side, and where each layer samples."""

import io
from math import ceil

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...analysis import ReceptiveField, SalientRegion, SamplingLocations
from ..images import write_image
from .nodes import Prepared, Question

NODE = '#39ff14'
PANEL = 4.6  # inches
TITLES = {
    ReceptiveField: 'effective receptive field',
    SamplingLocations: 'effective sampling locations',
    SalientRegion: 'salient region',
}


def draw_views(prepared: Prepared, question: Question, views: list, out_file) -> None:
    """The image with the node, and the results of :mod:`internimage.analysis` over it, side by side in one file."""
    height, width = prepared.picture.shape[:2]
    figure, axes = _panels(len(views) + 1, len(views) + 1, height / width, below=1.4)
    _show(axes[0], prepared, question)
    _bar(figure, axes[0], axes[0].images[0], 'green: the node', visible=False)
    axes[0].set_title(f'the node: {question.title}\n', fontsize=10)
    for axis, view in zip(axes[1:], views, strict=True):
        _DRAW[type(view)](figure, axis, prepared, view)
        _mark(axis, question, alpha=0.9)
        axis.set_title(f'{TITLES[type(view)]}\n{_numbers(view, prepared, question)}', fontsize=10)
    figure.supxlabel('pixels of the network input', fontsize=8)
    _write(figure, out_file)


def draw_layers(prepared: Prepared, question: Question, points: list, out_file, most: int = 12) -> None:
    """Where each layer samples for one pixel of its output: `points` are the LayerPoints of
    :func:`internimage.analysis.layer_points`; of more than `most` layers as many, evenly chosen."""
    if len(points) > most:
        points = [points[i] for i in np.linspace(0, len(points) - 1, most).round().astype(int)]
    height, width = prepared.picture.shape[:2]
    columns = min(4, len(points))
    figure, axes = _panels(len(points), columns, height / width, below=0.8)
    for axis, one in zip(axes, points, strict=False):
        _show(axis, prepared, question, dark=0.6)
        sizes = 50 * one.weights / max(one.weights.max(), 1e-12)
        axis.scatter(*one.regular.T, s=14, marker='+', c='white', linewidths=0.8, label='regular grid')
        axis.scatter(*one.places.T, s=sizes, c='#ff5050', linewidths=0, alpha=0.8, label='samples, area: modulation')
        axis.set_title(one.layer, fontsize=8)
        # A third of a layer's samples may be far outside.
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes[0].legend(loc='lower left', fontsize=7, framealpha=0.8)
    _write(figure, out_file)


def _panels(count: int, columns: int, aspect: float, below: float) -> tuple[Figure, list]:
    rows = ceil(count / columns)
    figure = Figure(figsize=(PANEL * columns, rows * (PANEL * aspect + below)), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def _show(axis, prepared: Prepared, question: Question, dark: float = 1.0) -> None:
    axis.imshow((prepared.picture * dark).astype(np.uint8), interpolation='nearest')
    axis.tick_params(labelsize=7)
    _mark(axis, question)


def _mark(axis, question: Question, alpha: float = 1.0) -> None:
    """The node: a box, corner coordinates, or a point."""
    if question.box is not None:
        x1, y1, x2, y2 = question.box
        frame = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, ec=NODE, lw=1.5, alpha=alpha)
        axis.add_patch(frame)
    if question.point is not None:
        axis.plot(*question.point, marker='x', color=NODE, markersize=8, markeredgewidth=2, alpha=alpha)


def _numbers(view, prepared: Prepared, question: Question) -> str:
    """Area and share inside, as a line."""
    height, width = prepared.picture.shape[:2]
    held = '' if isinstance(view, SalientRegion) else '90 % of it in '
    text = f'{held}{100 * view.area() / (height * width):.1f} % of the image'
    if question.object is not None:
        text += f', {100 * view.inside(question.object):.0f} % inside the object'
    return text


def _draw_field(figure: Figure, axis, prepared: Prepared, view: ReceptiveField) -> None:
    height, width = prepared.picture.shape[:2]
    gray = cv2.cvtColor(prepared.picture, cv2.COLOR_RGB2GRAY)
    axis.imshow(gray, cmap='gray', interpolation='nearest')
    heat = view.map[:height, :width]
    heat = heat / max(heat.max(), 1e-30)
    shown = axis.imshow(heat, cmap='inferno', norm=PowerNorm(0.5, 0, 1), alpha=np.clip(2 * heat**0.5, 0, 0.9))
    _bar(figure, axis, shown, 'norm of the derivative, largest = 1')


def _draw_samples(figure: Figure, axis, prepared: Prepared, view: SamplingLocations) -> None:
    height, width = prepared.picture.shape[:2]
    axis.imshow((0.5 * prepared.picture).astype(np.uint8), interpolation='nearest')
    order = np.argsort(view.strength)
    strength = view.strength[order] / max(view.strength.max(), 1e-30)
    norm = PowerNorm(0.5, 0, 1)
    shown = axis.scatter(
        *view.points[order].T, c=strength, cmap='inferno', norm=norm, s=4 + 22 * strength, linewidths=0
    )
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    label = f'strength, largest = 1; {len(order)} of {view.samples} samples, {100 * view.share:.0f} % of the strength'
    _bar(figure, axis, shown, label)


def _draw_region(figure: Figure, axis, prepared: Prepared, view: SalientRegion) -> None:
    height, width = prepared.picture.shape[:2]
    mask = view.mask[:height, :width]
    picture = np.where(mask[..., None], prepared.picture, (0.25 * prepared.picture).astype(np.uint8))
    shown = axis.imshow(picture, interpolation='nearest')
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors='white', linewidths=0.8)
    label = f'dark: masked; error {view.error:.3f} of at most {view.bound:g}, cells of {view.cell} pixels'
    _bar(figure, axis, shown, label, visible=False)


def _bar(figure: Figure, axis, shown, label: str, visible: bool = True) -> None:
    """The scale below a panel; where it is not visible, its label alone, so that all panels have one size."""
    bar = figure.colorbar(shown, ax=axis, location='bottom', shrink=0.9, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if not visible:
        bar.solids.set_visible(False)
        bar.outline.set_visible(False)
        bar.set_ticks([])
    axis.tick_params(labelsize=7)


_DRAW = {ReceptiveField: _draw_field, SamplingLocations: _draw_samples, SalientRegion: _draw_region}


def _write(figure: Figure, out_file) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format='png', dpi=110)
    picture = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    write_image(picture, out_file)
