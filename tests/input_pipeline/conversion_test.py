import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.conversion import UnreadableImage, standardize

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
GREY = RGB[..., 0]
WIDE = np.arange(24, dtype=np.uint16).reshape(6, 4) * 2500  # 16 bits


def encode(image, file_format='PNG', **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == 'RGB'
        return np.asarray(image)


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
def test_upright_rgb_keeps_its_bytes(file_format):
    content = encode(RGB, file_format)
    assert standardize(content)[0] == content


def grey_in_rgb(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, -1)


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (encode(RGB, 'BMP'), RGB),
        (encode(RGB, 'TIFF'), RGB),
        (encode(RGB, 'WEBP', lossless=True), RGB),
        (encode(GREY), grey_in_rgb(GREY)),
        (encode(GREY, 'PPM'), grey_in_rgb(GREY)),
        (encode(GREY > 99), grey_in_rgb((GREY > 99) * np.uint8(255))),
        (encode(WIDE), grey_in_rgb(np.round(WIDE / 257).astype(np.uint8))),
        (
            b'P5 4 6 65535\n' + WIDE.astype('>u2').tobytes(),
            grey_in_rgb(np.round(WIDE / 257).astype(np.uint8)),
        ),
        (encode(np.dstack([RGB, GREY])), RGB),
        (encode(Image.fromarray(RGB).quantize(256)), RGB),
        (encode(Image.fromarray(RGB).quantize(256), transparency=3), RGB),
        (encode(Image.fromarray(RGB).convert('CMYK'), 'JPEG', quality=100), None),
        (encode(GREY, 'JPEG'), grey_in_rgb(Image.open(io.BytesIO(encode(GREY, 'JPEG'))))),
    ],
    ids=[
        'bmp',
        'tiff',
        'webp',
        'grey',
        'pgm',
        'bits',
        '16',
        'pgm16',
        'alpha',
        'palette',
        'clear',
        'cmyk',
        'jpeg',
    ],
)
def test_every_mode_becomes_rgb(content, expected):
    pixels = decode(standardize(content)[0])
    if expected is None:  # CMYK comes as lossy JPEG only
        assert np.abs(pixels.mean((0, 1)) - RGB.mean((0, 1))).max() < 12
    else:
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_carried_out_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2)}
    upright |= {6: np.rot90(RGB, 3), 7: np.rot90(RGB, 2).transpose(1, 0, 2), 8: np.rot90(RGB)}
    content, _ = standardize(encode(RGB, exif=exif))
    np.testing.assert_array_equal(decode(content), upright[orientation])
    assert standardize(content)[0] == content


def test_16_bit_rgb_becomes_8_bit():
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in RGB.astype(np.uint16) * 257)
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 4, 6, 16, 2, 0, 0, 0))
    png = b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    content, _ = standardize(png)
    assert content[24] == 8
    np.testing.assert_array_equal(decode(content), RGB)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'empty file'),
        (b'text', 'no image'),
        (encode(RGB, 'JPEG')[:-80], '[Tt]runcated'),
        (encode(RGB)[:70], '.'),
        (encode(np.ones((4, 4), np.float32), 'TIFF'), 'floating-point'),
    ],
)
def test_damaged_image_is_refused(content, reason):
    with pytest.raises(UnreadableImage, match=reason):
        standardize(content)


def test_digest_tells_pixels_apart_but_not_formats():
    digests = [standardize(content)[1] for content in (encode(RGB), encode(RGB, 'BMP'), encode(RGB[::-1]))]
    assert digests[0] == digests[1] != digests[2]
