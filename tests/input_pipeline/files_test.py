import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError
from input_pipeline.files import fit_image

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)


def test_opened_image_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / 'a.png', exif=exif)
    turned = np.rot90(PIXELS[..., :3], -1)
    for picture in (tmp_path / 'a.png', Image.open(tmp_path / 'a.png')):
        np.testing.assert_array_equal(fit_image(picture, (8, 8, 3)), turned)


@pytest.mark.parametrize('mode', ['CMYK', 'YCbCr', 'LA', 'P', 'I;16'])
def test_opened_image_may_have_any_mode(mode):
    image = Image.fromarray(np.full((8, 8), 128, np.uint8)).convert('RGB' if mode[0] in 'CY' else 'L')
    image = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)) if mode == 'I;16' else image.convert(mode)
    np.testing.assert_array_equal(fit_image(image, (8, 8, 3)), np.full((8, 8, 3), 128))


def test_alpha_is_kept_where_the_model_takes_it(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / 'a.png')
    for picture in (PIXELS, tmp_path / 'a.png'):
        np.testing.assert_array_equal(fit_image(picture, (8, 8, 4)), PIXELS)


@pytest.mark.parametrize(('kind', 'reason'), [(np.int32, 'look like 8'), (np.float32, 'floating-point')])
def test_opened_image_of_unknown_range_is_refused(kind, reason):
    with pytest.raises(DataError, match=reason):
        fit_image(Image.fromarray(np.full((8, 8), 200, kind)), (8, 8, 3))


def test_image_with_sides_swapped_is_refused():
    with pytest.raises(DataError, match='an image cannot be read: 8 x 4 pixels, not 4 x 8'):
        fit_image(PIXELS[:4, :, :3], (8, 4, 3))
