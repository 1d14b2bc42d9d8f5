"""Self-contained HTML pages: one file, with its figures and pictures inside, that opens without a network."""

import base64
import io

import cv2
import numpy as np

from ..files import whole_file

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1100px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 32px 0 8px; border-bottom: 1px solid #d8dee6; }
table { border-collapse: collapse; margin: 8px 0; }
th, td { padding: 3px 12px 3px 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #9aa7b5; font-weight: 600; } td.number, th.number { text-align: right; }
tr:nth-child(even) td { background: #f5f7f9; } code, pre { background: #f2f4f7; font-size: 13px; }
pre { padding: 10px; overflow-x: auto; } .quiet { color: #5c6b7a; } .bad { color: #b3261e; font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; } figure { margin: 0; max-width: 340px; }
figure img { max-width: 340px; display: block; }
.wide, .wide img { max-width: 530px; } figcaption { font-size: 12px; color: #5c6b7a; word-break: break-all; }
svg { max-width: 100%; height: auto; } details { margin: 4px 0; } summary { cursor: pointer; }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>{{ style | safe }}</style></head><body>
{% macro table(columns, rows) %}<table><tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}
<td{% if cell is number %} class="number"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endmacro %}
{% macro gallery(pictures, wide=false) %}<div class="pictures">{% for picture, caption in pictures %}
<figure{% if wide %} class="wide"{% endif %}>{{ picture }}
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div>{% endmacro %}
<h1>{{ title }}</h1>
BODY
</body></html>
"""


def render(body: str, title: str, **values) -> str:
    """The page with this title. `body`: a Jinja template, which has the macros `table(columns, rows)` and
    `gallery([(picture, caption)], wide)`; values are escaped, but for what `figure` and `picture` return."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE.replace('BODY', body)).render(title=title, style=STYLE, **values)


def write_page(text: str, path) -> None:
    """Writes the page: all of it or, when interrupted, nothing under that name."""
    with whole_file(path) as part:
        part.write_text(text, encoding='utf-8')


def figure(drawn):
    """A matplotlib figure as SVG, in the page. The figure is closed."""
    import matplotlib.pyplot as plt
    from markupsafe import Markup

    stream = io.StringIO()
    drawn.savefig(stream, format='svg', bbox_inches='tight')
    plt.close(drawn)
    return Markup(stream.getvalue()[stream.getvalue().index('<svg') :])


def picture(image: np.ndarray, side: int = 480):
    """An image, (H, W, 3) uint8 RGB, as an <img> of at most `side` pixels, in the page."""
    from markupsafe import Markup

    factor = side / max(image.shape[:2])
    if factor < 1:
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return Markup(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(content).decode()}">')


def axes(width: float = 6, height: float = 3.2, **options):
    """A figure and its axes, for `figure`; without a display."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    drawn, field = plt.subplots(figsize=(width, height), **options)
    for each in np.atleast_1d(field).ravel():
        each.spines[['top', 'right']].set_visible(False)
    return drawn, field
