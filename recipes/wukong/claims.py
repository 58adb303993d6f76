"""Wukong's claims in miniature, on scenes with Chinese captions: locking, reduction, the three similarities, prompts."""

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from lt.models.nn.contrastive import Features, contrastive_loss
from lt.recipes.claims import Claim, Measured, Measures, Study, Variant, above, below, difference, excess, of, ratio
from lt.recipes.contrastive import measures
from lt.recipes.contrastive.objective import ContrastiveEncoder, ContrastiveObjective
from lt.recipes.system import Note
from lt.recipes.worlds import scenes

FEW, SOME = 500, 2000
_LOCKED = ("model.locked=true", "model.image_weights={english}")


def data(note: Note) -> tuple[dict[str, str], str]:
    """Scenes for the English tower and for the full Chinese runs; few others; scenes whose combinations training never shows."""
    values, test = measures.data(note)
    few, some = (scenes("train", count, measures.SIZE, note, seed=1) for count in (FEW, SOME))
    return {**values, "few": str(few), "some": str(some)}, test


def measure(run: Path, test: str) -> Measures:
    """The usual, and the time of the similarity."""
    encoder = ContrastiveEncoder.load(run)
    return {**measures.usual(encoder, run, test), **similarity_seconds(encoder.objective)}


def similarity_seconds(objective: ContrastiveObjective, batch: int = 64) -> Measures:
    """`similarity_seconds`: processor time of the loss, forward and backward, on random features of this model's shapes."""
    config = objective.model.config
    patches = {"global": 1, "reduced": config.reduced_tokens}.get(config.head, objective.grid**2)
    words = 1 if config.head == "global" else objective.tokenizer.length
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(batch, count, config.dim, generator=generator), dim=-1).requires_grad_()
        for count in (patches, words)
    )
    mask = None if words == 1 else torch.ones(batch, words, dtype=torch.bool)
    times = []
    for _ in range(4):
        start = time.process_time()
        loss, _ = contrastive_loss(Features(images), Features(texts, mask), torch.tensor([14.0, 14.0]))
        loss.backward()
        times.append(time.process_time() - start)
    return {"similarity_seconds": Measured(min(times))}


CLAIMS = (
    Claim(
        "locking",
        "With few pairs, a locked pretrained image tower beats training from scratch, and is cheaper",
        "all nine released models are locked; ablation not recovered",
        f"at {FEW} pairs locked beats scratch by more than 2 standard errors, and a step takes at most 0.7 of the time",
        {
            f"mean R@1, locked, {FEW} pairs, %": of("locked-few", "r1"),
            f"mean R@1, from scratch, {FEW} pairs, %": of("scratch-few", "r1"),
            f"mean R@1, same start but unlocked, {FEW} pairs, %": of("unlocked-few", "r1"),
            "locked - scratch, points": difference("locked-few", "scratch-few", "r1").must_be(above),
            f"locked - scratch, {SOME} pairs, points": difference("locked-some", "scratch-some", "r1"),
            "step time, locked / scratch": ratio("locked-few", "scratch-few", "step_seconds").must_be(below, 0.7),
        },
    ),
    Claim(
        "reduction",
        "Reducing the visual tokens is nearly free",
        "ViT-L, mean of ten sets: all tokens 68.63, reduced 73.03",
        "at most 2 points of mean R@1 lost, and the similarity takes at most 0.35 of the time",
        {
            "mean R@1, all 64 tokens, %": of("tokens", "r1"),
            "mean R@1, reduced to 12, %": of("reduced", "r1"),
            "lost, points": difference("tokens", "reduced", "r1").must_be(below, 2),
            "time of the similarity, reduced / all": ratio("reduced", "tokens", "similarity_seconds").must_be(
                below, 0.35
            ),
        },
    ),
    Claim(
        "similarities",
        "On a locked tower, reduced tokens beat all tokens",
        "ViT-B, mean of ten sets: global 63.49, token-wise 58.09, reduced 65.65",
        "mean R@1 of reduced above token-wise by more than 2 standard errors",
        {
            "mean R@1, global, %": of("locked-global", "r1"),
            "mean R@1, token-wise, %": of("locked-tokens", "r1"),
            "mean R@1, reduced, %": of("locked-reduced", "r1"),
            "reduced - token-wise, points": difference("locked-reduced", "locked-tokens", "r1").must_be(above),
        },
    ),
    Claim(
        "prompts",
        "An ensemble of prompts beats the bare class name",
        "ImageNet, one prompt -> 80: 45.2 -> 48.2 (ViT-B, reduced)",
        "top-1 higher by more than 1 standard error",
        {
            "top-1, seven prompts, %": of("reduced", "ensemble_votes"),
            "top-1, bare name, %": of("reduced", "bare"),
            "difference, points": excess("reduced", "ensemble_votes", "bare").must_be(above, errors=1),
        },
        "Prompts made of the world's own words, on combinations held out.",
    ),
)

STUDY = Study(
    system="wukong",
    variants=(
        Variant("english", ("model.head=tokens",), system="filip"),
        Variant("locked-few", (*_LOCKED, "data.train=[{few}]"), share=0.4),
        Variant("unlocked-few", ("model.image_weights={english}", "data.train=[{few}]"), share=0.4),
        Variant("scratch-few", ("data.train=[{few}]",), share=0.4),
        Variant("locked-some", (*_LOCKED, "data.train=[{some}]"), share=0.4),
        Variant("scratch-some", ("data.train=[{some}]",), share=0.4),
        Variant("tokens", ("model.head=tokens",)),
        Variant("reduced", ("model.head=reduced",)),
        Variant("locked-global", (*_LOCKED, "model.head=global"), share=0.6),
        Variant("locked-tokens", (*_LOCKED, "model.head=tokens"), share=0.6),
        Variant("locked-reduced", (*_LOCKED, "model.head=reduced"), share=0.6),
    ),
    claims=CLAIMS,
    data=data,
    measure=measure,
    steps=250,
    expected="27 minutes on two idle cores of an AMD EPYC",
)
