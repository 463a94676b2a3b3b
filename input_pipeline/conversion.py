"""Image files of many kinds as upright 8-bit RGB files. Workers import this file, so it imports little."""

import hashlib
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# By content: suffixes are often wrong. PPM reads pgm.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'PPM', 'GIF', 'TIFF')
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


class UnreadableImage(Exception):
    """The argument is why."""


def standardize(content: bytes) -> tuple[bytes, str]:
    """Decodes an image file and returns what to store of it.

    JPEG and PNG files that are upright and 8-bit RGB already are kept byte for byte. All others become PNG,
    which loses nothing: grey in three equal channels, palettes looked up, CMYK as Pillow converts it, 16 bits
    of grey scaled to 8 and of colour cut to the higher 8, EXIF rotations carried out, and alpha dropped, as
    torchvision's ImageFolder drops it. Of animations the first frame counts.

    Returns:
        The file and a digest of its pixels, which is the same for files that differ only in format.

    Raises:
        UnreadableImage: it is damaged, or no image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            image.load()
            keep = (
                image.format in ('JPEG', 'MPO', 'PNG')  # MPO: a JPEG of several pictures, as phones make them
                and image.mode == 'RGB'
                and image.getexif().get(_ORIENTATION, 1) == 1
                and not _has_16_bits(image, content)
            )
            pixels = image if keep else to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise UnreadableImage('no image' if content else 'empty file') from None
    except Exception as error:  # Pillow raises many kinds
        raise UnreadableImage(str(error)) from error
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.size).encode()).hexdigest()
    if not keep:
        buffer = io.BytesIO()
        # Takes a fifth to a half of the time of the default level, for files 1.1 to 1.3 times as large.
        pixels.save(buffer, 'PNG', compress_level=1)
        content = buffer.getvalue()
    return content, digest


def _has_16_bits(image: Image.Image, content: bytes) -> bool:
    return image.format == 'PNG' and content[24] == 16  # bit depth in the header; the mode does not tell


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image of any mode as `standardize` stores it, but for its orientation."""
    if image.mode == 'F':
        raise UnreadableImage('its pixels are floating-point numbers, of an unknown range')
    if image.mode.startswith('I'):  # 16 bits of grey, which Pillow would clip rather than scale
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if 'transparency' in image.info:
        image = image.convert('RGBA')  # Pillow warns otherwise; the colours are the same
    rgb = image.convert('RGB')
    rgb.info = {}  # neither EXIF nor transparency nor a colour profile of another mode
    return rgb
