"""FILIP: fine-grained interactive language-image pre-training, and CLIP as its baseline."""

from lt.recipes.contrastive.options import AlignOptions
from lt.recipes.system import System, Verb

SYSTEM = System(
    about="Image-text contrast token by token (arXiv 2111.07783); with model.head=global CLIP.",
    recipe="lt.recipes.filip.objective:RECIPE",
    study="lt.recipes.filip.claims:STUDY",
    sample=Verb(
        AlignOptions,
        "lt.recipes.contrastive.sample:filip",
        "lt sample filip --align --data data/scenes-test-64px-1000",
        "Which word does each patch choose? Pictures in the style of FILIP's figure 2, and how often words find their things.",
    ),
)
