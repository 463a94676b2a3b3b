"""Starts a program several times on this machine, as the processes of one run; like torchrun.

  python -m launch.local --processes=4 [--devices_per_process=2] -- train.py --config=configs/resnet18.py

Each process gets the next --devices_per_process GPUs; where there is no GPU, as many simulated CPU devices.
One process for all GPUs is as fast and needs no launcher: this is to try out on one machine what will run on
many, or to give every GPU a Python process of its own. The program must take --coordinator, --process_count
and --process_id, as train.py and evaluate.py do.

Shows what process 0 prints, and the error output of the others with their number before it. Signals go to
all. Once a process has failed the others end within seconds; the exit code is that of the first.
"""

import argparse
import contextlib
import ctypes
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time

PATIENCE = 20  # s for the others to end once one has failed; then they are killed
PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--processes', type=int, required=True, help='how many')
    parser.add_argument('--devices_per_process', type=int, default=1, help='GPUs, or simulated CPU devices')
    parser.add_argument(
        'command', nargs=argparse.REMAINDER, metavar='-- program', help='Python file and its arguments'
    )
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ['--'] else arguments.command
    if not command:
        parser.error('there is no program to start, such as: -- train.py --config=configs/resnet18.py')
    if min(arguments.processes, arguments.devices_per_process) < 1:
        parser.error('--processes and --devices_per_process must be at least 1')
    needed, gpus = arguments.processes * arguments.devices_per_process, _count_gpus()
    if 0 < gpus < needed:
        parser.error(f'{needed} GPUs are needed and {gpus} there; JAX_PLATFORMS=cpu simulates devices')
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]  # free now; process 0 will listen there
    return run(command, arguments.processes, arguments.devices_per_process, port)


def _count_gpus() -> int:
    if os.environ.get('JAX_PLATFORMS', '').startswith('cpu'):
        return 0
    if (visible := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return len([gpu for gpu in visible.split(',') if gpu not in ('', '-1')])
    try:
        listed = subprocess.run(['nvidia-smi', '--list-gpus'], capture_output=True, text=True).stdout
    except OSError:
        return 0
    return sum(line.startswith('GPU ') for line in listed.splitlines())


def run(command: list[str], count: int, devices: int, port: int) -> int:
    """Runs the processes to their end and returns the exit code of the first that failed, or 0."""
    processes = [_start(command, index, count, devices, port) for index in range(count)]

    def forward(signum, _frame):
        for process in processes:
            process.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, forward)
    readers = [
        threading.Thread(target=_show, args=(process, index))
        for index, process in enumerate(processes)
        if index
    ]
    for reader in readers:
        reader.start()
    code = _wait(processes)
    for reader in readers:
        reader.join()
    return code


def _start(command: list[str], index: int, count: int, devices: int, port: int) -> subprocess.Popen:
    own = range(index * devices, (index + 1) * devices)
    environ = {
        **os.environ,
        'JAX_LOCAL_DEVICE_IDS': ','.join(map(str, own)),
        'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}',
    }
    joining = f'--coordinator=127.0.0.1:{port}', f'--process_count={count}', f'--process_id={index}'
    return subprocess.Popen(
        [sys.executable, *command, *joining],
        env=environ,
        stdout=subprocess.DEVNULL if index else None,
        stderr=subprocess.PIPE if index else None,
        start_new_session=True,  # Ctrl-C must come once, from here
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    with contextlib.suppress(AttributeError, OSError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _show(process: subprocess.Popen, index: int) -> None:
    for line in process.stderr:
        sys.stderr.write(f'[{index}] {line.decode(errors="replace")}')


def _wait(processes: list[subprocess.Popen]) -> int:
    code, deadline = 0, math.inf
    while True:
        codes = [process.poll() for process in processes]
        failed = [one for one in codes if one]
        if failed and not code:
            # Of several at once a death by a signal, which is negative, ended the others.
            code, deadline = min(failed), time.monotonic() + PATIENCE
        if None not in codes:
            break
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    return 128 - code if code < 0 else code


if __name__ == '__main__':
    sys.exit(main())
