"""Run an exported ONNX file on an image. Needs onnxruntime, numpy and Pillow alone.

    python run_onnx.py model.onnx photo.jpg [drawn.png]

prints the detections, in pixels of the photo, or the share of each class of a segmentor. The third file gets the photo
with the boxes, or the label map: class indices, shown in colours by a palette.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


def main(model: str, photo: str, drawn: str | None = None, least_score: float = 0.3) -> None:
    with open(f'{model}.json') as file:
        about = json.load(file)
    picture = ImageOps.exif_transpose(Image.open(photo)).convert('RGB')
    width, height = picture.size
    long, short = max(about['resize']), min(about['resize'])
    scale = min(long / max(width, height), short / min(width, height))
    size = [int(side * scale + 0.5) for side in (width, height)] if about['keep_ratio'] else about['resize']
    pixels = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)
    pixels = pixels[..., ::-1] if about['channel_order'] == 'BGR' else pixels
    pixels = (pixels - np.float32(about['mean'])) / np.float32(about['std'])
    below, right = (-side % about['size_divisor'] for side in pixels.shape[:2])
    image = np.pad(pixels, ((0, below), (0, right), (0, 0))).transpose(2, 0, 1)[None]

    session = onnxruntime.InferenceSession(model)  # providers=['CUDAExecutionProvider'] on a GPU
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {'image': np.ascontiguousarray(image)}), strict=True))

    if 'label_map' in found:
        labels = found['label_map'][0, : size[1], : size[0]]
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            print(f'{about["classes"][label]}: {count / labels.size:.1%}')
        picture = Image.fromarray(labels.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        picture.putpalette([0, 0, 0, *np.random.default_rng(0).integers(40, 256, 255 * 3).tolist()])
    else:
        draw = ImageDraw.Draw(picture)
        for box, score, label in zip(*(found[name][0] for name in ('boxes', 'scores', 'labels')), strict=True):
            if score > least_score:  # masks, where there are any: found['masks'][0], of the resized image
                x1, y1, x2, y2 = (box / np.tile([size[0] / width, size[1] / height], 2)).tolist()
                print(f'{about["classes"][label]} {score:.3f}: {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}')
                draw.rectangle((x1, y1, x2, y2), outline='red', width=2)
    if drawn:
        picture.save(drawn)


if __name__ == '__main__':
    main(*sys.argv[1:])
