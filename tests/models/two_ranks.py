"""What one of several gloo ranks computes, for `test_ranks.py`: `python two_ranks.py RANK RANKS FOLDER` writes FOLDER/RANK.pt."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lt.models.filip import FILIP, Filip
from lt.models.nn.accumulate import accumulated_backward
from lt.models.nn.contrastive import Encoded, Exchange, contrastive_loss
from lt.models.nn.gather import gather_rows

EXCHANGES = {
    "local": Exchange(),
    "square": Exchange(local_loss=False),
    "half": Exchange(half=True),
    "paper": Exchange(keep=0.25, half=True),
}
LENGTHS = [5, 32, 2, 17, 9, 12, 0, 20]


def whole_batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 3, 64, 64, generator=generator, dtype=torch.float64)
    tokens = torch.randint(4, 500, (8, 32), generator=generator)
    mask = torch.arange(32) < torch.tensor(LENGTHS)[:, None]
    return pixels, tokens, mask, torch.tensor([0, 1, 2, 3, 0, 5, 6, 1])


def model():
    torch.manual_seed(0)
    return Filip(FILIP["tiny"]).double()


def outcome(loss, net):
    return {
        "loss": loss.detach(),
        **{name.removeprefix("module."): p.grad.clone() for name, p in net.named_parameters()},
    }


def steps(rank, ranks, net, no_sync):
    """Loss and averaged gradients of every variant; `net` is the model, wrapped for several ranks."""
    *inputs, groups = (x.chunk(ranks)[rank] for x in whole_batch())
    for name, exchange in EXCHANGES.items():
        for grouped in (None, groups):
            net.zero_grad()
            encoded = net(*inputs)
            loss, _ = contrastive_loss(encoded.images, encoded.texts, encoded.scales, exchange=exchange, groups=grouped)
            loss.backward()
            yield f"{name}{'' if grouped is None else ' grouped'}", outcome(loss, net)

    def local(encoded: Encoded):
        return contrastive_loss(encoded.images, encoded.texts, encoded.scales)

    net.zero_grad()
    chunks = list(zip(*(x.split(2) for x in inputs), strict=True))
    loss, _ = accumulated_backward(net, chunks, local, no_sync=no_sync)
    yield "accumulated", outcome(loss, net)


def main(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=ranks)
    net = DistributedDataParallel(model())
    results = dict(steps(rank, ranks, net, net.no_sync))
    fine = torch.full((1,), 1 + 2**-12)
    results["wire"] = {"exact": gather_rows(fine), "fp16": gather_rows(fine, torch.float16)}
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
