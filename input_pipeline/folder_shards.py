"""The shards that an image folder's dataset is written in, one by one or by several processes.

A shard's name tells what it must hold, and the file gets it when it is whole: a preparation that was killed
goes on with the shards it finished. Workers import this file, so it imports little.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from input_pipeline import conversion, folders
from input_pipeline.workers import follow_parent
from input_pipeline.writing import written

_IMAGES = 2000  # in a shard
_BYTES = 100e6


class Shard(NamedTuple):
    """Part of a split, to be written to the file `name`."""

    split: str
    name: str
    items: tuple[folders.Item, ...]


def deal(listing: folders.Listing) -> list[Shard]:
    """Deals the images of each split out to shards of about 2,000 or 100 MB.

    Where an image goes is a hash of its id: the same every time, a changed image changes its own shard only,
    and, as TFDS has it, a part of a split is a random sample of it.
    """
    return [
        shard
        for split, items in listing.splits.items()
        for shard in _deal_split(listing.folder, split, items)
    ]


def _deal_split(folder: Path, split: str, items: tuple[folders.Item, ...]) -> Iterator[Shard]:
    count = -int(-max(len(items) / _IMAGES, sum(item.size for item in items) / _BYTES) // 1)
    dealt: list[list] = [[] for _ in range(max(count, 1))]
    for item in items:
        key = hashlib.sha256(item.id.encode()).digest()
        dealt[int.from_bytes(key[:4]) % len(dealt)].append((key, item))
    for keyed in filter(None, dealt):
        members = tuple(item for _, item in sorted(keyed))
        key = hashlib.sha256(f'{folder} {folders.fingerprint(members)}'.encode()).hexdigest()[:16]
        yield Shard(split, f'{split}-{key}', members)


def finish(
    folder: Path, work: Path, shards: list[Shard], processes: int, reuse_bad: bool
) -> Iterator[tuple[Shard, dict]]:
    """Yields every shard and what `_write_shard` says of it, those of an earlier attempt first.

    Args:
        folder: of images.
        work: folder of the shards.
        shards: to be there at the end.
        processes: to write them with, at most.
        reuse_bad: take over shards with unreadable images too, rather than try these again.
    """
    waiting = {}
    for shard in shards:
        content = read_json(work / f'{shard.name}.json')
        there = content is not None and (work / f'{shard.name}.array_record').exists()
        if there and (reuse_bad or not content['unreadable']):
            yield shard, content
        else:
            waiting[shard.name] = shard
    if min(processes, len(waiting)) > 1:
        # Not forked: JAX may run threads by now, whose locks a fork would copy.
        context = multiprocessing.get_context('spawn')
        pool = ProcessPoolExecutor(min(processes, len(waiting)), context, follow_parent)
        try:
            futures = {pool.submit(_write_shard, folder, work, shard): shard for shard in waiting.values()}
            for future in as_completed(futures):
                content = future.result()
                yield waiting.pop(futures[future].name), content
        except BrokenProcessPool:  # they cannot start in a script without a main guard, or were killed
            pass
        finally:
            pool.shutdown(cancel_futures=True)
    for shard in waiting.values():
        yield shard, _write_shard(folder, work, shard)


def _write_shard(folder: Path, work: Path, shard: Shard) -> dict:
    """Writes a shard and, when it is whole, beside it as JSON what is returned: counts and digests."""
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    path = work / f'{shard.name}.array_record'
    unreadable, digests, size = [], {}, 0
    with written(path) as file:
        writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
        for item in shard.items:
            try:
                image, digests[item.id] = conversion.standardize((folder / item.id).read_bytes())
            except (OSError, conversion.UnreadableImage) as error:
                unreadable.append([item.id, getattr(error, 'strerror', None) or str(error)])
                continue
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature['image'].bytes_list.value.append(image)
            feature['label'].int64_list.value.append(item.label)
            feature['id'].bytes_list.value.append(item.id.encode())
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            size += len(record)
        writer.close()
    content = {'bytes': size, 'unreadable': unreadable, 'digests': digests}
    write_json(work / f'{shard.name}.json', content)
    return content


def read_json(path: Path) -> dict | None:
    """Returns what `write_json` wrote, None where there is nothing or it is damaged."""
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: dict) -> None:
    """Writes it at once or not at all."""
    with written(path) as file:
        file.write_text(json.dumps(content, ensure_ascii=False, indent=1), 'utf-8')
