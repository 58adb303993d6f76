"""Contrastive losses over batches that do not fit: encode in chunks, with the gradient of the large batch (GradCache).

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983, section 3.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from lt.models.nn.contrastive import Encoded, Features

Chunk = tuple[Tensor, ...]


def accumulated_backward(
    encode: Callable[..., Encoded],
    chunks: Sequence[Chunk],
    loss: Callable[[Encoded], tuple[Tensor, dict[str, Tensor]]],
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Backward pass of a loss over a large batch that is encoded in chunks: the towers need the memory of one chunk only.

    First all chunks are encoded without a graph, the loss is taken once over the cached features and scales, and its
    gradient with respect to them is kept; then each chunk is encoded again with a graph, and its part of that gradient is
    sent through. The gradient of *every* parameter equals the large batch's: the scales are cached like features and so
    are counted once. The price is one more forward pass.

    The loss is not to be divided by the number of chunks (open_clip #761, #957): its `--accum-freq` takes the whole loss once per
    chunk, so that of `logit_scale` alone the gradient comes out `accum_freq` times too large.

    Args:
        encode: the model's forward pass (`DualEncoder.forward`), called as `encode(*chunk)`. Random layers see the same
            numbers in both passes.
        chunks: the inputs of the parts of the batch, in order.
        loss: takes the `Encoded` whole batch; returns (loss, metrics), as `contrastive_loss`.
        no_sync: the data-parallel wrapper's, entered for all chunks but the last, so that ranks average gradients once.

    Returns:
        the loss (detached) and the metrics.
    """
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state(chunk))
            parts.append(encode(*chunk))
    whole = _leaves(parts)
    value, metrics = loss(whole)
    value.backward()
    start = 0
    for number, (chunk, state) in enumerate(zip(chunks, states, strict=True), 1):
        last = number == len(chunks)
        with nullcontext() if last else no_sync(), _replayed(state, chunk):
            part = encode(*chunk)
            rows = slice(start, start + len(part.images))
            _backward_part(part, whole, rows, last)
        start = rows.stop
    return value.detach(), metrics


def _leaves(parts: Sequence[Encoded]) -> Encoded:
    """The whole batch's features and scales as fresh leaves of a graph."""

    def joined(features: list[Features]) -> Features:
        tokens = torch.cat([f.tokens for f in features]).requires_grad_()
        masks = [f.mask for f in features if f.mask is not None]
        return Features(tokens, torch.cat(masks) if masks else None)

    scales = parts[0].scales.detach().clone().requires_grad_()
    return Encoded(joined([p.images for p in parts]), joined([p.texts for p in parts]), scales)


def _backward_part(part: Encoded, whole: Encoded, rows: slice, last: bool) -> None:
    """Send the whole loss's gradient through one chunk's graph; that of the scales goes through the last chunk only."""

    def gradient(leaf: Tensor) -> Tensor:
        return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    pairs = [
        (part.images.tokens, gradient(whole.images.tokens)[rows]),
        (part.texts.tokens, gradient(whole.texts.tokens)[rows]),
        (part.scales, gradient(whole.scales) * last),
    ]
    outputs, gradients = zip(*[(o, g) for o, g in pairs if o.requires_grad], strict=True)
    torch.autograd.backward(outputs, gradients)


def _random_state(chunk: Chunk) -> list[Tensor]:
    device = chunk[0].device
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


@contextmanager
def _replayed(state: list[Tensor], chunk: Chunk) -> Iterator[None]:
    """The random numbers of the first pass, again; afterwards the generators go on from where they were."""
    device = chunk[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state[1], device)
        yield
