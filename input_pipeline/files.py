"""Single images, brought to what a model trained on a prepared folder or dataset expects."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from input_pipeline import DataError
from input_pipeline.conversion import UnreadableImage, standardize, to_rgb
from input_pipeline.decoding import UndecodableImage, decode

_CHANNELS = (), (1,), (3,), (4,)
Picture = str | Path | Image.Image | np.ndarray


def fit_image(image: Picture, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Returns uint8[*image_shape] of a file of any format that a folder may have, or of pixels.

    Where the shape is square it may have any size, and is resized and cut as those of a folder are.

    Args:
        image: a file, one of Pillow's images, or uint8[height, width] or [height, width, channels].
        image_shape: height, width, channels.

    Raises:
        DataError: it is not there, unreadable, or of another shape or type.
    """
    try:
        content = _encoded(image, alpha=image_shape[2] == 4)
        return decode([content], image_shape, resize=image_shape[0] == image_shape[1])[0]
    except (OSError, ValueError, UnreadableImage, UndecodableImage) as error:
        name = image if isinstance(image, str | Path) else 'an image'
        raise DataError(f'{name} cannot be read: {error.args[-1]}') from error


def _encoded(image: Picture, *, alpha: bool) -> bytes:
    if isinstance(image, str | Path):
        content = Path(image).expanduser().read_bytes()
        return content if alpha else standardize(content)[0]
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in _CHANNELS:
            raise UnreadableImage(f'{image.dtype}{list(image.shape)} is not uint8[height, width, channels]')
        image = Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image)
    if not isinstance(image, Image.Image):
        raise UnreadableImage(f'{type(image).__name__} is neither a file nor an image')
    if image.mode == 'I' and image.getextrema()[1] < 256:
        raise UnreadableImage('its integers of 32 bits look like 8: convert it to mode L first')
    buffer = io.BytesIO()
    image = ImageOps.exif_transpose(image)
    (image.convert('RGBA') if alpha else to_rgb(image)).save(buffer, 'PNG', compress_level=1)
    return buffer.getvalue()
