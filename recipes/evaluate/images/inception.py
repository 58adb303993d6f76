"""The standard extractor of FID and KID: torch-fidelity's Inception-v3, whose weights are given by a path.

They are its release `weights-inception-2015-12-05-6726825d.pth` (converted from TensorFlow's, Apache 2.0). Nothing is downloaded.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of_file
from lt.models.nn.device import device
from lt.recipes.pictures import channels_first

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_FEATURES = "2048"


@dataclass(frozen=True)
class Inception:
    """Features of the last pooling, d = 2,048. `digest` is the sha256 of the file of weights."""

    network: Any
    digest: str
    name: str = "inception-v3 of torch-fidelity"
    resize: str = "299x299, bilinear as in TensorFlow 1"
    distances: tuple[str, str] = ("fid", "kid")

    @classmethod
    def load(cls, path: Path) -> "Inception":
        """From a file of weights.

        Raises:
            LtError: torch-fidelity is missing, the file is not there, holds more than tensors, or those of another network.
        """
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ModuleNotFoundError:
            raise LtError("FID needs torch-fidelity.", "pip install 'lt-toolkit[eval]'") from None
        tensors = _read(path)
        safe = io.BytesIO()  # torch-fidelity unpickles what it is given: it is given tensors that we wrote
        torch.save(tensors, safe)
        safe.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", [_FEATURES], feature_extractor_weights_path=safe)
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise LtError(f"{path} holds the weights of another network: {reason}", f"Want {WEIGHTS}.") from None
        return cls(network.to(device()), digest_of_file(path))

    @torch.no_grad()
    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """RGB pictures uint8 [h, w, 3] of one size to float32 [n, 2048]."""
        batch = torch.from_numpy(np.stack([channels_first(picture) for picture in pictures]))
        return self.network(batch.to(device()))[0].cpu().numpy()


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise LtError(
            f"Cannot read the weights {path}: {error.strerror or error}.",
            f"Name the file {WEIGHTS} of torch-fidelity's release, or: --extractor world",
        ) from None
    except Exception:  # what bytes that are no pickle make of the safe reader is not listed anywhere
        raise LtError(f"{path} is no file of tensors that can be read safely.", f"Want {WEIGHTS}.") from None
