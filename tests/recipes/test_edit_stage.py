"""Results that are no numbers, in editors: rejects, which cost no neighbour."""

import numpy as np
import torch

from lt.datagen.shards import Reject, Sample
from lt.recipes.edit.stage import Edit, Edited


class Three(Edit):
    def edited(self, requests):
        pixels = torch.zeros(3, 3, 8, 8)
        pixels[1, 0, 0, 0] = float("nan")
        return [Edited(one, {"close": score}) for one, score in zip(pixels, (0.5, 0.5, float("nan")), strict=True)]


def test_what_is_not_finite_is_rejected():
    requests = [
        Sample(f"{number}", {"source.png": np.zeros((8, 8, 3), np.uint8), "json": {"edit": {}}}) for number in range(3)
    ]
    good, nan, score = Three()(iter(requests))
    assert isinstance(good, Sample) and (good["png"] == 128).all() and good.meta["edit"]["scores"] == {"close": 0.5}
    assert isinstance(nan, Reject) and nan.reason == "not-finite" and nan.figure == 1
    assert isinstance(score, Reject) and score.reason == "not-finite" and "close" in score.detail
