"""Single image files, as a model trained on a prepared folder or dataset expects them."""

from pathlib import Path

import numpy as np

from input_pipeline import DataError
from input_pipeline.conversion import UnreadableImage, standardize
from input_pipeline.decoding import UndecodableImage, decode


def read_image(path: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns uint8[*image_shape] of a file of any format that a folder may have.

    Where the shape is square it may have any size, and is resized and cut as those of a folder are.

    Raises:
        DataError: it is not there, unreadable, or of another shape.
    """
    try:
        content, _ = standardize(path.read_bytes())
        return decode([content], image_shape, resize=image_shape[0] == image_shape[1])[0]
    except (OSError, UnreadableImage, UndecodableImage) as error:
        raise DataError(f'{path} cannot be read: {error.args[-1]}') from error
