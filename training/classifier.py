"""A trained model for a notebook or a program of one's own: images in, probabilities or features out."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from scipy.special import softmax

from input_pipeline import DataError
from input_pipeline.files import Picture, fit_image
from input_pipeline.folders import SUFFIXES, is_image, walk
from input_pipeline.loaders import Resident
from input_pipeline.progress import track
from input_pipeline.sources import Split
from jax_models.torch_weights import as_numpy
from training.evaluation import Evaluator, check_output, restore, saved_config
from training.tracking import write_csv

CHUNK = 1024  # files read at a time
Images = np.ndarray | jax.Array | Iterable[Picture] | Picture


class Classifier:
    """A checkpoint of a run.

    Attributes:
      class_names: in the order of the probabilities.
      image_shape: height, width and channels of what the model takes.
      step: of the checkpoint.
      mean, std: float32[channels], what pixels on the scale 0 to 1 are normalised with.
      model: the Flax module.
      variables: its parameters and batch statistics, on the devices.
    """

    def __init__(
        self,
        workdir: str | Path,
        checkpoint: str | int = 'best',
        *,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Loads it; `checkpoint` is best, last, best_verification, or a step. No data are needed.

        Raises:
          CheckpointError: there is no such checkpoint, or it is damaged.
        """
        workdir = Path(workdir).expanduser()
        config = saved_config(workdir)
        config.parallel = 'jit'  # variables then have no axis of devices
        self._experiment, self.variables, self.step = restore(config, workdir, str(checkpoint), devices)
        self.model, dataset = self._experiment.model, self._experiment.dataset
        self.class_names, self.image_shape = dataset.class_names, dataset.image_shape
        self.mean, self.std = dataset.constants
        self._compiled: dict[str, Callable] = {}

    def probabilities(self, images: Images) -> np.ndarray:
        """Returns float32[n, classes], rows that sum to 1.

        Args:
          images: uint8[n, *image_shape] (0 to 255: normalising is the model's affair), of NumPy, JAX or
            PyTorch; or files, Pillow's images and uint8[height, width, channels] of any size, which are
            resized and cut as those of a folder are; or a single one of these.

        Raises:
          DataError: the array has another shape or type, or a file cannot be read.
          NonFiniteLoss: the outputs of the model are not finite.
        """
        return softmax(self._outputs('logits', self._experiment.predict_step, images), axis=1)

    def features(self, images: Images, *, flip: bool | None = None) -> np.ndarray:
        """Returns what the head sees, float32[n, d]; with `flip` averaged with that of the mirror images.

        None: as pairs were compared in training (config.verification.flip). Other arguments and errors as
        those of `probabilities`.
        """
        flip = self._experiment.config.verification.flip if flip is None else flip
        return self._outputs(f'features, {flip=}', lambda: self._experiment.feature_step(flip=flip), images)

    def _outputs(self, name: str, create_step: Callable, images) -> np.ndarray:
        images = _as_numpy(images)
        if isinstance(images, str | Path | Image.Image) or getattr(images, 'ndim', 4) in (2, 3):
            images = [images]
        if not isinstance(images, np.ndarray):
            images = [_as_numpy(image) for image in images]
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
            images = np.stack([fit_image(image, self.image_shape) for image in images])
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            wanted = ', '.join(map(str, self.image_shape))
            raise DataError(f'images must be uint8[n, {wanted}], but are {images.dtype}{list(images.shape)}.')
        count, devices = len(images), self._experiment.execution.device_count
        config = self._experiment.config.copy_and_resolve_references()
        # No more than is needed, in few different sizes: each is compiled for, as is each number of images.
        config.batch_size = min(config.batch_size, devices << max(-(-count // devices) - 1, 0).bit_length())
        images = np.concatenate([images, np.zeros((-count % config.batch_size, *self.image_shape), np.uint8)])
        split = Split(images, np.full(len(images), -1, np.int32), np.arange(len(images)).astype(str))
        evaluator = Evaluator(replace(self._experiment, config=config), Resident(split))
        return evaluator.outputs(run, self.variables)[:count]


def _as_numpy(images):
    """Returns arrays of JAX and tensors of PyTorch as NumPy's, and arrays of paths as lists."""
    if isinstance(images, str | Path | Image.Image) or not hasattr(images, '__array__'):
        return images
    array = as_numpy(images)
    return list(array) if array.dtype.kind in 'OUS' else array


def classify(
    workdir: Path,
    folder: Path,
    predictions: Path | None = None,
    *,
    checkpoint: str = 'best',
    devices: Sequence[jax.Device] | None = None,
) -> list[tuple[str, int, str, float]]:
    """Classifies the images in a folder and its subfolders, of any size; unreadable ones are left out.

    Args:
      workdir: of a run.
      folder: of the images.
      predictions: CSV file to write.
      checkpoint: best, last, best_verification, or a step.
      devices: to run on; all by default.

    Returns:
      What is written: id (path in the folder), predicted, class (its name) and confidence of each.

    Raises:
      CheckpointError, NonFiniteLoss: as Classifier.
      DataError: there are no readable images, or `predictions` cannot be written.
    """
    if predictions is not None:
        check_output('predictions', predictions)
    is_main = jax.process_index() == 0

    def warn(error: Exception) -> None:
        if is_main:
            print(f'warning: {error}; left out', file=sys.stderr)

    files = sorted(path for path, *_ in walk(folder, on_error=warn)) if folder.is_dir() else []
    paths = [folder / path for path in files if is_image(path)]
    if not paths:
        raise DataError(
            f'--folder={folder}: there is no such folder, or no image ({", ".join(SUFFIXES)}) in it.'
        )
    classifier, rows = Classifier(workdir, checkpoint, devices=devices), []
    if is_main and len(paths) < len(files):
        left = f'{len(files) - len(paths):,} other files in {folder} are ignored'
        print(f'{left}; images are {", ".join(SUFFIXES)}', file=sys.stderr)
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    for chunk in track(chunks, len(paths), f'Classifying {len(paths):,} images of {folder}'):
        images = {}
        for path in chunk:
            try:
                images[path] = fit_image(path, classifier.image_shape)
            except DataError as error:
                warn(error)
        if not images:
            continue
        for path, row in zip(images, classifier.probabilities(np.stack([*images.values()])), strict=True):
            best = int(row.argmax())
            name = classifier.class_names[best]
            image = path.relative_to(folder).as_posix().encode(errors='surrogateescape')
            image = image.decode(errors='backslashreplace')  # names that are not UTF-8
            rows.append((image, best, name, round(float(row[best]), 6)))
    if not rows:
        raise DataError(f'--folder={folder}: no image in it can be read.')
    if predictions is not None and is_main:
        write_csv(predictions, ('id', 'predicted', 'class', 'confidence'), rows)
    return rows
