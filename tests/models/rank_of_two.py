"""One of several gloo ranks that computes the loss of every case it is asked for: `python rank_of_two.py RANK RANKS FOLDER`.

A line of JSON on standard input is a case, a line of JSON on standard output its answer.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from lt.models.nn.contrastive import Exchange, Features, contrastive_loss


def tensors(case):
    """images [B, n, d], texts [B, L, d], mask [B, L], groups [B] or None of the whole batch, the same on every rank."""
    generator = torch.Generator().manual_seed(case["seed"])
    batch, length = len(case["lengths"]), case["length"]
    images = torch.randn(batch, case["patches"], case["width"], generator=generator, dtype=torch.float64)
    texts = torch.randn(batch, length, case["width"], generator=generator, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor(case["lengths"])[:, None]
    groups = torch.randint(0, batch, (batch,), generator=generator) if case["grouped"] else None
    return images, texts * mask[..., None], mask, groups


def answer(case, rank, ranks):
    images, texts, mask, groups = (None if x is None else x.chunk(ranks)[rank].clone() for x in tensors(case))
    leaves = images.requires_grad_(), texts.requires_grad_(), torch.tensor(case["scales"]).double().requires_grad_()
    exchange = Exchange(local_loss=not case["square"])
    loss, _ = contrastive_loss(
        Features(leaves[0]), Features(leaves[1], mask), leaves[2], exchange=exchange, groups=groups
    )
    loss.backward()
    return {"loss": loss.item(), "gradients": [leaf.grad.tolist() for leaf in leaves]}


def main(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=ranks)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), rank, ranks)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
