import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from absl import logging
from absl.testing import flagsaver

import evaluate
from training import ConfigError, command_line
from training.checkpoints import Checkpoints
from training.command_line import explained
from training.keys import flatten
from training.run import run

ROOT = Path(__file__).parents[2]
# train.py on one of the devices, with nothing that takes long: ResNets of a single block, no plots.
SMALL = """
import jax, runpy, sys
from functools import partial
from jax_models import registry
from training import plots
plots.save = lambda figure, path: path
devices = jax.devices()[:1]
jax.devices = lambda: devices
registry.MODELS['resnet18'] = partial(registry.MODELS['resnet18'], stage_sizes=(1,))
sys.argv[0] = 'train.py'
runpy.run_path('train.py', run_name='__main__')
"""


@pytest.mark.parametrize(
    ('arguments', 'answer'),
    [
        (['train.py', '--help'], 'python train.py --config=configs/resnet18.py'),
        (['train.py'], '--config=FILE is missing'),
        (['train.py', '--config=configs/resnet18.py', '--config.epocs=3'], 'the nearest is config.epochs'),
        (['train.py', '--config=configs/resnet18.py', '--config.epochs=few'], 'epochs=few: must be a whole'),
        (['train.py', '--config=configs/resnet18.py', '--config.ema=3'], 'config.ema is a group of keys'),
        (['train.py', '--config=configs/resnet.py'], 'no such file; there are configs/'),
        (['train.py', '--config=configs/resnet18.py', '--lr=0.1'], 'look like --config.epochs=5'),
        (['train.py', '--config=resnet18'], 'no such file; there are configs/'),
        (['train.py', '--config=configs/resnet18.py', 'epochs=3'], "unexpected argument 'epochs=3'"),
        (['evaluate.py', '--help'], 'python evaluate.py --workdir=DIR'),
        (['evaluate.py'], '--workdir=DIR is missing'),
        (['compare.py', '--help'], 'python compare.py runs/seed0'),
        (['evaluate.py', '--workdir=a', '--folder=b', '--split=c', '--pairs=d'], '--folder and --split'),
    ],
)
def test_help_and_mistakes_are_answered_without_importing_jax(arguments, answer):
    command = [sys.executable, '-X', 'importtime', *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    modules = {line.split('|')[-1].strip() for line in done.stderr.splitlines() if line.startswith('import')}
    said = done.stdout + '\n'.join(x for x in done.stderr.splitlines() if not x.startswith('import time'))
    assert answer in said
    assert 'Traceback' not in said
    assert (done.returncode == 0) == ('--help' in arguments)
    assert 'absl.app' in modules
    assert not modules & {'jax', 'flax', 'numpy', 'sklearn', 'matplotlib'}


def test_reader_of_the_help_may_leave():
    command = [sys.executable, 'train.py', '--help']
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()
        assert program.stderr.read() == b''
    assert program.returncode == 0


@pytest.mark.parametrize(
    ('arguments', 'answer'),
    [
        (['--pairs='], '--pairs= is empty'),
        (['--pairs=a', '--features=b'], '--features does not go with --pairs'),
        (['--pairs=a', '--dataset=b'], '--dataset does not go with --pairs'),
        (['--features=a', '--predictions=b'], '--predictions does not go with --features'),
        (['--noflip'], '--flip needs --pairs or --features'),
        (['--scores=a'], '--scores needs --pairs'),
        (['--distortions=a', '--split=b'], '--split does not go with --distortions'),
        (['--folder=a', '--dataset=b', '--predictions=c'], '--dataset does not go with --folder'),
        (['--folder=a', '--split=b', '--predictions=c'], '--folder and --split'),
        (['--folder=a'], None),
        (['--folder=a', '--predictions=b'], None),
        (['--distortions=a', '--predictions=b'], None),
        (['--pairs=a', '--split=b', '--scores=c', '--flip'], None),
        (['--dataset=a', '--predictions=b'], None),
    ],
)
def test_flags_that_would_be_ignored_are_refused(arguments, answer):
    evaluate.flags.FLAGS.unparse_flags()
    with flagsaver.flagsaver():
        evaluate.flags.FLAGS(['evaluate.py', '--workdir=w', *arguments])
        if answer is None:
            evaluate._check_flags()
        else:
            with pytest.raises(ConfigError, match=answer):
                evaluate._check_flags()


def test_evaluate_names_its_own_flags():
    assert evaluate._in_own_flags('choose --config.dataset.data_dir=DIR.') == 'choose --data_dir=DIR.'
    assert evaluate._in_own_flags('pass --config.epochs=5').endswith('are flags of train.py.)')
    command = [sys.executable, 'evaluate.py', '--workdir=a', '--config.epochs=5']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "error: Unknown command line flag 'config.epochs'\n"


@pytest.mark.parametrize(
    ('line', 'answer'),
    [
        ('config.epochs = "five"', 'TypeError: .*epochs.* line 4, in get_config'),
        ('config.epochs = (', 'was never closed .*line 4'),
        (
            'config.optimiser.momentum = 1',
            r'own\.py, line 4 cannot be read: .optimiser. Did you mean "optimizer"',
        ),
    ],
)
def test_mistake_in_a_config_file_is_answered_in_one_line(tmp_path, line, answer):
    text = f'from configs import default\ndef get_config():\n    config = default.get_config()\n    {line}\n'
    (tmp_path / 'own.py').write_text(text)
    command = [sys.executable, 'train.py', f'--config={tmp_path}/own.py']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(f'error: .*{answer}.*\n', done.stderr)


def test_compilations_are_kept_by_default(monkeypatch, tmp_path):
    before, verbosity = jax.config.jax_compilation_cache_dir, logging.get_verbosity()
    monkeypatch.setattr(command_line, 'keep_freed_memory', lambda: None)
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    try:
        command_line.prepare_jax()
        assert jax.config.jax_compilation_cache_dir == f'{tmp_path}/jax-classifiers/compilation'
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
        logging.set_verbosity(verbosity)


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (MemoryError(), 'MemoryError'),
        (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Cannot allocate 9 bytes.\nA page'), '9 bytes'),
        (jax.errors.JaxRuntimeError('INTERNAL: CUBIN: CUDA_ERROR_OUT_OF_MEMORY'), 'CUBIN'),
    ],
)
def test_lack_of_memory_is_explained(error, reason):
    with pytest.raises(SystemExit, match=f'memory .*batch_size.*{reason}') as stopped, explained():
        raise error
    assert '\n' not in stopped.value.code


