"""Control pictures from files lie over black where they are transparent."""

import numpy as np
import pytest
from PIL import Image

from lt.recipes.draw.control_files import read_drawn


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_drawing_on_transparent_ground_lies_on_black(tmp_path, mode):
    """Their colour is white all over: only alpha tells the lines."""
    pixels = np.full((8, 8, len(mode)), 255, np.uint8)
    pixels[:, :, -1] = 0
    pixels[3, :, -1] = 255
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    drawn = read_drawn("edge", tmp_path / "edge.png", (8, 8))
    assert drawn[3].min() == 255 and np.delete(drawn, 3, axis=0).max() == 0
