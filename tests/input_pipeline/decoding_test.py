import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.decoding import UndecodableImage, decode


def encode(pixels, format='PNG', **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def test_resized_and_cropped_as_torchvision_does():
    """Golden: CenterCrop(3)(Resize(3)(image)) of torchvision 0.28 on PIL images."""
    wide = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
    golden = np.array([[29, 36, 43], [93, 100, 107], [157, 164, 171]])
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    images = decode([encode(wide), encode(tall)], (3, 3, 3), resize=True)
    np.testing.assert_array_equal(images[0, ..., 0], golden)
    np.testing.assert_array_equal(images[1, ..., 0], golden.T)


@pytest.mark.parametrize(('height', 'width', 'top', 'left'), [(8, 8, 0, 0), (11, 8, 2, 0), (8, 13, 0, 2)])
def test_image_whose_short_side_fits_is_only_cropped(height, width, top, left):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 1), np.uint8)
    (image,) = decode([encode(pixels[..., 0])], (8, 8, 1), resize=True)
    np.testing.assert_array_equal(image, pixels[top : top + 8, left : left + 8])


@pytest.mark.parametrize('options', [{}, {'subsampling': 0}, {'progressive': True}, {'quality': 30}])
def test_jpeg_gives_pillows_pixels(options):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 3, 3), np.uint8).repeat(11, 0).repeat(13, 1)
    content = encode(pixels, 'JPEG', **options)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode([content], (33, 39, 3))[0], expected)


def test_grey_and_cmyk_jpegs_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    cmyk = io.BytesIO()
    Image.fromarray(np.full((8, 8, 4), 90, np.uint8), 'CMYK').save(cmyk, 'JPEG')
    for content in (encode(grey, 'JPEG'), cmyk.getvalue()):
        expected = np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))
        np.testing.assert_array_equal(decode([content], (8, 8, 3))[0], expected)


@pytest.mark.parametrize('format', ['PNG', 'JPEG'])
def test_damaged_image_is_named_by_its_position(format):
    content = encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), format)
    with pytest.raises(UndecodableImage) as error:
        decode([content, content[: len(content) // 2]], (16, 16, 3))
    assert error.value.args[0] == 1


def test_image_with_sides_swapped_is_not_scrambled():
    with pytest.raises(UndecodableImage, match='8 x 16 pixels'):
        decode([encode(np.zeros((16, 8, 3), np.uint8))], (8, 16, 3))


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_workers_end_with_a_killed_parent():
    script = f"""
import multiprocessing, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from input_pipeline.decoding import decode_all
chunks = (([{encode(np.zeros((8, 8, 3), np.uint8))!r}], index) for index in range(10**6))
next(decoded := decode_all(chunks, (8, 8, 3), 2))
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
input()
"""
    command = [sys.executable, '-c', script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        workers = [Path(f'/proc/{int(pid)}') for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
    deadline = time.monotonic() + 30
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
