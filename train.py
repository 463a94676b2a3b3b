"""Trains an image classifier.

  python train.py --config=configs/resnet18.py [--workdir=DIR] [--config.key=value …]
  python train.py --config=configs/resnet18.py --find_batch_size

Running the same command again continues an interrupted run. SIGTERM and Ctrl-C save first; configs/default.py
lists every key.
"""

import shlex
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from training import ConfigError, command_line
from training.host_memory import use_huge_pages

# Nothing heavy is imported here: --help and a mistyped flag are answered at once.

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File that describes the run, such as configs/resnet18.py.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run; by default runs/<name of the config file>.'
)
_FIND_BATCH_SIZE = flags.DEFINE_bool(
    'find_batch_size', False, 'Time growing batch sizes and recommend one, instead of training.'
)
_joined = command_line.define_process_flags()
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
    file = Path(config_flags.get_config_filename(flags.FLAGS['config']))
    with command_line.explained():
        if len(argv) > 1:
            raise ConfigError(f'unexpected argument {argv[1]!r}; overrides look like --config.epochs=5')
        if not file.is_file():
            folder = Path('configs') if file.parent == Path() else file.parent
            known = ', '.join(sorted(str(path) for path in folder.glob('[!_]*.py')))
            raise ConfigError(
                f'--config={file}: there is no such file' + (f'; there are {known}' if known else '')
            )
        command_line.prepare_jax()
        import jax

        from training.interruption import Interrupted

        try:
            with _joined() as is_main:
                _run(Path(_WORKDIR.value or f'runs/{file.stem}'))
        except Interrupted as interrupted:
            if is_main:
                several = jax.process_count() > 1  # what started them is not known here
                again = ' the same command' if several else f':\n  python {shlex.join(sys.argv)}'
                print(f'{interrupted}; saved. Continue with{again}', file=sys.stderr)
            sys.exit(interrupted.exit_code)


def _run(workdir: Path) -> None:
    if _FIND_BATCH_SIZE.value:
        from training.batch_size import find_batch_size

        find_batch_size(_CONFIG.value)
    else:
        from training.run import run

        run(_CONFIG.value, workdir)


if __name__ == '__main__':
    use_huge_pages()
    app.run(main, flags_parser=command_line.parse_flags)
