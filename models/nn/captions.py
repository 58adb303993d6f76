"""A text encoder that a generator trains for itself, and the network that reads token numbers through it.

Latent diffusion's text-to-image model (Rombach et al. 2022, section 4.3.1) trains its transformer over the tokens together
with the U-Net; the miniatures do the same, because no pretrained encoder knows their worlds without a download. Its class is
transformers' ``CLIPTextModel``, so that a pipeline with it saves and opens as Stable Diffusion's does.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lt.models.nn.control import HINT
from lt.models.nn.diffusion import Condition, Network

if TYPE_CHECKING:
    from transformers import CLIPTextModel

TOKENS = "tokens"
"""Token numbers are named so in conditions: ``[b, l]`` int64."""


def small_text_encoder(vocabulary: int, length: int, width: int, layers: int = 2, heads: int = 4) -> "CLIPTextModel":
    """An untrained ``CLIPTextModel``: causal, so that real tokens never see the padding on their right.

    Args:
        vocabulary: entries of the tokenizer; 0, 2, 3 are padding, start and end, as in ``WordTokenizer``.
        length: places for tokens.
        width: of the features, ``[b, l, width]``.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        projection_dim=width,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return CLIPTextModel(config)


class CaptionedNetwork(nn.Module):
    """A network whose condition names token numbers where the inner one wants text features; everything else passes.

    Args:
        network: ``(z, t, condition)`` with ``text`` ``[b, l, d]``.
        encoder: transformers' text encoder; None where the condition brings ``text`` already (cached features).
        controls: names of the control branches inside. Hints for others are left out: they are for another generator that
            shares the condition (a branch may exist for the structure generator alone).
    """

    def __init__(self, network: Network, encoder: nn.Module | None, controls: Collection[str] = ()):
        super().__init__()
        self.network = network
        self.encoder = encoder
        self.controls = frozenset(controls)

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See :func:`~lt.models.nn.unet.call_unet`."""
        known = {
            name: value
            for name, value in condition.items()
            if not name.startswith(HINT) or name.removeprefix(HINT) in self.controls
        }
        if self.encoder is not None:
            known["text"] = self.encoder(input_ids=known.pop(TOKENS)).last_hidden_state
        return self.network(z, t, known)
