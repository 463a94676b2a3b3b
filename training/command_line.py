"""What train.py and evaluate.py share: flags, errors without tracebacks, and JAX's settings."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import absl.logging
from absl import flags

from configs import default
from training import ConfigError
from training.host_memory import is_out_of_memory, keep_freed_memory, lack_of_memory
from training.keys import flatten, not_a_key
from training.watch import USER_ERRORS

_TYPES = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    str: 'text',
    tuple: 'whole numbers, such as 30,60',
}


def parse_flags(argv: list[str]) -> list[str]:
    """Parses like absl, but answers a mistyped config key with the nearest one, and knows `--flag=~/…`."""
    argv = [re.sub('(?<==)~.*', lambda path: os.path.expanduser(path[0]), argument) for argument in argv]
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # of --help, which absl ends with code 1
        sys.exit(0)
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to be written
        sys.exit(0)
    except flags.Error as error:
        sys.exit(f'error: {_explain_flag(str(error))}')
    except (AttributeError, ImportError, LookupError, OSError, SyntaxError, TypeError, ValueError) as error:
        with explained():
            raise ConfigError(_explain_flags(argv, error)) from error


def define_process_flags() -> Callable[[], contextlib.AbstractContextManager]:
    """Defines what joins several processes; returns `joined()`, within which they are one run.

    Under srun, mpirun and Kubernetes (with the package kubernetes) the flags are not needed.
    """
    coordinator = flags.DEFINE_string(
        'coordinator', None, 'HOST:PORT where process 0 listens for the others.'
    )
    count = flags.DEFINE_integer('process_count', None, 'Number of processes; 1: alone whatever launched it.')
    index = flags.DEFINE_integer('process_id', None, 'Which of them this one is, from 0.')

    def joined():
        from training import processes

        launch = processes.find_launch(coordinator.value, count.value, index.value, os.environ)
        return processes.joined(launch)

    return joined


def _explain_flag(message: str) -> str:
    declared = flatten(default.get_config())
    if match := re.match(r'flag --config\.([\w.]+)=(.*?): ', message):
        key, value = match.groups()
        if key in declared:
            return f'config.{key}={value}: must be {_TYPES[type(declared[key])]}'
        if inside := [name for name in declared if name.startswith(f'{key}.')]:
            return f'config.{key} is a group of keys, such as config.{inside[0]}={declared[inside[0]]}'
    if message.startswith('flag --config=None'):
        return '--config=FILE is missing, such as --config=configs/quickstart.py'
    if message.startswith('flag --workdir=None'):
        return "--workdir=DIR is missing: the run's folder, such as --workdir=runs/quickstart"
    if match := re.match(r'flag --config=(.*?): Error whilst parsing', message):
        lines = [line.strip() for line in message.strip().splitlines()]
        places = [line for line in lines if line.startswith(f'File "{match[1]}"')]
        return f'--config={match[1]}: {lines[-1]}' + (f' ({places[-1]})' if places else '')
    if 'Unknown command' in message and 'config' in flags.FLAGS:
        message += '. Keys of the config look like --config.epochs=5'
    return message


def _explain_flags(argv: list[str], error: Exception) -> str:
    declared = flatten(default.get_config())
    for argument in argv:
        match = re.match(r'--?(?:no)?config\.([\w.]+)', argument)
        if match and match[1] not in declared:
            return not_a_key(match[1])
    file = next((argument.partition('=')[2] for argument in argv if argument.startswith('--config=')), '')
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(file)]
    place = f'--config={file}, line {lines[-1]}' if file and lines else 'the config or its overrides'
    while isinstance(error, AttributeError | KeyError) and error.args:  # one within the other, as a repr
        error = error.args[0]
    return f'{place} cannot be read: {" ".join(str(error).split())}'


@contextlib.contextmanager
def explained(
    lack_of_memory: Callable[[Exception], str] = lack_of_memory, translate: Callable[[str], str] = str
) -> Iterator[None]:
    """Turns the errors that a user can mend into one sentence on stderr and a non-zero exit code.

    Args:
      lack_of_memory: gives the sentence where the memory does not suffice.
      translate: gives the sentence as this program's flags have it, from train.py's.
    """
    sys.unraisablehook = _repeat_interrupt
    try:
        yield
    except USER_ERRORS as error:
        sys.exit(f'error: {translate(str(error))}')
    except Exception as error:
        if is_out_of_memory(error):
            sys.exit(f'error: {lack_of_memory(error)}')
        if 'DNN library initialization failed' in str(error):
            sys.exit(
                'error: cuDNN cannot start on the GPU. Mostly another program has its memory (nvidia-smi '
                'says which): end that, or start both with XLA_PYTHON_CLIENT_PREALLOCATE=false. Or a PyTorch '
                'in the same environment has brought another version: README.md says what to install.'
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f'error: {error}: make room there, and run the same command again.')
        raise
    except KeyboardInterrupt:
        print('stopped; nothing new was there to save', file=sys.stderr)
        sys.exit(130)


def _repeat_interrupt(unraisable) -> None:
    """Sends a Ctrl-C again that fell into a callback of the garbage collector, where Python forgets it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def prepare_jax() -> None:
    """Quiets its libraries, keeps freed memory, and turns on the compilation cache.

    JAX_COMPILATION_CACHE_DIR may move that.
    """
    import jax

    keep_freed_memory()
    # Orbax says a page per checkpoint, and what it says of an error it raises too.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    logging.getLogger('jax._src.xla_bridge').setLevel(logging.WARNING)  # why a GPU cannot be used
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        root = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
        jax.config.update('jax_compilation_cache_dir', str(root / 'jax-classifiers' / 'compilation'))
