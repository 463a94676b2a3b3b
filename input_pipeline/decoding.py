"""Decodes compressed images in several processes. Workers import this file, so it imports little."""

import contextlib
import io
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import simplejpeg
from PIL import Image

from input_pipeline.workers import follow_parent

# Fewer images, of fewer bytes, are decoded before another process has started.
_IMAGES_PER_PROCESS, _BYTES_PER_PROCESS = 5000, 2**24
MAX_PROCESSES = 16
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF')  # named, because trying all that Pillow knows takes longer
MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def core_count() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def process_count(images: int, encoded_bytes: int) -> int:
    """How many processes decode so many images fastest; 1 is this one, without any worker."""
    busy = max(images // _IMAGES_PER_PROCESS, encoded_bytes // _BYTES_PER_PROCESS)
    return max(1, min(core_count(), busy, MAX_PROCESSES))


class UndecodableImage(Exception):
    """Arguments: the image's position in its chunk, counted from 0, and why."""


def decode(encoded: list[bytes], shape: tuple[int, int, int], *, resize: bool = False) -> np.ndarray:
    """Returns uint8[n, *shape] from n PNG, JPEG, WebP, BMP or GIF files.

    With `resize`, images may have any size and `shape` is square: their short side becomes its side, then
    the square in the middle is cut out (torchvision's Resize, with antialias, and CenterCrop on PIL images).

    Raises:
        UndecodableImage: on the first that is damaged or, without `resize`, of another shape.
    """
    images = np.empty((len(encoded), *shape), np.uint8)
    for index, content in enumerate(encoded):
        try:
            pixels = _pixels(content, shape[-1])
            if resize:
                pixels = _resized(pixels, shape[0])
            if pixels.shape[:2] != shape[:2]:  # which a reshape would scramble
                raise ValueError(f'{pixels.shape[1]} x {pixels.shape[0]} pixels, not {shape[1]} x {shape[0]}')
            images[index] = pixels.reshape(shape)
        except Exception as error:  # Pillow raises many kinds, not all of which a worker can send back
            raise UndecodableImage(index, str(error)) from None
    return images


def _pixels(content: bytes, channels: int) -> np.ndarray:
    if channels == 3 and content.startswith(b'\xff\xd8'):
        # The pixels that Pillow gives, in half the time; it has the say on what this does not read (CMYK).
        with contextlib.suppress(ValueError):
            return simplejpeg.decode_jpeg(content, 'RGB')
    mode = MODES[channels]
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return np.asarray(image if image.mode == mode else image.convert(mode))


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if min(height, width) != side:
        short = min(height, width)
        height, width = (side if x == short else int(side * x / short) for x in (height, width))
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[top : top + side, left : left + side]


def decode_all(
    chunks: Iterable[tuple], shape: tuple[int, int, int], processes: int, *, resize: bool = False
) -> Iterator[tuple]:
    """Yields `(decode(encoded, …), *rest)` for each `(encoded, *rest)`, in order, few of them in memory.

    Raises:
        UndecodableImage: see `decode`.
        BrokenProcessPool: where a worker died, or could not start (in a script without a main guard).
    """
    if processes == 1:
        for encoded, *rest in chunks:
            yield decode(encoded, shape, resize=resize), *rest
        return
    # Not forked: JAX may run threads by now, whose locks a fork would copy.
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(processes, context, follow_parent)
    try:
        pending = deque()
        for encoded, *rest in chunks:
            pending.append((pool.submit(decode, encoded, shape, resize=resize), rest))
            if len(pending) > 2 * processes:
                future, rest = pending.popleft()
                yield future.result(), *rest
        for future, rest in pending:
            yield future.result(), *rest
    finally:
        pool.shutdown(cancel_futures=True)
