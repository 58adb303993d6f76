"""What the models' tests compare with, in a few lines each."""

import torch


def naive_token_similarity(patches, words, mask=None, *, reduce="mean"):
    """The definition of `token_similarity`, holding all products; pads excluded."""
    if mask is None:
        mask = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
    products = torch.einsum("ikd,jld->ijkl", patches, words)
    real = mask[None, :, None, :]
    s_i = products.masked_fill(~real, -torch.inf).amax(3).sum(2).masked_fill(~mask.any(1), 0)
    s_t = (products.amax(2) * mask).sum(2)
    return (s_i, s_t) if reduce == "sum" else (s_i / patches.shape[1], s_t / mask.sum(1).clamp(min=1))


class PixelSpace:
    """The latent space of a model that works on pixels."""

    factor = 1

    def encode(self, pixels):
        return pixels

    def decode(self, latents):
        return latents
