"""Images per second of the streaming loader beside PyTorch's DataLoader with torchvision.

Command: python benchmarks/input.py [--workers=2] [--images=4000] [--stored=112] [--rounds=5] …

Both read the same JPEGs, ours as array_record, theirs as files, in the same batches of the same size, with as
many worker processes, and take turns, so that other load hits both alike. `batches` are decoded, resized and
put together; `augmented` ones have had all that configs/resnet18_faces_original.py augments and normalises:
theirs in the workers, ours compiled, on the cores that the workers use too (or on the GPU where there is
one). Without PyTorch only ours is measured.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs import resnet18_faces_original
from input_pipeline import decoding
from input_pipeline.augment import create_augmentation
from input_pipeline.encoded import EncodedImages
from input_pipeline.sources import Split
from input_pipeline.streaming import Streaming
from training.steps import augment_batch

SIDE = 112
EPOCHS = 10**6  # more than are ever read


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--workers', type=int, default=decoding.core_count(), help='processes, of each side')
    parser.add_argument('--images', type=int, default=4000, help='how many JPEGs to make')
    parser.add_argument('--stored', type=int, default=SIDE, help=f'their side; they are resized to {SIDE}')
    parser.add_argument('--batch_size', type=int, default=128)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=4.0, help='of each round')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = write_images(folder, arguments.images, arguments.stored)
        streams = [our_batches(shard, arguments) for _ in range(2)]
        augmented = map(augmentation(arguments.batch_size), streams[1])
        feeds = {'ours, batches': streams[0], 'ours, augmented': augmented}
        for name in list(feeds):
            measure(feeds[name], arguments)
            print(f'{name}: {memory_report()}', flush=True)
        try:
            feeds['PyTorch, batches'] = torch_batches(folder, arguments, augmented=False)
            feeds['PyTorch, augmented'] = torch_batches(folder, arguments, augmented=True)
        except ImportError as error:
            print(f'Only ours: {error}.')
        rates = {name: [] for name in feeds}
        for _ in range(arguments.rounds):
            for name, batches in feeds.items():
                rates[name].append(measure(batches, arguments))
        medians = {name: float(np.median(values)) for name, values in rates.items()}
        for name, values in rates.items():
            print(f'{name:<20}{medians[name]:9,.0f} images/s  ({min(values):,.0f} to {max(values):,.0f})')
        for what in ('batches', 'augmented'):
            if f'PyTorch, {what}' in medians:
                print(f'{what}: {medians[f"ours, {what}"] / medians[f"PyTorch, {what}"]:.2f} times PyTorch')
        for stream in streams:
            stream.close()


def measure(batches: Iterator, arguments) -> float:
    """Returns images per second, after what was read ahead while others had their turn."""
    for _ in range(6 * max(1, arguments.workers)):
        next(batches)
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < arguments.seconds:
        next(batches)
        count += arguments.batch_size
    return count / seconds


def write_images(folder: Path, count: int, side: int) -> list[tuple[Path, int]]:
    """Writes smooth random JPEGs, each of some 4 KB, to `folder/class/*.jpg` and into one shard."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    rng = np.random.default_rng(0)
    (folder / 'class').mkdir()
    path = folder / 'images.array_record'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, 'JPEG', quality=90)
        (folder / 'class' / f'{index:06}.jpg').write_bytes(buffer.getvalue())
        example = tf_example_pb2.Example()
        example.features.feature['image'].bytes_list.value.append(buffer.getvalue())
        writer.write(example.SerializeToString())
    writer.close()
    return [(path, count)]


def our_batches(shards: list[tuple[Path, int]], arguments) -> Iterator:
    """Yields batches of the streaming loader."""
    images = EncodedImages(shards, (SIDE, SIDE, 3), shards[0][0], resize=True)
    split = Split(images, np.zeros(arguments.images, np.int32), np.arange(arguments.images).astype(str))
    return Streaming(split, workers=arguments.workers).training_batches(
        arguments.batch_size, seed=0, epochs=EPOCHS, drop_last=True, start=0
    )


def augmentation(batch_size: int) -> Callable:
    """Returns what makes a batch float32 on the device, augmented and normalised."""
    before, after = create_augmentation(resnet18_faces_original.get_config().augmentation)
    step = jax.jit(
        partial(
            augment_batch,
            seed=0,
            augment=before,
            normalize=lambda images: (images - 0.5) / 0.5,
            augment_normalized=after,
        )
    )
    position = np.arange(batch_size, dtype=np.int32)
    return lambda batch: jax.block_until_ready(step({**batch, 'position': position}, 0))


def torch_batches(folder: Path, arguments, *, augmented: bool) -> Iterator:
    """Yields batches of PyTorch's DataLoader: uint8, or float32, augmented and normalised."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    resize = [transforms.Resize(SIDE), transforms.CenterCrop(SIDE)]
    if augmented:
        transform = transforms.Compose(
            [
                *resize,
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.2, 0.3, 0.3, 0.1),
                transforms.RandomRotation(5),
                transforms.RandomPerspective(0.5, 0.5),
                transforms.GaussianBlur(3, (0.1, 2.0)),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )
    else:
        transform = transforms.Compose([*resize, transforms.PILToTensor()])
    loader = DataLoader(
        datasets.ImageFolder(folder, transform),
        arguments.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        drop_last=True,
        persistent_workers=arguments.workers > 0,
        multiprocessing_context='spawn' if arguments.workers else None,  # a fork would copy JAX's locks
    )

    def forever():
        while True:
            yield from loader

    return forever()


def memory_report() -> str:
    """Returns the memory of this process and of the workers that live now, shared pages counted once."""
    own, workers = proportional_bytes('self'), []
    for path in Path('/proc/self/task').glob('*/children'):
        workers += [proportional_bytes(pid) for pid in path.read_text().split()]
    return f'{own / 2**20:,.0f} MiB, workers {sum(workers) / 2**20:,.0f} MiB'


def proportional_bytes(pid: str) -> int:
    try:
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    except OSError:
        return 0
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('Pss:'))


if __name__ == '__main__':
    main()
