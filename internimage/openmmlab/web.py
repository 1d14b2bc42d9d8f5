"""The page of `internimage serve`: upload an image, see what the model finds, and what a pixel responds to.

Everything that a visitor sends is checked before the network sees it, and one request is computed at a time.
"""

import json
import tempfile
import threading
import warnings
from pathlib import Path

from mmseg.models import BaseSegmentor
from PIL import Image, UnidentifiedImageError

from ..analysis import SupportError, effective_receptive_field, effective_sampling_locations
from .configuration import leaf_datasets
from .drawing import LEAST_SIDE
from .images import ImageError, decode_image, find_files
from .predictor import Predictor
from .results import Results
from .support import ask_about_point, draw_views, prepare

PROJECTIONS = 8  # backward passes per view: an answer in seconds, with the standard error that the page states
EXAMPLES = 6


def build_page(predictor: Predictor, title: str, examples: list[Path], max_pixels: int):
    """The page, a `gradio.Blocks`, with the HTTP endpoints `/predict` and `/support`.

    Args:
        max_pixels: images of more pixels are refused, before they are decoded.
    """
    import gradio

    computing = threading.Lock()  # of gradio's queue and of direct calls
    segments = isinstance(predictor.model, BaseSegmentor)

    def predict(image, score_thr):
        result = answer(image, score_thr)
        file = Path(tempfile.mkdtemp(dir=_cache(picture)), 'predictions.json')
        record = dict(size=list(result.shape), predictions=result.records())
        file.write_text(json.dumps(record))
        drawn = result.plot(score_thr)
        return drawn, _rows(result), record, str(file), _said(result)

    def answer(image, score_thr: float) -> Results:
        try:
            if not 0 <= float(score_thr) <= 1:
                raise ImageError(f'the score threshold must be between 0 and 1, got {score_thr}')
            pixels = read_upload(image, max_pixels)
            with computing:
                return predictor(pixels, score_thr=float(score_thr))
        except ImageError as error:
            raise gradio.Error(str(error), duration=None, print_exception=False) from error

    def support(image, x, y):
        try:
            pixels = read_upload(image, max_pixels)
            height, width = pixels.shape[:2]
            if not (0 <= x < width and 0 <= y < height):
                raise ImageError(f'the pixel must be inside the image of {width} x {height}, got ({x:g}, {y:g})')
            out = Path(tempfile.mkdtemp(dir=_cache(picture)), 'support.png')
            with computing:
                prepared = prepare(predictor.model, pixels)
                question = ask_about_point(predictor.model, pixels, prepared, (x, y))
                asked = predictor.model, prepared.input, question.node
                field = effective_receptive_field(*asked, projections=PROJECTIONS)
                points = effective_sampling_locations(*asked, projections=PROJECTIONS)
                draw_views(prepared, question, [field, points], out)
        except (ImageError, SupportError) as error:
            raise gradio.Error(str(error), duration=None, print_exception=False) from error
        text = (
            f'{question.title}: the {len(points.points)} strongest of {points.samples} sampling points have '
            f'{100 * points.share:.0f} % of the strength; standard error {100 * points.standard_error:.0f} %.'
        )
        return str(out), text

    def clicked(image, event: gradio.SelectData):
        try:
            factor = _factor(read_upload(image, max_pixels).shape)
        except ImageError as error:
            raise gradio.Error(str(error), duration=None, print_exception=False) from error
        x, y = (int(value) // factor for value in event.index)
        return x, y, *support(image, x, y)

    buttons = dict(buttons=['download', 'fullscreen'])  # without the one that uploads to another site
    queue = dict(concurrency_id='network', concurrency_limit=1)
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(f'## {title}\n{len(predictor.names)} classes: {_listed(predictor.names)}')
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(label='image', sources=['upload', 'clipboard'], elem_id='upload')
                image.preprocess = lambda file: file and file.path  # unread: `read_upload` says what is wrong with it
                score_thr = gradio.Slider(0, 1, 0.3, step=0.01, label='score threshold', visible=not segments)
                run = gradio.Button('predict', variant='primary', elem_id='run')
                if examples:
                    gradio.Examples([[str(file)] for file in examples], [image], label='examples')
            with gradio.Column():
                picture = gradio.Image(
                    label='result: click a pixel', format='png', interactive=False, elem_id='result', **buttons
                )
                said = gradio.Markdown(elem_id='said')
        table = gradio.Dataframe(headers=_headers(segments), label='found', interactive=False, elem_id='table')
        file = gradio.File(label='predictions.json', elem_id='file')
        with gradio.Accordion('JSON', open=False):
            content = gradio.JSON(label='JSON')
        gradio.Markdown(
            '### What a pixel responds to\nClick a place in the result: how strongly each pixel of the image moves the '
            "backbone's last feature map there, or of a segmentor the score of the class that it sees, and where the "
            'deformable layers below sample.'
        )
        with gradio.Row():
            x, y = gradio.Number(0, label='x', precision=0), gradio.Number(0, label='y', precision=0)
            ask = gradio.Button('ask about (x, y)')
        seen = gradio.Image(label='spatial support', interactive=False, elem_id='support', **buttons)
        told = gradio.Markdown(elem_id='told')

        found = [picture, table, content, file, said]
        run.click(predict, [image, score_thr], found, api_name='predict', **queue)
        for changed in (image.upload, score_thr.release):
            changed(predict, [image, score_thr], found, api_visibility='private', **queue)
        picture.select(clicked, [image], [x, y, seen, told], api_visibility='private', **queue)
        ask.click(support, [image, x, y], [seen, told], api_name='support', **queue)
    return page


def read_upload(path, max_pixels: int):
    """An uploaded file as (H, W, 3) uint8 BGR.

    Raises:
        ImageError: there is none, it is not an image, or has more than `max_pixels`, which its header says.
    """
    if not path:
        raise ImageError('no image: upload one, or take an example')
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:  # reads the header
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise ImageError(f'{name}: too many pixels: at most {max_pixels / 1e6:g} million are taken') from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(f'{name}: not an image') from error
    if width * height > max_pixels:
        raise ImageError(
            f'{name}: {width} x {height} are {width * height / 1e6:.0f} million pixels, at most {max_pixels / 1e6:g} '
            'million are taken'
        )
    return decode_image(Path(path).read_bytes(), name)


def example_files(predictor: Predictor, folder=None) -> list[Path]:
    """A few images of `folder`; without one, of the config's test data, where these are on the disk."""
    if folder is None:
        dataset = next(leaf_datasets(predictor.model.cfg.test_dataloader.dataset))
        prefix = dataset.get('data_prefix') or {}
        folder = Path(dataset.get('data_root') or '', prefix.get('img') or prefix.get('img_path') or '')
        if not folder.is_dir():
            return []
    images = [file for file in find_files([folder]) if file.suffix.lower() in Image.registered_extensions()]
    return images[:EXAMPLES]


def _cache(component) -> str:
    """Gradio's folder of temporary files, which it empties (`delete_cache`) and alone serves files from."""
    Path(component.GRADIO_CACHE).mkdir(parents=True, exist_ok=True)
    return component.GRADIO_CACHE


def _factor(shape) -> int:
    """By which `Results.plot` enlarges an image of this shape."""
    return -(-LEAST_SIDE // max(shape[:2])) or 1


def _headers(segments: bool) -> list[str]:
    return ['class', 'pixels', 'share'] if segments else ['class', 'score', 'x1', 'y1', 'x2', 'y2']


def _rows(result: Results) -> list[list]:
    if result.label_map is None:
        return [
            [result.names[label], round(float(score), 3), *(round(float(value), 1) for value in box)]
            for label, score, box in zip(result.labels, result.scores, result.boxes, strict=True)
        ]
    pixels = [(result.names[label], int((result.label_map == label).sum())) for label in result.found_labels()]
    return [[name, count, f'{100 * count / result.label_map.size:.1f} %'] for name, count in pixels]


def _said(result: Results) -> str:
    height, width = result.shape
    what = f'{len(result)} objects' if result.label_map is None else f'{len(result.found_labels())} classes'
    return f'{what} in {width} x {height} pixels, {sum(result.times.values()):.2f} s'


def _listed(names, most: int = 20) -> str:
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
