"""A web page for a trained model, on this machine alone unless told otherwise.

    internimage serve CONFIG CHECKPOINT [--host 127.0.0.1] [--port 7860]

Upload an image, or take an example; see what the model finds, download it as JSON, and click a pixel to see what it
responds to. The same over HTTP: docs/serve.md.
"""

import argparse
import os
import socket
from importlib.util import find_spec
from pathlib import Path

import torch

from ..cfg_options import CfgOptions
from ..predictor import Predictor
from .common import UserError, blame, load_config, one_line_errors
from .infer import find_device


@one_line_errors
def main() -> None:
    args = parse_args()
    check(args)
    cfg = load_config(args.config, args.cfg_options)
    with blame(f'config {args.config}: model'):
        predictor = Predictor(cfg, args.checkpoint, args.device, args.dtype)
    page = build(predictor, args)
    print(f'The page and its HTTP interface: http://{args.host}:{args.port} (end with Ctrl-C)', flush=True)
    page.launch(**launch_options(args))


def check(args: argparse.Namespace) -> None:
    """Before the model is loaded.

    Raises:
        UserError: an option is out of range, the port is taken, or gradio is not installed.
    """
    for option, value in (
        ('--max-upload', args.max_upload),
        ('--max-pixels', args.max_pixels),
        ('--queue', args.queue),
    ):
        if not value > 0:
            raise UserError(f'{option} {value:g} must be above 0')
    if find_spec('gradio') is None:
        raise UserError("internimage serve needs gradio, which is not installed: pip install 'internimage[serve]'")
    if args.examples and not Path(args.examples).is_dir():
        raise UserError(f'--examples {args.examples} is not a folder')
    find_device(args.device)
    try:
        with socket.create_server((args.host, args.port)):
            pass
    except (OSError, OverflowError) as error:
        raise UserError(
            f'--host {args.host} --port {args.port}: {getattr(error, "strerror", None) or error}'
        ) from error


def build(predictor: Predictor, args: argparse.Namespace):
    """The page, with its queue."""
    os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # read when gradio is imported
    from ..web import build_page, example_files

    title = f'InternImage: {Path(args.config).stem}'
    page = build_page(predictor, title, example_files(predictor, args.examples), int(args.max_pixels * 1e6))
    return page.queue(max_size=args.queue)


def launch_options(args: argparse.Namespace) -> dict:
    from gradio.themes import Default

    return dict(
        server_name=args.host,
        server_port=args.port,
        max_file_size=int(args.max_upload * 1e6),
        show_error=True,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        share=False,
        footer_links=['api'],
        theme=Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']),  # nothing is fetched from elsewhere
    )


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to listen on (%(default)s: this machine alone; 0.0.0.0: everyone)'
    )
    parser.add_argument('--port', type=int, default=7860, help='default: %(default)s')
    parser.add_argument('--max-upload', type=float, default=20, metavar='MB', help='size of a file (%(default)s)')
    parser.add_argument(
        '--max-pixels', type=float, default=25, metavar='MILLIONS', help='size of an image (%(default)s)'
    )
    parser.add_argument('--queue', type=int, default=32, help='requests that may wait (%(default)s)')
    parser.add_argument(
        '--examples', metavar='FOLDER', help="example images (default: those of the config's test data)"
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)',
    )
    parser.add_argument('--dtype', choices=('float32', 'float16', 'bfloat16'), help='of the network')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args(arguments)
