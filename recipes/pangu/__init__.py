"""PanGu-Draw: two generators that share the time line, control branches, Coop-Diffusion."""

from lt.recipes.pangu.options import PanguOptions, PanguReproduceOptions, PanguTrainOptions
from lt.recipes.system import System, Verb

SYSTEM = System(
    about="Text to image with two generators that share the time line (arXiv 2312.16486), and its control branches.",
    recipe="lt.recipes.pangu.objective:RECIPE",
    train=PanguTrainOptions,
    study="lt.recipes.pangu.claims:STUDY",
    reproduce=PanguReproduceOptions,
    sample=Verb(
        PanguOptions,
        "lt.recipes.pangu.sample:sample",
        "lt sample pangu --controls pose,edge --count 16",
        "Draw pictures from prompts and control pictures into shards, with a grid. The same command again continues.",
        out="samples/pangu",
        workers=0,
    ),
)
