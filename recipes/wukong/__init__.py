"""Wukong: Chinese image-text contrast with a locked image tower and reduced tokens."""

from lt.recipes.contrastive.options import AlignOptions
from lt.recipes.system import System, Verb

SYSTEM = System(
    about="Chinese image-text contrast, locked image tower, reduced tokens (arXiv 2202.06767).",
    recipe="lt.recipes.wukong.objective:RECIPE",
    study="lt.recipes.wukong.claims:STUDY",
    sample=Verb(
        AlignOptions,
        "lt.recipes.contrastive.sample:wukong",
        "lt sample wukong --align --count 6",
        "The same for Chinese captions; with reduced tokens, of the patches before the reduction.",
    ),
)