def test_gpu_whose_libraries_do_not_start_is_explained():
    message = 'FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above.'
    with pytest.raises(SystemExit, match=r'another program has its memory.*PREALLOCATE=false'), explained():
        raise jax.errors.JaxRuntimeError(message)


def test_full_disk_is_explained():
    with pytest.raises(SystemExit, match=r"No space left.*'metrics\.jsonl': make room there"), explained():
        raise OSError(errno.ENOSPC, 'No space left on device', 'metrics.jsonl')


def test_ctrl_c_in_a_callback_of_the_garbage_collector_is_not_forgotten(monkeypatch):
    class Interrupting:
        def __del__(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'unraisablehook', None)  # set by `explained`

    def work():
        with explained():
            Interrupting()
            time.sleep(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(SystemExit) as stopped:
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130


def signalled_after_checkpoint(finished, workdir, signum):
    """Starts or continues the run of `finished` as a user does, and stops it once it has saved something.

    Returns exit code and stderr.
    """
    keys = flatten(json.loads((finished / 'config.json').read_text())) | {'checkpoint.every_steps': 2}
    overrides = [f'--config.{key}={value}' for key, value in keys.items()]
    command = [sys.executable, '-c', SMALL, '--config=configs/default.py', f'--workdir={workdir}', *overrides]
    settings = {'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir}
    before = last_steps(workdir)
    pipes = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, text=True, **pipes)
    while last_steps(workdir) <= before and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signum)
    return process.wait(120), process.stderr.read()


def last_steps(workdir):
    return Checkpoints(workdir / 'checkpoints').steps('last')


def test_terminated_and_killed_run_continues_as_if_nothing_happened(
    config, finished, tmp_path, assert_same_run
):
    workdir = tmp_path / 'finished'
    code, stderr = signalled_after_checkpoint(finished, workdir, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, stderr
    assert (
        'stopped by SIGTERM; saved. Continue with:\n  python train.py --config=configs/default.py' in stderr
    )
    code, stderr = signalled_after_checkpoint(finished, workdir, signal.SIGKILL)
    assert code == -signal.SIGKILL, stderr
    assert not (workdir / 'results.json').exists()
    run(config, workdir, jax.devices()[:1])
    assert_same_run(finished, workdir)
