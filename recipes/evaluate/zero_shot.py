"""Zero-shot classification: the class whose prompts a picture is most similar to.

Rules: `mean`, of the similarities s_i over a class's prompts (FILIP, section 4.1; with a global head the unit mean vector: CLIP);
`votes`, a softmax over classes for every prompt, then the mean (the code released with Wukong).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lt.datagen.shards import LtError, Sample, UsageError
from lt.datagen.shards.captions import lines_of
from lt.models.nn.contrastive import Features, ensemble_similarity
from lt.models.wukong import prompt_votes
from lt.recipes.evaluate.bootstrap import Interval, resampled
from lt.recipes.evaluate.features import Encoder, Rule
from lt.recipes.evaluate.things import layers_of, names_of

PROMPTS = Path(__file__).parent / "prompts"
_BUDGET = 1 << 22
"""Text tokens that are compared with a block of pictures at once."""


@dataclass(frozen=True)
class Classes:
    """`labels` are what samples state, `names` what prompts say, in the same order."""

    labels: list[str]
    names: list[str]


def read_classes(path: Path) -> Classes:
    """One class a line: its name, or its label, a tab and its name. Lines are also numbered from 0, as `cls` fields count.

    Raises:
        LtError: the file cannot be read, is empty or repeats a label.
    """
    try:
        lines = [line.strip() for line in lines_of(path) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LtError(f"Cannot read the classes {path}: {error}.") from None
    pairs = [(first, second or first) for first, _, second in (line.partition("\t") for line in lines)]
    labels = [label for label, _ in pairs]
    repeated = {label for label in labels if labels.count(label) > 1}
    if not pairs or repeated:
        raise LtError(f"{path} " + (f"repeats {', '.join(sorted(repeated)[:3])}." if repeated else "names no class."))
    return Classes(labels, [name for _, name in pairs])


def read_prompts(where: str) -> list[str]:
    """Templates with `{}` for the class, one a line: from a file, or a shipped list by name (see `shipped_prompts`).

    Raises:
        UsageError: no such file or list.
        LtError: a template without `{}`.
    """
    path = Path(where) if Path(where).is_file() else PROMPTS / f"{where}.txt"
    if not path.is_file():
        raise UsageError(f"No prompts {where!r}.", f"Name a file, or one of {', '.join(shipped_prompts())}.")
    try:
        lines = [line.strip() for line in lines_of(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise LtError(f"Cannot read the prompts {path}: {error}.") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise LtError(f"{path}: the prompt {prompt!r} must hold {{}} once, where the class goes.")
    if not prompts:
        raise LtError(f"{path} holds no prompts.")
    return prompts


def shipped_prompts() -> list[str]:
    return sorted(path.stem for path in PROMPTS.glob("*.txt"))


def label_of(sample: Sample, language: str) -> tuple[str, str] | None:
    """(label, name) of a sample: its `cls`, `json.label` or the one category of its layers; None where it has not one."""
    if "cls" in sample:
        value = sample["cls"]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return text.strip(), text.strip()
    meta = sample.readable("json")
    if isinstance(meta, dict) and isinstance(meta.get("label"), str | int):
        return str(meta["label"]), str(meta["label"])
    layers = layers_of(sample)
    category = layers[0].get("category") if layers else None
    if not isinstance(category, str) or any(layer.get("category") != category for layer in layers):
        return None
    names = names_of(layers[0], language)
    return (category, names[0]) if names else None


def known_classes(found: Sequence[tuple[str, str]], classes: Classes | None) -> tuple[Classes, np.ndarray]:
    """The classes and, for every found label, its number among them.

    Without a file the classes are the labels that occur. With one, a label may be a class's label, its name or its line number.

    Raises:
        LtError: a label is not among the classes; without a file: a label is a number, which names nothing.
    """
    if classes is None:
        if nameless := next((name for _, name in found if name.isdecimal()), None):
            raise LtError(
                f"Labels are numbers, such as {nameless}: what they stand for is not told.",
                "Name the classes: --classes FILE, one a line, the first for 0.",
            )
        names = dict(sorted(found))
        classes = Classes(list(names), list(names.values()))
    numbers = {str(number): number for number in range(len(classes.labels))}
    numbers |= {name: number for number, name in enumerate(classes.names)}
    numbers |= {label: number for number, label in enumerate(classes.labels)}
    unknown = sorted({label for label, _ in found} - numbers.keys())
    if unknown:
        raise LtError(f"{len(unknown)} labels are no classes, such as {', '.join(unknown[:3])}.", "Look at --classes.")
    return classes, np.array([numbers[label] for label, _ in found], dtype=np.int64)


@torch.no_grad()
def scores(encoder: Encoder, pictures: Features, names: Sequence[str], prompts: Sequence[str], rule: Rule) -> Tensor:
    """[pictures, classes]: how well each picture fits each class."""
    texts = encoder.texts([prompt.replace("{}", name) for name in names for prompt in prompts])
    block = max(1, _BUDGET // max(1, texts.tokens.shape[0] * texts.tokens.shape[1]))
    judge = ensemble_similarity if rule == "mean" else prompt_votes
    parts = [
        judge(Features(pictures.tokens[first : first + block]), texts, len(prompts))
        for first in range(0, len(pictures), block)
    ]
    return torch.cat(parts)


def accuracies(scored: Tensor, truth: np.ndarray, seed: int = 0) -> dict[str, Interval]:
    """Top-1 and top-5 accuracy in percent, with bootstrap intervals over pictures. Ties count against the model."""
    true = scored.gather(1, torch.from_numpy(truth)[:, None])
    ranks = (scored >= true).sum(1).numpy() - 1
    columns = np.stack([100.0 * (ranks < k) for k in (1, 5)], 1)
    return dict(zip(("top1", "top5"), resampled(columns, np.ones_like(columns), seed=seed), strict=True))
