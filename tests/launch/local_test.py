import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(*arguments, processes=2, separator=('--',), **options):
    command = [sys.executable, '-m', 'launch.local', f'--processes={processes}', *options.pop('before', ())]
    return subprocess.Popen(
        [*command, *separator, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.fixture
def program(tmp_path):
    """Writes a program whose `index` is its number among the processes, and returns its path."""

    def write(text):
        path = tmp_path / 'program.py'
        path.write_text(
            f'import os, signal, sys, threading, time\nindex = int(sys.argv[-1].split("=")[1])\n{text}'
        )
        return path

    return write


def test_two_processes_compute_together_and_the_death_of_one_ends_the_other(tmp_path):
    environ = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    process = start(
        ROOT / 'tests/launch/together.py', tmp_path, before=('--devices_per_process=2',), env=environ
    )
    try:
        agreed, started = any('all agree' in line for line in process.stdout), time.monotonic()
        errors = process.communicate(timeout=120)[1]
    finally:
        process.terminate()  # and so those that it started
    assert agreed, errors
    assert 'error: process 1 (' in errors
    assert 'ended unexpectedly; run the same command again to continue' in errors
    assert process.returncode == 137
    assert time.monotonic() - started < 20  # s; a second or two on an idle machine


def test_sigterm_to_a_process_that_waits_for_another_ends_both(program):
    process = start(
        program(f"""
sys.path.insert(0, {str(ROOT)!r})
from training.processes import find_launch, in_turn, joined

with joined(find_launch(sys.argv[1].split('=')[1], 2, index, {{}})):
    if index:
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    in_turn(lambda: index or time.sleep(60))
""")
    )
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert errors.count('stopped by SIGTERM; nothing new was there to save') == 1


def test_process_0_is_shown_and_the_errors_of_others_have_their_number(program):
    process = start(program('print("out", index); print("err", index, file=sys.stderr)'))
    output, errors = process.communicate(timeout=20)
    assert output == 'out 0\n'
    assert sorted(errors.splitlines()) == ['[1] err 1', 'err 0']
    assert process.returncode == 0


def test_the_exit_code_is_that_of_the_first_that_failed(program, tmp_path):
    text = f"""
failed = {str(tmp_path / 'failed')!r}
if index == 2:
    open(failed, 'w')
    sys.exit(7)
while not os.path.exists(failed):
    time.sleep(0.01)
time.sleep(1)
sys.exit(1)
"""
    process = start(program(text), processes=3, separator=())
    process.communicate(timeout=60)
    assert process.returncode == 7


def test_too_few_gpus_are_said_before_anything_starts(program):
    environ = {**os.environ, 'JAX_PLATFORMS': '', 'CUDA_VISIBLE_DEVICES': '0,3'}
    process = start(program(''), processes=3, env=environ)
    assert '3 GPUs are needed and 2 there; JAX_PLATFORMS=cpu simulates' in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_a_signal_reaches_all(program, tmp_path):
    heard = 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"stopped {index}"))'
    # Closed by itself a file would swallow the signal's exception where that comes just then.
    ready = f'open({str(tmp_path)!r} + f"/ready {{index}}", "w").close()'
    process = start(program(f'{heard}\n{ready}\ntime.sleep(60)'))
    while len(list(tmp_path.glob('ready *'))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert '[1] stopped 1\n' in errors  # in a write of its own
    assert 'stopped 0' in errors


@pytest.mark.parametrize('script', sorted((ROOT / 'launch').glob('*.sh')), ids=lambda path: path.name)
def test_launch_scripts_are_sound(script):
    checker = ['shellcheck'] if shutil.which('shellcheck') else ['bash', '-n']
    checked = subprocess.run([*checker, script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_jobset_is_consistent():
    yaml = pytest.importorskip('yaml')
    spec = yaml.safe_load((ROOT / 'launch/jobset.yaml').read_text())
    name, (group,) = spec['metadata']['name'], spec['spec']['replicatedJobs']
    job = group['template']['spec']
    arguments = job['template']['spec']['containers'][0]['args']
    assert (job['completionMode'], job['parallelism']) == ('Indexed', job['completions'])
    assert f'--process_count={job["completions"]}' in arguments
    assert f'--coordinator={name}-{group["name"]}-0-0.{name}:8476' in arguments
