"""A trained model for a notebook or a program of one's own: images in, probabilities or features out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from scipy.special import softmax

from input_pipeline import DataError
from input_pipeline.files import read_image
from input_pipeline.folders import SUFFIXES
from input_pipeline.loaders import Resident
from input_pipeline.progress import track
from input_pipeline.sources import Split
from training.evaluation import Evaluator, check_output, restore, saved_config
from training.tracking import write_csv

CHUNK = 1024  # files read at a time


class Classifier:
    """A checkpoint of a run.

    Attributes:
      class_names: in the order of the probabilities.
      image_shape: height, width and channels of what the model takes.
      step: of the checkpoint.
      model: the Flax module.
      variables: its parameters and batch statistics, on the devices.
    """

    def __init__(
        self,
        workdir: str | Path,
        checkpoint: str = 'best',
        *,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Loads it; `checkpoint` is best, last, best_verification, or a step. No data are needed.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged.
        """
        workdir = Path(workdir)
        config = saved_config(workdir)
        config.parallel = 'jit'  # variables then have no axis of devices
        self._experiment, self.variables, self.step = restore(config, workdir, checkpoint, devices)
        self.model, dataset = self._experiment.model, self._experiment.dataset
        self.class_names, self.image_shape = dataset.class_names, dataset.image_shape
        self._compiled: dict[str, Callable] = {}

    def probabilities(self, images: np.ndarray | Sequence[str | Path]) -> np.ndarray:
        """Returns float32[n, classes], rows that sum to 1.

        Args:
          images: uint8[n, *image_shape] (0 to 255: normalising is the model's affair), or image files of any
            size, which are resized and cut as those of a folder are.

        Raises:
          DataError: the array has another shape or type, or a file cannot be read.
          NonFiniteLoss: the outputs of the model are not finite.
        """
        return softmax(self._outputs('logits', self._experiment.predict_step, images), axis=1)

    def features(self, images: np.ndarray | Sequence[str | Path], *, flip: bool = False) -> np.ndarray:
        """Returns what the head sees, float32[n, d]; with `flip` averaged with that of the mirror images.

        Arguments and errors as those of `probabilities`.
        """
        return self._outputs(f'features, {flip=}', lambda: self._experiment.feature_step(flip=flip), images)

    def _outputs(self, name: str, create_step: Callable, images) -> np.ndarray:
        if name not in self._compiled:
            self._compiled[name] = self._experiment.execution.compile_predict(create_step())
        parts = [
            self._chunk(self._compiled[name], images[n : n + CHUNK]) for n in range(0, len(images), CHUNK)
        ]
        if not parts:
            raise DataError('there are no images to classify.')
        return np.concatenate(parts)

    def _chunk(self, run: Callable, images) -> np.ndarray:
        if not isinstance(images, np.ndarray):
            images = np.stack([read_image(Path(path), self.image_shape) for path in images])
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            wanted = ', '.join(map(str, self.image_shape))
            raise DataError(f'images must be uint8[n, {wanted}], but are {images.dtype}{list(images.shape)}.')
        count, devices = len(images), self._experiment.execution.device_count
        config = self._experiment.config.copy_and_resolve_references()
        # No more than is needed, in few different sizes: each is compiled for.
        config.batch_size = min(config.batch_size, devices << max(-(-count // devices) - 1, 0).bit_length())
        split = Split(images, np.full(count, -1, np.int32), np.arange(count).astype(str))
        evaluator = Evaluator(replace(self._experiment, config=config), Resident(split))
        return evaluator.outputs(run, self.variables)


def classify(
    workdir: Path,
    folder: Path,
    predictions: Path,
    *,
    checkpoint: str = 'best',
    devices: Sequence[jax.Device] | None = None,
) -> int:
    """Classifies the images in a folder and its subfolders, of any size, and returns how many there were.

    Args:
      workdir: of a run.
      folder: of the images.
      predictions: CSV file to write: id (path in the folder), predicted, class (its name), confidence.
      checkpoint: best, last, best_verification, or a step.
      devices: to run on; all by default.

    Raises:
      CheckpointError, NonFiniteLoss: as Classifier.
      DataError: there are no images, one cannot be read, or `predictions` cannot be written.
    """
    check_output('predictions', predictions)
    paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(
            f'--folder={folder}: there is no such folder, or no image ({", ".join(SUFFIXES)}) in it.'
        )
    classifier, rows = Classifier(workdir, checkpoint, devices=devices), []
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    for chunk in track(chunks, len(paths), f'Classifying {len(paths):,} images of {folder}'):
        probabilities = classifier.probabilities(chunk)
        for path, row in zip(chunk, probabilities, strict=True):
            best = row.argmax()
            name = classifier.class_names[best]
            rows.append((path.relative_to(folder).as_posix(), best, name, f'{row[best]:.6f}'))
    if jax.process_index() == 0:
        write_csv(predictions, ('id', 'predicted', 'class', 'confidence'), rows)
    return len(rows)
