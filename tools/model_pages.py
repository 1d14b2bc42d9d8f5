"""Write the model pages: configs/*/README.md, published results beside parameters and FLOPs counted here.

    python tools/model_pages.py

Run it after a config or configs/published_results.json has changed; a test fails where a page is not up to date.
"""

import argparse
from pathlib import Path

from _common import run

from internimage.analysis.model_pages import backbone_page, folders, model_page

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage='%(prog)s'
    ).parse_args()
    for folder in folders(CONFIGS):
        (folder / 'README.md').write_text(model_page(folder))
    (CONFIGS / '_base_' / 'backbones' / 'README.md').write_text(backbone_page(CONFIGS))


if __name__ == '__main__':
    run(main)
