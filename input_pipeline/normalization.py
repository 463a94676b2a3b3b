"""What pixels are normalised with: (pixel / 255 - mean) / std, per channel."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from input_pipeline import decoding
from input_pipeline.encoded import EncodedImages
from input_pipeline.progress import track
from input_pipeline.sources import Dataset
from input_pipeline.writing import written

_CHUNK_BYTES = 2**22  # of images that are counted at once; NumPy takes eight times as many for it

# Mean and std per channel of the training images on the scale 0 to 1, as PyTorch projects use them (the
# std of cifar10 there is the mean of each image's own; over all pixels it is .247, .243, .262).
CONSTANTS = {
    'cifar10': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    'cifar100': ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    'mnist': ((0.1307,), (0.3081,)),
    'fashion_mnist': ((0.2860,), (0.3530,)),
    'svhn_cropped': ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


def constants(
    normalization: str, dataset: Dataset, train_split: str = 'train'
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std, each float32[channels], on the scale 0 to 1.

    Args:
        normalization: config.dataset.normalization. dataset: known constants of the dataset, else those of
            its whole train split, computed once and stored beside its cached images; half: .5 and .5;
            none: 0 and 1.
        dataset: with its train split loaded where its constants are not known.
        train_split: which split that is.
    """
    channels = dataset.image_shape[-1]
    match normalization:
        case _ if dataset.constants is not None:
            mean, std = dataset.constants
        case 'none':
            mean, std = (0.0,) * channels, (1.0,) * channels
        case 'half':
            mean, std = (0.5,) * channels, (0.5,) * channels
        case 'dataset':
            mean, std = CONSTANTS.get(dataset.name) or _stored_constants(dataset.splits[train_split].images)
    return np.asarray(mean, np.float32), np.asarray(std, np.float32)


def _stored_constants(images: np.ndarray | EncodedImages) -> tuple[list[float], list[float]]:
    """Computes them, or reads what an earlier run stored for the same file of images."""
    if not isinstance(images, np.memmap | EncodedImages):
        return _channel_constants(images)
    source = Path(images.filename)
    stored = source.with_suffix('.constants.json')
    state = source.stat().st_mtime_ns if source.exists() else None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: compute
        content = json.loads(stored.read_text())
        if content['images'] == state:
            return content['mean'], content['std']
    mean, std = _channel_constants(images)
    # A read-only cache only costs the next run this computation.
    with contextlib.suppress(OSError), written(stored) as file:
        file.write_text(json.dumps({'images': state, 'mean': mean, 'std': std}))
    return mean, std


def _channel_constants(images: np.ndarray | EncodedImages) -> tuple[list[float], list[float]]:
    """Mean and std of each channel over uint8[n, height, width, channels], from exact integer sums."""
    values = np.arange(256, dtype=np.int64)
    means, stds = [], []
    chunk = max(1, _CHUNK_BYTES * len(images) // images.nbytes)

    def count(start):
        block = images[start : start + chunk]
        return np.stack(
            [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(block, -1, 0)]
        )

    starts = range(0, len(images), chunk)
    with ThreadPoolExecutor(min(decoding.core_count(), decoding.MAX_PROCESSES)) as pool:
        histograms = pool.map(count, starts)
        if isinstance(images, EncodedImages):
            title = f'Computing the mean and deviation of {len(images):,} images (only this once)'
            histograms = track(histograms, len(starts), title, size=lambda _: 1)
        total = sum(histograms)
    for histogram in total:
        mean = (histogram @ values) / histogram.sum()
        variance = (histogram @ (values - mean) ** 2) / histogram.sum()
        means.append(float(mean / 255))
        stds.append(float(np.sqrt(variance) / 255) or 1.0)  # a constant channel stays as it is
    return means, stds
