"""Tiny diffusers pipelines with random weights, made without any download: what the parity tests compare with."""

import string
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # reference.py


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [letter + end for letter in string.printable.strip() for end in ("", "</w>")]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    return CLIPTokenizer({word: index for index, word in enumerate(words)}, merges=[], model_max_length=32)


def _text_encoder(projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _parts(seed: int, shape: Any, widths: tuple[int, ...]) -> dict[str, Any]:
    from lt.models.nn.autoencoder import small_autoencoder

    torch.manual_seed(seed)
    parts = {"unet": shape.build().eval(), "vae": small_autoencoder(widths, sample_size=32).eval()}
    parts["vae"].register_to_config(scaling_factor=0.5 + 0.1 * seed)
    return parts | {"text_encoder": _text_encoder(False), "tokenizer": _tokenizer()}


@pytest.fixture
def tiny_sd() -> Any:
    """An SD-1.5-like pipeline: 32x32 pixels, 16x16x4 latents."""
    from lt.models.nn.diffusion import NoiseSchedule
    from lt.models.nn.pipelines import stable_diffusion_pipeline
    from lt.models.nn.sampling import make_scheduler
    from lt.models.nn.unet import UNetShape

    shape = UNetShape(16, (32, 32), (1, 0), (2, 2), text_width=32, layers=1, linear_projection=False, groups=8)
    parts = _parts(1, shape, (8, 16))
    pipe = stable_diffusion_pipeline(**parts, scheduler=make_scheduler("ddim", NoiseSchedule()))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=[8, 128], ids=["plain", "told-the-size"])
def tiny_pixart(request: pytest.FixtureRequest) -> Any:
    """A PixArt-like pipeline: a transformer with learned variance, T5 text; 32x32 pixels, 16x16x4 latents."""
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    from lt.models.nn.autoencoder import small_autoencoder
    from lt.models.nn.diffusion import NoiseSchedule
    from lt.models.nn.sampling import make_scheduler

    torch.manual_seed(3)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "apple": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformer = PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=request.param,
        norm_num_groups=4,
    )
    for parameter in transformer.parameters():  # its last layer starts at zero: give it something to say
        torch.nn.init.normal_(parameter, std=0.2)
    text = T5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    pipe = PixArtAlphaPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"),
        text_encoder=T5EncoderModel(text).eval(),
        vae=small_autoencoder((8, 16), sample_size=32).eval(),
        transformer=transformer.eval(),
        scheduler=make_scheduler("dpm++2m", NoiseSchedule()),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_sdxl() -> Any:
    """An SDXL-like pipeline with another autoencoder: 32x32 pixels, 8x8x4 latents, two text encoders."""
    from diffusers import StableDiffusionXLPipeline

    from lt.models.nn.diffusion import NoiseSchedule
    from lt.models.nn.sampling import make_scheduler
    from lt.models.nn.unet import UNetShape

    shape = UNetShape(
        8, (16, 32), (0, 2), (2, 4), text_width=64, pooled_width=32, ids=6, id_width=8, layers=1, groups=8
    )
    pipe = StableDiffusionXLPipeline(
        **_parts(2, shape, (8, 16, 16)),
        text_encoder_2=_text_encoder(True),
        tokenizer_2=_tokenizer(),
        scheduler=make_scheduler("euler", NoiseSchedule(), timestep_spacing="leading"),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
