"""How much memory there is, and how a CPU's is kept from one training step to the next."""

import ctypes
import math
import os
import platform
from pathlib import Path

# Parameters of glibc's mallopt.
_MEMINFO = Path('/proc/meminfo')
# Of a container (version 2 and 1 of Linux's control groups): folder, limit, use.
_CGROUPS = [
    (Path('/sys/fs/cgroup'), 'memory.max', 'memory.current'),
    (Path('/sys/fs/cgroup/memory'), 'memory.limit_in_bytes', 'memory.usage_in_bytes'),
]
_GPUS = '/dev/nvidiactl', '/dev/dxg', '/dev/kfd'  # NVIDIA's, under WSL, AMD's

M_ARENA_MAX, M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -4, -3, -1


def keep_freed_memory() -> None:
    """Makes the C library keep what is freed, where steps run on a CPU.

    XLA allocates each step's arrays anew there. Of pages fresh from the system a step of ResNet-18 at width 8
    takes 42,000, a fifth of its time. To be called before JAX starts its threads: they are to share one heap,
    since all others are given back to the system when they are empty.
    """
    _set(M_ARENA_MAX, 1)
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, -1)  # never
    _set(M_MMAP_THRESHOLD, 2**25)  # the largest there is, for return_large_blocks


def return_large_blocks(step_bytes: int) -> None:
    """Undoes that for blocks beyond 32 MiB where the one that a step takes is too large to be kept.

    Others come to lie where it was, so that the heap grows to two or three times its size.
    """
    if 4 * step_bytes > available_bytes():
        _set(M_MMAP_MAX, 2**16)


def available_bytes() -> float:
    """Returns the memory that is free in this machine, or to this container where that is less."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return math.inf  # not Linux
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))
    for folder, limit, used in _CGROUPS:
        try:
            statistics = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
            # What was read from files is given back when it is needed.
            held = int((folder / used).read_text()) - int(statistics['inactive_file'])
            free = min(free, int((folder / limit).read_text()) - held)
        except (OSError, KeyError, ValueError):
            pass  # no such group, or `max`: no limit
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or, as JAX says it, a device has too little memory."""
    # By its name, since importing JAX takes seconds. A full disk is RESOURCE_EXHAUSTED too, but a ValueError.
    of_device = type(error).__name__ == 'JaxRuntimeError' and 'RESOURCE_EXHAUSTED' in str(error)
    return of_device or isinstance(error, MemoryError)


def _set(parameter: int, value: int) -> None:
    on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or not any(Path(path).exists() for path in _GPUS)
    if on_cpu and platform.libc_ver()[0] == 'glibc':
        ctypes.CDLL(None).mallopt(parameter, value)
