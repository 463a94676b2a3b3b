"""Checkpoints with Orbax: one folder for each purpose (`last`, `best`, …), in each a folder per step.

A folder a purpose rather than one with a retention policy: mid-epoch checkpoints have no metric to be ranked
by, and all but `last` hold only what evaluation needs.
"""

import contextlib
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from training import CheckpointError

# Two of each: a best one that is saved before its `last` must not push out the one that `last` speaks of.
KEPT = dict.fromkeys(('last', 'best', 'best_verification'), 2)


class Checkpoints:
    """Reads and writes `directory/<name>/<step>/`. The last write goes on in the background until `close`."""

    def __init__(self, directory: Path, *, read_only: bool = False):
        """`read_only` keeps out of the way of a run that is writing there."""
        self.directory, self.read_only = directory.resolve(), read_only
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def steps(self, name: str) -> list[int]:
        """Returns the steps of which a finished checkpoint lies in the folder `name`, ascending."""
        folder = self.directory / name
        if not folder.is_dir():
            return []
        return sorted(
            int(path.name) for path in folder.iterdir() if path.name.isdecimal() and not _is_empty(path)
        )

    def save(self, name: str, step: int, tree: Any, metadata: dict) -> None:
        """Writes a pytree of arrays and a JSON object in the background, in place of any as new or newer.

        Raises:
          CheckpointError: this one or the one before cannot be written.
        """
        with self._finishing():  # in order: the `best` that `last` speaks of is there before it
            for other in self._managers.values():
                other.wait_until_finished()
        self.delete_from(name, step)
        arguments = ocp.args.Composite(
            arrays=ocp.args.StandardSave(_flatten(tree)), metadata=ocp.args.JsonSave(metadata)
        )
        with self._finishing():
            self._manager(name).save(step, args=arguments)

    def delete_from(self, name: str, step: int) -> None:
        """Deletes what the folder `name` has of this step and later ones."""
        if not (self.directory / name).is_dir():
            return
        manager = self._manager(name)
        # Orbax's list, which is the same in all processes; on disk they see each other's deletions.
        for stale in [s for s in manager.all_steps() if s >= step]:
            manager.delete(stale)

    def metadata(self, name: str, step: int) -> dict:
        """Returns the JSON object saved beside the arrays. Raises CheckpointError if it cannot be read."""
        with self._explained(name, step):
            args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
            return self._manager(name).restore(step, args=args)['metadata']

    def restore(self, name: str, step: int, template: Any) -> Any:
        """Returns the arrays as a tree like `template` (arrays or shapes).

        Raises:
          CheckpointError: the checkpoint is damaged or its arrays have other names, shapes or dtypes.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _flatten(template))
        manager = self._manager(name)
        with self._explained(name, step):
            # Read the stored shapes first: Orbax casts a wrong dtype silently.
            stored = manager.item_metadata(step)['arrays']
        found = {key: (tuple(x.shape), str(x.dtype)) for key, x in stored.items()}
        wanted = {key: (tuple(x.shape), str(x.dtype)) for key, x in shapes.items()}
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if different:
            key = different[0]
            raise CheckpointError(
                f'{self.directory / name / str(step)} was saved by another model or optimizer: '
                f'{len(different)} arrays differ, among them {key} (there {found.get(key)}, now '
                f'{wanted.get(key)}). '
                'Use the config it was trained with, or another --workdir.'
            )
        with self._explained(name, step):
            device = jax.config.jax_default_device or jax.local_devices()[0]
            sharding = jax.sharding.SingleDeviceSharding(device)
            target = jax.tree.map(lambda x: x.update(sharding=sharding), shapes)
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
            flat = manager.restore(step, args=args)['arrays']
        return jax.tree.unflatten(jax.tree.structure(template), [flat[key] for key in _flatten(template)])

    def close(self) -> None:
        """Waits until everything is on disk. Raises CheckpointError where it cannot be written."""
        managers, self._managers = self._managers, {}
        with self._finishing():
            for manager in managers.values():
                manager.close()

    def _manager(self, name: str) -> ocp.CheckpointManager:
        if name not in self._managers:
            for path in (self.directory / name).glob('[0-9]*') if not self.read_only else ():
                # Orbax takes an empty folder for a checkpoint, and saves nothing older.
                with contextlib.suppress(OSError):  # not empty, or another process was quicker
                    path.rmdir()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEPT[name], cleanup_tmp_directories=not self.read_only
            )
            handlers = {'arrays': ocp.StandardCheckpointHandler(), 'metadata': ocp.JsonCheckpointHandler()}
            self._managers[name] = ocp.CheckpointManager(
                self.directory / name, options=options, item_handlers=handlers
            )
        return self._managers[name]

    @contextlib.contextmanager
    def _finishing(self):
        try:
            yield
        except Exception as error:  # of many kinds, from Orbax's threads
            raise CheckpointError(
                f'a checkpoint cannot be written to {self.directory} (… {_first_line(error)[-120:]}); what '
                'was saved before is kept. Make room there and run the same command again.'
            ) from error

    @contextlib.contextmanager
    def _explained(self, name, step):
        try:
            yield
        except Exception as error:  # Orbax raises bare ones for damaged files
            path = self.directory / name / str(step)
            others = [s for s in self.steps(name) if s != step]
            way_out = f'delete that folder to use step {others[-1]}' if others else 'there is no other to use'
            raise CheckpointError(
                f'the checkpoint {path} cannot be read ({_first_line(error)[:200]}); {way_out}'
            ) from error


def _is_empty(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # another process has just deleted it
        return not any(folder.iterdir())
    return True


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition('. See full TensorStore details')[0]


def _flatten(tree: Any) -> dict[str, Any]:
    """Names every leaf by its path: what is stored depends on no Python type."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}
