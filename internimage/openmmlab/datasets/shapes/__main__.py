"""`python -m internimage.openmmlab.datasets.shapes ROOT`: writes the generated data set."""

import argparse

from . import generate_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=generate_shapes.__doc__.split('\n')[0])
    parser.add_argument('root', help='folder to write; must not exist')
    parser.add_argument('--num-train', type=int, default=300, help='training images')
    parser.add_argument('--num-val', type=int, default=80, help='validation images')
    parser.add_argument('--size', type=int, nargs=2, default=(160, 128), metavar=('WIDTH', 'HEIGHT'), help='pixels')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        generate_shapes(**vars(args))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
