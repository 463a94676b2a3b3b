"""How much memory there is, and how a CPU's is kept from one training step to the next."""

import contextlib
import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_MEMINFO = Path('/proc/meminfo')
# Control groups, by which containers and clusters limit memory: which ones this process is in, and by
# controller (version 2 has no names for it) their folder, the limit and the use.
_MY_CGROUPS = Path('/proc/self/cgroup')
_CGROUPS = {
    '': (Path('/sys/fs/cgroup'), 'memory.max', 'memory.current'),
    'memory': (Path('/sys/fs/cgroup/memory'), 'memory.limit_in_bytes', 'memory.usage_in_bytes'),
}
_NVIDIA = '/dev/nvidiactl', '/usr/lib/wsl/lib/libcuda.so.1'
_GPUS = *_NVIDIA, '/dev/dxg', '/dev/kfd'  # under WSL, AMD's

# Of XLA's allocator, of kernels that are loaded, and of cuDNN.
_SIGNS = 'RESOURCE_EXHAUSTED', 'CUDA_ERROR_OUT_OF_MEMORY', 'CUDNN_STATUS_ALLOC_FAILED'
_WAY_OUT = (
    'Take a smaller --config.batch_size, which --find_batch_size finds, '
    '--config.optimizer.accumulation_steps=2 or --config.dataset.loader=streaming'
)

_SMALLEST_HOLE = 2**13  # bytes; taking smaller ones too makes steps no faster
_taken: list[int] = []  # addresses of blocks
_SECONDS, _returned = 10.0, 0.0
_HUGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')
_HUGE = 'glibc.malloc.hugetlb=1'  # of version 2.35; older ones ignore it
# Parameters of glibc's mallopt.
M_ARENA_MAX, M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -4, -3, -1


def use_huge_pages() -> None:
    """Starts this program anew with a C library that asks the system for pages of 2 MiB, where it has not.

    For programs that train on a CPU, before anything else; does nothing where such pages are not to be had,
    or always are. A step of ResNet-18 at width 64 takes 5 GB of fresh pages at a batch of 512, where they are
    too large to be kept: of 4 KiB each they cost a quarter of its time.
    """
    tunables = os.environ.get('GLIBC_TUNABLES', '')
    if _libc() is None or sys.gettrace() or _HUGE in tunables:
        return
    with contextlib.suppress(OSError):  # not Linux, or without
        if '[madvise]' in _HUGE_PAGES.read_text():  # where they go to who asks for them
            os.environ['GLIBC_TUNABLES'] = f'{tunables}:{_HUGE}'.strip(':')
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


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

    Others come to lie where it was, so that the heap grows to a few times its size.
    """
    if 8 * step_bytes > available_bytes():
        _set(M_MMAP_MAX, 2**16)


def return_freed_memory() -> None:
    """Gives the pages that nothing uses now back to the system, at most every ten seconds.

    To be called between steps: the heap grows where blocks that were kept have been split.
    """
    global _returned
    if time.monotonic() - _returned > _SECONDS and (libc := _libc()) is not None:
        libc.malloc_trim(ctypes.c_size_t(0))
        _returned = time.monotonic()


def take_holes() -> None:
    """Takes the holes that compiling left in the heap, so that the blocks of steps lie behind them.

    A step asks for thousands of blocks. After ResNet-18's compilation the C library searched 90,000 holes for
    them, while other threads waited for the heap: steps at width 16 took up to twice as long. The pages of
    what is taken are given back to the system first. What an earlier call took is let go.
    """
    if (libc := _libc()) is None:
        return
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    while _taken:
        libc.free(_taken.pop())
    libc.malloc_trim(ctypes.c_size_t(0))
    end, size = libc.sbrk(ctypes.c_ssize_t(0)), 2**25
    while size >= _SMALLEST_HOLE:
        block = libc.malloc(size)
        if block and block + size <= end:
            _taken.append(block)
        else:
            libc.free(block)
            size = size * 3 // 4


def available_bytes() -> float:
    """Returns the memory that is free in this machine, or to this container or job where that is less."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return math.inf  # not Linux
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))
    for folder, limit, used in _cgroups():
        try:
            statistics = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
            # What was read from files is given back when it is needed. (total_: version 1's name.)
            files = int(statistics.get('total_inactive_file', statistics['inactive_file']))
            free = min(free, int((folder / limit).read_text()) - int((folder / used).read_text()) + files)
        except (OSError, KeyError, ValueError):
            pass  # no such group, or `max`: no limit
    return free


def _cgroups() -> Iterator[tuple[Path, str, str]]:
    """Yields the control groups that hold this process, each of which may have a limit, and their files."""
    with contextlib.suppress(OSError):
        for line in _MY_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(':', 2)
            for controller in set(controllers.split(',')) & _CGROUPS.keys():
                root, limit, used = _CGROUPS[controller]
                mine = root / path.lstrip('/')
                yield from ((folder, limit, used) for folder in (mine, *mine.parents))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or, as JAX says it, a device has too little memory."""
    # By its name, since importing JAX takes seconds. A full disk is RESOURCE_EXHAUSTED too, but a ValueError.
    of_device = type(error).__name__ == 'JaxRuntimeError' and any(sign in str(error) for sign in _SIGNS)
    return of_device or isinstance(error, MemoryError)


def lack_of_memory(error: BaseException, way_out: str = _WAY_OUT) -> str:
    """Returns one line about an error of `is_out_of_memory`; the way out is that of training by default."""
    reason = str(error).strip().partition('\n')[0] or type(error).__name__
    return f'the memory does not suffice. {way_out} ({reason}).'


def has_nvidia_gpu() -> bool:
    """Whether there is a GPU, and it is not hidden from programs."""
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1')
    return not hidden and any(Path(path).exists() for path in _NVIDIA)


def _set(parameter: int, value: int) -> None:
    if (libc := _libc()) is not None:
        libc.mallopt(parameter, value)


def _libc() -> ctypes.CDLL | None:
    """Returns the GNU C library, where that is the one in use and steps run on a CPU."""
    on_cpu = (
        os.environ.get('JAX_PLATFORMS') == 'cpu'
        or find_spec('jax_plugins') is None  # where JAX's support for GPUs is installed
        or not any(Path(path).exists() for path in _GPUS)
    )
    return ctypes.CDLL(None) if on_cpu and platform.libc_ver()[0] == 'glibc' else None
