"""The commands: `internimage COMMAND ...`, or `python -m internimage COMMAND ...`; without one, `env`."""

import importlib
import sys

# command: (module that has its main(), what it does)
COMMANDS = {
    'env': ('internimage.environment', 'installed versions, whether they fit together, and what to do if not'),
    'new': ('internimage.openmmlab.cli.new', 'make a config and a report from a folder of your own data'),
    'browse': ('internimage.openmmlab.cli.browse', 'draw what the network will see: augmented images with annotations'),
    'train': ('internimage.openmmlab.cli.train', 'train a detector or segmentor'),
    'test': ('internimage.openmmlab.cli.test', 'evaluate a trained model'),
    'plot': ('internimage.openmmlab.cli.plot', 'plot losses and metrics of trainings'),
    'infer': ('internimage.openmmlab.cli.infer', 'run a trained model on images'),
    'export': (
        'internimage.openmmlab.cli.export',
        'write a trained model for other programs: ONNX, torch.export, OpenVINO',
    ),
    'serve': ('internimage.openmmlab.cli.serve', 'a web page for a trained model'),
    'convert': (
        'internimage.openmmlab.cli.convert',
        'convert a checkpoint to the names of this project, or back to the official ones',
    ),
    'analyze': ('internimage.openmmlab.cli.analyze', 'parameters, FLOPs and memory of a config'),
    'analyze-support': ('internimage.openmmlab.cli.analyze_support', 'show what a trained model looks at'),
    'draw-bins': ('internimage.openmmlab.cli.draw_bins', 'draw the bins of deformable RoI pooling'),
    'benchmark': ('internimage.benchmark', 'time operators, layers and networks against their peers'),
    'model-pages': ('internimage.openmmlab.cli.model_pages', 'write the model pages of the configs, in a checkout'),
    'demo': ('internimage.openmmlab.cli.demo', 'train, evaluate and run two small models on generated data'),
}
USAGE = 'usage: internimage COMMAND ...\n\n' + '\n'.join(f'  {name:<15} {text}' for name, (_, text) in COMMANDS.items())


def main(command: str | None = None) -> int | None:
    """Runs `command` (default: the first argument of the command line) with the arguments that follow.

    Returns:
        the exit code: 2 for an unknown command, else what the `main` of the command returns.
    """
    if command is None:
        command, *arguments = sys.argv[1:] or ['env']
    else:
        arguments = sys.argv[1:]
    if command in ('-h', '--help'):
        print(f'{USAGE}\n\n`internimage COMMAND --help` describes the arguments of a command.')
        return 0
    if command not in COMMANDS:
        print(f'error: no command {command!r}\n\n{USAGE}', file=sys.stderr)
        return 2
    sys.argv = [f'internimage {command}', *arguments]
    return importlib.import_module(COMMANDS[command][0]).main()


if __name__ == '__main__':
    sys.exit(main())
