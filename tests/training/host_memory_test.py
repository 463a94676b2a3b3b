import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training import host_memory

ROOT = Path(__file__).parents[2]
# Page faults of each call of a function that needs 64 MiB.
CALLS = """
import resource
from training.host_memory import keep_freed_memory, return_large_blocks
keep_freed_memory()
import jax
step = jax.jit(lambda x: (x.reshape(-1, 4) @ x.reshape(4, -1)) @ x.reshape(-1, 4))
x = jax.numpy.ones(4 * 4096)
for step_bytes in (2**60, 2**26):
    keep_freed_memory()
    return_large_blocks(step_bytes)
    for _ in range(60):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step(x).block_until_ready()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of the GNU C library')
def test_freed_memory_is_used_again_unless_it_is_too_large():
    done = subprocess.run([sys.executable, '-c', CALLS], cwd=ROOT, capture_output=True, text=True)
    faults = list(map(int, done.stdout.split()))
    assert len(faults) == 120, done.stderr
    returned, kept = faults[:60], faults[60:]
    assert kept[0] > 1000
    assert np.median(returned[40:]) > 1000 > np.median(kept[40:])


# MiB in use while 64 are held, after they are freed, and after they are returned.
FREED = """
from pathlib import Path
from training.host_memory import keep_freed_memory, return_freed_memory
def used():
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages >> 8
keep_freed_memory()
block = bytearray(b'x' * 2**26)
print(used())
del block
print(used())
return_freed_memory()
print(used())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of the GNU C library')
def test_freed_memory_can_be_returned():
    done = subprocess.run([sys.executable, '-c', FREED], cwd=ROOT, capture_output=True, text=True)
    held, freed, returned = map(int, done.stdout.split())
    assert freed > held - 8, done.stderr
    assert returned < held - 56


@pytest.mark.parametrize(
    ('system', 'expected'), [('always [madvise] never', 1), ('[always] madvise never', 0)]
)
def test_program_starts_anew_where_huge_pages_have_to_be_asked_for(tmp_path, system, expected):
    (tmp_path / 'enabled').write_text(system)
    script = f"""
import os, sys, pathlib
from training import host_memory
host_memory._HUGE_PAGES = pathlib.Path({str(tmp_path / 'enabled')!r})
host_memory._libc = lambda: 1
host_memory.use_huge_pages()
print(os.environ.get('GLIBC_TUNABLES'), sys.flags.optimize, *sys.argv)
"""
    environment = {**os.environ, 'GLIBC_TUNABLES': 'glibc.malloc.check=0'}
    done = subprocess.run(
        [sys.executable, '-O', '-c', script, 'a b'], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    tunables = 'glibc.malloc.check=0' + ':glibc.malloc.hugetlb=1' * expected
    assert done.stdout == f'{tunables} 1 -c a b\n', done.stderr


# How many blocks of 16,000 bytes come to lie among 200 holes of 20,000: without these taken, and with, twice.
HOLES = """
import ctypes
from training.host_memory import keep_freed_memory, take_holes
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(20_000) for _ in range(400)]
for block in blocks[::2]:
    libc.free(block)
inside = lambda: sum(blocks[0] <= libc.malloc(16_000) <= blocks[-1] for _ in range(10))
print(inside())
for _ in range(2):
    take_holes()
    print(inside())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of the GNU C library')
def test_blocks_lie_behind_holes_that_were_taken():
    done = subprocess.run([sys.executable, '-c', HOLES], cwd=ROOT, capture_output=True, text=True)
    before, *after = done.stdout.split()
    assert int(before) > 3, done.stderr  # Python has holes of its own, too
    assert after == ['0', '0']


@pytest.mark.parametrize('inside', [False, True])
@pytest.mark.parametrize(
    ('limit', 'free'), [('max', 8 * 2**30), ('5000000', 5000000 - 3000000), ('99999999999', 8 * 2**30)]
)
def test_memory_of_a_container_or_a_job_counts(tmp_path, monkeypatch, limit, free, inside):
    (tmp_path / 'job' / 'task').mkdir(parents=True)
    for name, text in {
        'meminfo': 'MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n',
        'cgroup': '1:cpu,cpuacct:/other\n0::/job/task\n',
        'memory.max': 'max\n',
        'job/memory.max' if inside else 'memory.max': f'{limit}\n',
        **{f'{group}memory.current': '4000000\n' for group in ('', 'job/')},
        **{f'{group}memory.stat': 'anon 3000000\ninactive_file 1000000\n' for group in ('', 'job/')},
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host_memory, '_MEMINFO', tmp_path / 'meminfo')
    monkeypatch.setattr(host_memory, '_MY_CGROUPS', tmp_path / 'cgroup')
    monkeypatch.setattr(host_memory, '_CGROUPS', {'': (tmp_path, 'memory.max', 'memory.current')})
    assert host_memory.available_bytes() == free
