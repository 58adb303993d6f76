"""CLIP score: likeness of pictures and their prompts, by any contrastive checkpoint of lt."""

import numpy as np
import torch

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, SampleError, captions_of
from lt.models.nn.contrastive import image_similarity, text_similarity
from lt.recipes.evaluate.bootstrap import Interval, resampled
from lt.recipes.evaluate.features import Encoder
from lt.recipes.evaluate.images.pictures import BATCH, PictureSet


def clip_score(drawn: PictureSet, encoder: Encoder) -> tuple[Interval, dict[str, int]]:
    """100 max(similarity, 0) of each picture and its prompt, averaged, and what was passed over.

    Similarity is the cosine; with a token-wise head the mean of both directions, each a mean of cosines.

    Source:
        Hessel et al. 2021, "CLIPScore", arXiv 2104.08718, equation 1, with 100 in the place of 2.5.

    Raises:
        LtError: no sample has a prompt in the encoder's language.
    """
    scores, bad = [], {}
    for group in batched(drawn.samples(), BATCH):
        pictures, texts = [], []
        for sample in group:
            try:
                texts.append(captions_of(sample, encoder.language)[0])
            except SampleError as error:
                bad[error.reason] = bad.get(error.reason, 0) + 1
                continue
            pictures.append(encoder.prepared(sample.picture))
        if pictures:
            images, said = encoder.images(pictures), encoder.texts(texts)
            both = (image_similarity(images, said) + text_similarity(images, said)) / 2
            scores.append(100 * torch.diagonal(both).clamp(min=0).double().numpy())
    if not scores:
        raise LtError(
            f"No picture of {drawn.where} has a prompt in {encoder.language!r}, the language of --clip.",
            "Name a checkpoint of the prompts' language, or leave --clip out.",
        )
    values = np.concatenate(scores)
    return resampled(values, np.ones(len(values)))[0], bad
