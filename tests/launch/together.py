"""One of two processes (launch.local): they compute, save and restore together, then process 1 is killed."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from training import parallel
from training.checkpoints import Checkpoints
from training.parallel import Execution
from training.processes import find_launch, in_turn, joined


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--coordinator')
    for name in ('process_count', 'process_id'):
        parser.add_argument(f'--{name}', type=int)
    arguments = parser.parse_args()
    index = arguments.process_id
    with joined(find_launch(arguments.coordinator, arguments.process_count, index, {})):
        for parallel in ('jit', 'pmap'):
            compute(Execution(parallel), arguments.folder / parallel, index)
        seen = in_turn(lambda: (arguments.folder / 'first').exists() or (arguments.folder / 'first').touch())
        assert bool(seen) == bool(index)
        print('all agree', flush=True)
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def compute(execution, folder, index):
    assert (execution.process_count, execution.device_count, execution.is_main) == (2, 4, index == 0)
    np.testing.assert_array_equal(np.asarray(execution.maximum([index, 5 - index])), [1, 5])
    order = execution.place_order(np.arange(8, dtype=np.int32)[None, ::-1])
    factor = execution.replicate({'factor': np.float32(2)})
    predict = execution.compile_predict(lambda variables, batch: batch['image'] * variables['factor'])
    for parallel.REPLICATED_SHARE in (0.0, 1.0):  # in parts, and as copies
        data = execution.place_data({'image': np.arange(10, dtype=np.uint8)})
        products = execution.fetch(predict(factor, data, order, 0))
        np.testing.assert_array_equal(products, np.arange(14, -1, -2))
    checkpoints = Checkpoints(folder)
    checkpoints.save('last', 3, execution.unreplicate(factor), {'parallel': execution.axis_name})
    checkpoints.close()
    restored = checkpoints.restore('last', 3, {'factor': np.float32(0)})
    assert execution.fetch(execution.replicate(restored)) == {'factor': 2}


if __name__ == '__main__':
    main()
