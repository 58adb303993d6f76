"""End-to-end training, samples a second, against open_clip's own trainer; and the loader against stock webdataset.

Same towers (ViT 4 x 96 on 64 pixels, text 3 x 96, 40 tokens), same shards (scenes: png and txt), same batch of 128, fp32, one
loader process each, no augmentation, AdamW. Theirs is `open_clip_train.train.train_one_epoch` over `get_wds_dataset`; ours is
what `lt train filip` runs. A step's time is the median of all steps after the first ones; rounds of ours and theirs alternate.

    make bench-contrastive        python benchmarks/contrastive_training.py --steps 40 --rounds 3
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lt.datagen.shards import Sample, ShardWriter, open_shards
from lt.recipes import registry
from lt.recipes.contrastive.settings import TextSettings, make_tokenizer
from lt.recipes.training.loader import Examples, training_loader
from lt.recipes.training.loop import train
from lt.recipes.training.order import Order
from lt.recipes.training.plan import make_plan
from lt.recipes.training.shards import ShardSet
from lt.recipes.worlds import scenes

BATCH, LENGTH, WARM = 128, 40, 5


def plain_shards(folder: Path, count: int) -> Path:
    """Shards of scenes with picture and caption alone, so that neither side decodes what it does not need."""
    source = open_shards(str(scenes("train", count, 64, print)))
    out = folder / "plain"
    samples = iter(source)
    for number in range(8):
        with ShardWriter(out / f"shard-{number:06d}.tar") as writer:
            for sample in islice(samples, count // 8):
                writer.write(Sample(sample.key, {"png": sample.encoded("png"), "txt": sample["txt"]}))
    return out


def ours(data: Path, head: str, steps: int) -> list[float]:
    """Seconds of every step of `lt train filip`."""
    settings = [f"data.train=[{data}]", f"model.head={head}", f"train.steps={steps + WARM}", f"text.length={LENGTH}"]
    settings += [
        "data.workers=1",
        "log.tensorboard=false",
        "log.every=100",
        f"log.save_every={10 * steps}",
        "model.colder=0",
    ]
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        plan = make_plan(registry.find_recipe("filip"), "tiny", None, settings, Path(out) / "run")
        train(plan, lambda line: None, lambda progress: marks.append(time.perf_counter()))
    return _between(marks)


def theirs(data: Path, steps: int, count: int) -> list[float]:
    """Seconds of every step of open_clip's training loop with its own loss."""
    from open_clip import CLIP, ClipLoss, CLIPTextCfg, CLIPVisionCfg
    from open_clip_train.train import train_one_epoch

    model = CLIP(
        embed_dim=64,
        vision_cfg=CLIPVisionCfg(image_size=64, patch_size=8, width=96, layers=4, head_width=32),
        text_cfg=CLIPTextCfg(context_length=LENGTH, vocab_size=_tokenizer().vocabulary, width=96, heads=3, layers=3),
        quick_gelu=True,
        output_dict=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    marks: list[float] = []
    args = SimpleNamespace(**_arguments(data, count))
    loader = _their_loader(data, count)
    loader.dataloader = _Some(loader.dataloader, steps + WARM)
    train_one_epoch(
        model,
        {"train": loader},
        ClipLoss(),
        0,
        optimizer,
        None,
        lambda step: marks.append(time.perf_counter()),
        None,
        args,
    )
    return _between(marks)


class _Some:
    """The first batches of a loader, with the numbers that open_clip reads off it."""

    def __init__(self, loader: Any, steps: int):
        self.loader, self.num_batches, self.num_samples = loader, steps, steps * BATCH

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.num_batches)


def _arguments(data: Path, count: int) -> dict[str, Any]:
    named = {"train_data": str(data / "shard-{000000..000007}.tar"), "train_num_samples": count, "batch_size": BATCH}
    off = ("dataset_resampled", "distill", "horovod", "wandb", "skip_scheduler", "train_data_upsampling_factors")
    fixed = {"workers": 1, "world_size": 1, "rank": 0, "local_rank": 0, "seed": 0, "device": "cpu", "precision": "fp32"}
    rest = {"accum_freq": 1, "grad_clip_norm": 1.0, "log_every_n_steps": 10**9, "log_local": False, "save_logs": False}
    return {**named, **dict.fromkeys(off), **fixed, **rest}


def _their_loader(data: Path, count: int) -> Any:
    from open_clip import image_transform
    from open_clip_train import data as their_data
    from webdataset.tariterators import tar_file_expander

    # webdataset 1.x marks the end of a shard with an empty sample, on which open_clip's grouping stumbles
    their_data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    preprocess = image_transform(64, is_train=False)
    arguments = SimpleNamespace(**_arguments(data, count))
    return their_data.get_wds_dataset(arguments, preprocess, True, tokenizer=_tokenize)


def _tokenizer():
    return make_tokenizer(TextSettings(), LENGTH)


def _tokenize(text: str) -> torch.Tensor:
    return _tokenizer()([text]).ids


def our_loader(data: Path, steps: int) -> Iterator[Any]:
    """Batches as training gets them, from one worker."""
    from lt.recipes.config import resolve

    recipe = registry.find_recipe("filip")
    settings = resolve(recipe.settings, None, [f"text.length={LENGTH}"]).settings
    shards = ShardSet([str(data)])
    examples = Examples(shards, Order(shards.sizes), recipe.objective(settings).example())
    return training_loader(
        examples, iter([range(s * BATCH, (s + 1) * BATCH) for s in range(steps + WARM)]), 1, 2, False
    )


def _loading(batches: Iterator[Any]) -> list[float]:
    return _between([time.perf_counter() for _ in batches])


def _between(marks: list[float]) -> list[float]:
    return [after - before for before, after in zip(marks[WARM - 1 :], marks[WARM:], strict=False)]


def rates(measure: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, float]:
    """Samples a second by name: the median step of all rounds, which alternate."""
    times: dict[str, list[float]] = {name: [] for name in measure}
    for _ in range(rounds):
        for name, run in measure.items():
            times[name] += run()
    return {name: BATCH / statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=12000)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        data = plain_shards(Path(folder), chosen.count)
        found = rates(
            {
                "open_clip": lambda: theirs(data, chosen.steps, chosen.count),
                "ours, global": lambda: ours(data, "global", chosen.steps),
                "ours, token-wise": lambda: ours(data, "tokens", chosen.steps),
                "loader, webdataset": lambda: _loading(
                    islice(iter(_their_loader(data, chosen.count).dataloader), chosen.steps + WARM)
                ),
                "loader, ours": lambda: _loading(our_loader(data, chosen.steps)),
            },
            chosen.rounds,
        )
    ratios = {
        "global / open_clip": found["ours, global"] / found["open_clip"],
        "token-wise / open_clip": found["ours, token-wise"] / found["open_clip"],
        "loader / webdataset": found["loader, ours"] / found["loader, webdataset"],
    }
    print(json.dumps({"samples_per_second": found, "ratios": ratios, "threads": torch.get_num_threads()}, indent=1))


if __name__ == "__main__":
    main()
