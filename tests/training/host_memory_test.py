import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Page faults of each call of a function that needs 64 MiB.
CALLS = """
import resource
from training.host_memory import keep_freed_memory
keep_freed_memory()
import jax
step = jax.jit(lambda x: (x.reshape(-1, 4) @ x.reshape(4, -1)) @ x.reshape(-1, 4))
x = jax.numpy.ones(4 * 4096)
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of the GNU C library')
def test_freed_memory_is_used_again():
    command, root = [sys.executable, '-c', CALLS], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    faults = list(map(int, done.stdout.split()))
    assert np.median(faults[40:]) < 1000 < faults[0], done.stderr
