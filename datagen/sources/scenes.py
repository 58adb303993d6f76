"""The world `scenes`: 1 to 4 OpenMoji drawings on a background, with exact layers and captions that need word order.

A sample holds `background.png`, `layer-00.png` ..., the picture `png` (background and layers composited, exact to the bit),
`txt` and `json` with captions in both languages, layers, relations and the split. It depends on seed, split, size and number
alone.

Splits are apart by combination (`held_out`): `train` shows only pairs of concept and concept, colour and concept, count and
concept that are not held out; every `test` scene shows at least one that is; every `novel` scene shows at least one concept
that neither of them knows.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lt.datagen.engine.stage import rng_for
from lt.datagen.shards import Sample
from lt.datagen.shards.compose import alpha_box
from lt.datagen.shards.storage import digest_of_file
from lt.datagen.sources.backgrounds import OUTDOOR, Background, sample_background
from lt.datagen.sources.concepts import TABLE
from lt.datagen.sources.drawings import draw, drawn_layer, drawn_sample
from lt.datagen.sources.grammar import Phrase, captions
from lt.datagen.sources.numbered import NumberedSource
from lt.datagen.sources.openmoji import ATTRIBUTION, LICENCE, SOURCE, package_inputs
from lt.datagen.sources.scene_layout import SPLITS, DoesNotFit, Plan, is_beside, lay_out, sample_plan

MIN_COVERED = 0.08
"""In front of: at least this part of the thing behind is covered (or of the thing in front, where that is the smaller)."""
MIN_VISIBLE = 0.45
"""At least this part of every thing is seen."""

_KINDS = ("plain",) * 3 + ("fading",) * 2 + OUTDOOR + ("meadow", "room", "room", "under water")


@dataclass(frozen=True)
class Layer:
    """One drawing in its place: `pixels` [size, size, 4] of the full canvas, `box` (x, y, width, height) of its ink."""

    phrase: int
    pixels: np.ndarray
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A plan made visible. Layers lie in order of depth, lowest first."""

    plan: Plan
    background: Background
    layers: tuple[Layer, ...]

    def visible(self) -> list[float]:
        """Which part (0..1) of each layer's alpha is not covered by the layers above it."""
        fractions = []
        for index, layer in enumerate(self.layers):
            x, y, width, height = layer.box
            window = slice(y, y + height), slice(x, x + width)
            alpha = layer.pixels[window][..., 3].astype(np.float64)
            seen = alpha.copy()
            for upper in self.layers[index + 1 :]:
                seen *= 1 - upper.pixels[window][..., 3] / 255
            fractions.append(round(float(seen.sum() / alpha.sum()), 4))
        return fractions

    def relations(self) -> list[dict[str, Any]]:
        """The plan's clauses between layers: {subject: [z ...], relation, object: [z ...]}."""
        return [
            {"subject": self._members((c.subject,)), "relation": c.relation, "object": self._members(c.objects)}
            for c in self.plan.clauses
        ]

    def holds(self) -> bool:
        """Whether everything that the plan says is true of the pixels."""
        return min(self.visible()) >= MIN_VISIBLE and all(
            self._relation_holds(relation["relation"], relation["subject"], relation["object"])
            for relation in self.relations()
        )

    def _members(self, phrases: tuple[int, ...]) -> list[int]:
        return [z for z, layer in enumerate(self.layers) if layer.phrase in phrases]

    def _relation_holds(self, relation: str, subjects: list[int], objects: list[int]) -> bool:
        if relation not in ("front", "behind"):
            return is_beside(relation, [self.layers[z].box for z in subjects], [self.layers[z].box for z in objects])
        upper, lower = (subjects, objects) if relation == "front" else (objects, subjects)
        return all(a > b and self._covers(a, b) for a in upper for b in lower)

    def _covers(self, upper: int, lower: int) -> bool:
        first, second = self.layers[upper].pixels[..., 3] > 127, self.layers[lower].pixels[..., 3] > 127
        return float((first & second).sum()) >= MIN_COVERED * min(first.sum(), second.sum())


def make_scene(rng: np.random.Generator, split: str, size: int) -> Scene:
    """Draw scenes until one holds what it says."""
    for _ in range(200):
        background = sample_background(rng, _KINDS)
        plan = sample_plan(rng, background, split)
        for _ in range(12):
            try:
                things = lay_out(rng, plan, background)
            except DoesNotFit:
                continue
            scene = Scene(plan, background, tuple(_layer(plan.phrases[n], n, box, size) for n, box in things))
            if scene.holds():
                return scene
    raise RuntimeError(f"found no {split} scene of {size} pixels")


@dataclass(frozen=True)
class ScenesSource(NumberedSource):
    """Scenes by number; see `NumberedSource` for the settings. Splits: `train`, `test`, `novel`."""

    name: ClassVar[str] = "scenes"
    thing: ClassVar[str] = "scene"
    known_splits: ClassVar[tuple[str, ...]] = SPLITS

    def inputs(self) -> list[str]:
        return [*package_inputs(), digest_of_file(TABLE)]

    def licences(self) -> list[str]:
        return [f"{LICENCE}: {ATTRIBUTION}"]

    def sample(self, number: int) -> Sample:
        """The scene of this number."""
        scene = make_scene(rng_for(self.seed, "scenes", self.split, str(number)), self.split, self.size)
        background = scene.background.render(self.size)
        layers = [layer.pixels for layer in scene.layers]
        said = captions(scene.plan.phrases, scene.plan.clauses, scene.background.where(scene.plan.in_sky))
        meta = {
            "split": self.split,
            "seed": self.seed,
            "novel": scene.plan.novel,
            "background": {"kind": scene.background.kind, "caption": scene.background.captions},
            "layers": _describe(scene),
            "relations": scene.relations(),
            "source": dict(SOURCE),
        }
        return drawn_sample(self.key(number), background, layers, said, meta)


def _layer(phrase: Phrase, index: int, box: tuple[float, float, float, float], size: int) -> Layer:
    """Render a drawing into a full canvas. The box's corner and longer side are rounded to pixels."""
    ink = draw(phrase.concept.code, max(2, round(max(box[2], box[3]) * size)), phrase.concept.paint, phrase.colour)
    height, width = ink.shape[:2]
    x, y = min(round(box[0] * size), size - width), min(round(box[1] * size), size - height)
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[y : y + height, x : x + width] = ink
    inner_x, inner_y, inner_width, inner_height = alpha_box(ink[..., 3]) or (0, 0, width, height)
    return Layer(index, pixels, (x + inner_x, y + inner_y, inner_width, inner_height))


def _describe(scene: Scene) -> list[dict[str, Any]]:
    """`json.layers`: what each layer is, lowest first."""
    described = []
    for z, (layer, visible) in enumerate(zip(scene.layers, scene.visible(), strict=True)):
        phrase = scene.plan.phrases[layer.phrase]
        one, concept = replace(phrase, count=1), phrase.concept
        caption = {"en": one.en, "zh": one.zh}
        said = {"colour": phrase.colour, "size": phrase.size, "kind": concept.category, "code": concept.code}
        more = {"visible": visible, "z": z, "attributes": said, "phrase": layer.phrase}
        described.append(drawn_layer(caption, concept.en, layer.box, **more))
    return described
