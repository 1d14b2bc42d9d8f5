"""Write a trained detector, segmentor or backbone for other programs: ONNX, torch.export, OpenVINO.

    internimage export CONFIG CHECKPOINT --out FILE [--format onnx|pt2|openvino] [--size H W] [--image PHOTO]

FILE takes any number of images of any size. It is compared with the network before it gets its name: where it differs,
there is no file, and the exit code is 2. Beside it: FILE.json with what goes before and after the network (classes,
mean, std, ...) and, for ONNX, run_onnx.py, which needs onnxruntime, numpy and Pillow alone.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ...checkpoint import load_pretrained_backbone
from ...errors import UserError
from ...export import FORMATS, LEAST_SIDE, RUNNER, Backbone, ExportError, export, other_size
from ...files import whole_file
from ..cfg_options import CfgOptions
from ..export import exportable, sidecar
from ..inference import load_model, read_image
from .common import blame, check_writable, load_config, one_line_errors, scope


@one_line_errors
def main() -> None:
    args = parse_args()
    out = Path(args.out)
    if out.suffix != FORMATS[args.format]:
        raise UserError(f'--out {out} must end in {FORMATS[args.format]} for --format {args.format}')
    check_writable(out.parent, '--out')
    cfg = load_config(args.config, args.cfg_options)
    picture = read_image(args.image) if args.image else None
    alone = 'backbone' not in cfg.model
    if picture is not None and alone:
        raise UserError('--image needs the config of a detector or segmentor, which says how images are normalised')
    with blame(f'config {args.config}: model'):
        model = load_backbone(cfg, args.checkpoint) if alone else load_model(cfg, args.checkpoint)
    size = tuple(args.size)
    try:
        network = Backbone(model.backbone) if args.backbone and not alone else exportable(model)
        description = dict(outputs=network.names, least_side=LEAST_SIDE) if alone else sidecar(model, network)
        image = None if picture is None else prepared(picture, other_size(size), description)
        print(f'exporting to {out}: about a minute for a small network, five for a large one', flush=True)
        done = export(network, out, args.format, size, image, progress=lambda text: print(f'  {text}', flush=True))
    except ExportError as error:
        raise UserError(f'config {args.config}: {error}') from error
    with whole_file(f'{out}.json') as part:
        part.write_text(json.dumps(description, indent=1) + '\n')
    beside = [f'{out}.json']
    if args.format == 'onnx' and not isinstance(network, Backbone):
        beside.append(str(shutil.copy(RUNNER, out.parent)))
    print(f'the same as the network: {"; ".join(done.agreement.notes)}')
    if '0 detections' in done.agreement.notes:
        print(
            'nothing was detected in the noise that was compared: --image PHOTO compares in a picture', file=sys.stderr
        )
    print(
        f'one image of {size[0]} x {size[1]} pixels takes {1000 * done.seconds:.0f} ms on this CPU, the network itself '
        f'{1000 * done.eager_seconds:.0f} ms'
    )
    print(f'{done.megabytes:.1f} MB ({100 * done.megabytes / megabytes(model):.0f} % of the weights in memory) in')
    print('\n'.join(f'  {file}' for file in [*map(str, done.files), *beside]))


def load_backbone(cfg: Config, checkpoint: str) -> nn.Module:
    """The backbone that is all of the config's model, with the weights of any checkpoint that has it."""
    with scope(cfg):
        model = MODELS.build(cfg.model)
    load_pretrained_backbone(model, checkpoint)
    return model.eval()


def prepared(picture: np.ndarray, size: tuple[int, int], description: dict) -> np.ndarray:
    """(H, W, 3) BGR -> two images (2, 3, H, W), the second one mirrored, as the network takes them."""
    resized = cv2.resize(picture, size[::-1]).astype(np.float32)
    if description['channel_order'] == 'RGB':
        resized = resized[..., ::-1]
    normalised = (resized - np.float32(description['mean'])) / np.float32(description['std'])
    return np.ascontiguousarray(np.stack([normalised, normalised[:, ::-1]]).transpose(0, 3, 1, 2))


def megabytes(model) -> float:
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s CONFIG CHECKPOINT --out FILE [options]',
    )
    parser.add_argument('config', help='a file, or the name of a config of this project')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', required=True, metavar='FILE', help='ends in .onnx, .pt2 or .xml (OpenVINO)')
    parser.add_argument('--format', choices=list(FORMATS), default='onnx', help='(default: %(default)s)')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=[512, 640],
        metavar=('H', 'W'),
        help='of the image that it is traced and timed with (default: 512 640)',
    )
    parser.add_argument('--image', metavar='PHOTO', help='compare file and network on this picture, not on noise')
    parser.add_argument(
        '--backbone', action='store_true', help='the backbone alone: its feature maps, stage0, stage1, ...'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='override the config')
    return parser.parse_args()
