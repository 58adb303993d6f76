"""Pictures whose layers are known, for the tests of the stages."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from known_pictures import disc, lay, smooth_background


@pytest.fixture
def one_disc():
    return lay(smooth_background((120, 160)), [disc((120, 160), (75, 60), 30)], [(200, 30, 20)])


@pytest.fixture
def two_discs():
    """A green disc, and a red one in front of it that bites into it."""
    size = (140, 180)
    alphas = [disc(size, (75, 60), 32), disc(size, (112, 84), 30)]
    return lay(smooth_background(size), alphas, [(30, 170, 40), (200, 30, 20)])
