"""What a caption names and the picture shows: the tokens of a thing's name, and its mask. Ground truth for localisation."""

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from lt.datagen.shards import Sample
from lt.datagen.shards.captions import texts_of
from lt.datagen.sources.concepts import all_concepts, concept_named
from lt.datagen.sources.grammar import plural
from lt.models.nn.tokenizers import TextTokenizer, find_phrase

MAX_THINGS = 4


@dataclass(frozen=True)
class Thing:
    """A thing that the caption names: `name` as it stands there, `places` of its tokens, its visible `mask` bool [h, w]."""

    name: str
    places: list[int]
    mask: np.ndarray


def things_of(sample: Sample, language: str, caption: str, tokenizer: TextTokenizer) -> list[Thing]:
    """The things of a sample with layers that its caption names, at most `MAX_THINGS`; none for a sample without layers.

    Layers that one phrase of the caption stands for ("two apples") are one thing. A thing whose name is not found in the caption
    as the tokenizer sees it, or that two things share, is left out.
    """
    layers = layers_of(sample)
    if not layers or not sample.layer_fields:
        return []
    masks = visible_masks(sample)
    groups: dict[Any, list[int]] = {}
    for z, layer in enumerate(layers[: len(masks)]):
        phrase = layer.get("phrase")
        groups.setdefault(phrase if isinstance(phrase, str | int) else -1 - z, []).append(z)
    found = []
    for members in groups.values():
        name, places = _named(layers[members[0]], language, caption, tokenizer)
        if places:
            found.append(Thing(name, places, np.any([masks[z] for z in members], axis=0)))
    taken = [place for thing in found for place in thing.places]
    return [thing for thing in found if all(taken.count(place) == 1 for place in thing.places)][:MAX_THINGS]


def layers_of(sample: Sample) -> list[dict[str, Any]]:
    """What `json.layers` tells of each layer; nothing where foreign json has another shape or is damaged."""
    meta = sample.readable("json")
    layers = meta.get("layers") if isinstance(meta, dict) else None
    return layers if is_list_of_objects(layers) else []


def is_list_of_objects(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def visible_masks(sample: Sample) -> list[np.ndarray]:
    """For every layer the pixels [h, w] where it is opaque and no layer above covers it."""
    opaque = [sample[name][:, :, 3] > 127 for name in sample.layer_fields]
    covered, masks = np.zeros_like(opaque[0]), []
    for alpha in reversed(opaque):
        masks.append(alpha & ~covered)
        covered = covered | alpha
    return masks[::-1]


def _named(layer: dict[str, Any], language: str, caption: str, tokenizer: TextTokenizer) -> tuple[str, list[int]]:
    for name in names_of(layer, language):
        if places := find_phrase(tokenizer, caption, name):
            return name, places
    return "", []


def names_of(layer: dict[str, Any], language: str) -> list[str]:
    """What a layer's thing may be called in a caption: for drawn things singular and plural, else category and caption."""
    category = layer["category"] if isinstance(layer.get("category"), str) else ""
    if category in {concept.en for concept in all_concepts()}:
        concept = concept_named(category)
        return [concept.zh] if language == "zh" else [concept.en, concept.plural or plural(concept.en)]
    told = layer.get("caption")
    said = texts_of(told.get(language) if isinstance(told, dict) else told)
    return [name for name in (category if language == "en" else "", *said[:1]) if name]
