"""PanGu-Draw's claims in miniature, on drawn figures: two halves, texture trained small, enlarged data, coop, hand-over.

The world is `miniature.py`: figures alone, at 32 pixels in 8x8 latents, small pictures of 16 pixels in 4x4 latents, one short
caption ("a person in a red shirt and blue trousers"). Compared schemes spend equal multiply-adds in training; a step of `whole`
costs about two of a half's:

| variant | network | learns from | steps |
|---|---|---|---|
| structure, texture-high | half | everything, sharp, at 32 pixels | 1 each |
| whole | whole | the same | 2 halves / whole |
| structure-low, texture-low | half | the same, at 16 pixels | 1 each |
| structure-mixed | half | the same pictures, 70 % of them enlarged from 16 to 32 pixels | 1 |
| whole-mixed | whole | the same | (half + half at 16) / whole |
| whole-sharp | whole | the sharp 30 % of them | the same |
| blind, blind-pose | half | another autoencoder's latents, without captions; its branch for skeletons | 1 and 0.6 |

At 16 pixels sharp and small pictures are the same, so texture-low is the texture generator of the mixture too. Autoencoders and
judge are trained once for all seeds.

One step is 32 pictures, so a share of 1 is 48,000. Measured: 126 minutes of one thread for three seeds and the shared runs,
beside other work.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from lt.models.nn.unet import TINY, TINY_WHOLE, UNetShape, multiply_adds
from lt.recipes.claims import (
    Claim,
    Evidence,
    Joint,
    Study,
    Table,
    Variant,
    above,
    at_least,
    at_most,
    below,
    difference,
    exact,
    of,
    ratio,
)
from lt.recipes.diffusion.texts import LENGTH
from lt.recipes.pangu import ledger
from lt.recipes.pangu.measures import (
    JUDGE,
    SPACE,
    Drawing,
    alone,
    handed_over,
    of_run,
    seen,
    state_enlarged,
    together,
    true_pictures,
)
from lt.recipes.pangu.miniature import HIGH, LOW, SMALL, shrunk
from lt.recipes.system import Note

TRAIN, TEST = 8000, 256
CHANNELS, FACTOR = 12, 4
"""Of the latents; four pixels a latent as in the tiny card, but more channels: small figures are fine detail."""


def cost(shape: UNetShape, side: int) -> int:
    """Multiply-adds of one pass for a square picture, the text encoder not counted."""
    latent = side // FACTOR
    return multiply_adds(replace(shape, in_channels=CHANNELS, out_channels=CHANNELS), latent, latent, LENGTH)


HALF, HALF_LOW, WHOLE = cost(TINY, HIGH), cost(TINY, LOW), cost(TINY_WHOLE, HIGH)


def data(note: Note) -> tuple[dict[str, str], str]:
    """Figures to learn from, sharp and mixed; figures whose combinations of clothes and actions training never shows."""
    sharp, mixed, test = shrunk("train", TRAIN, note), shrunk("train", TRAIN, note, SMALL), shrunk("test", TEST, note)
    return {"data.train": f"[{sharp}]", "data.validation": str(test), "mixed": str(mixed)}, str(test)


# Variants

_OPTIMIZER = ("train.batch=32", "train.lr=1e-3", "train.ema=0.995")
_GENERATOR = (*_OPTIMIZER, f"model.high={HIGH}", f"model.low={LOW}", f"model.autoencoder={{{SPACE}}}")
_BLIND = (*_OPTIMIZER, "model.generator=whole", f"model.high={HIGH}", "model.autoencoder={vae-b}", "model.drop_text=1")
_AUTOENCODER = (f"model.size={HIGH}", f"model.channels={CHANNELS}", "model.kl=1e-5", "train.batch=8")


def generator(name: str, kind: str, *overrides: str, share: float = 1.0) -> Variant:
    """A variant that learns `kind` with a half or, for `whole`, a whole U-Net."""
    unet = "tiny-whole" if kind == "whole" else "tiny"
    return Variant(name, (*_GENERATOR, f"model.generator={kind}", f"model.unet={unet}", *overrides), share=share)


_MIXED = "data.train=[{mixed}]"
_MIXED_SHARE = (HALF + HALF_LOW) / WHOLE
VARIANTS = (
    Variant(JUDGE, system="judge", share=0.8, shared=True),
    Variant(SPACE, _AUTOENCODER, "vae", share=3.2, shared=True),
    Variant("vae-b", (*_AUTOENCODER, "train.seed=1"), "vae", share=3.2, shared=True),
    generator("structure", "structure"),
    generator("texture-high", "texture", f"model.low={HIGH}"),
    generator("texture-low", "texture"),
    generator("structure-low", "structure", f"model.high={LOW}"),
    generator("whole", "whole", share=2 * HALF / WHOLE),
    generator("structure-mixed", "structure", _MIXED),
    generator("whole-mixed", "whole", _MIXED, share=_MIXED_SHARE),
    generator("whole-sharp", "whole", _MIXED, "model.drop_small=true", share=_MIXED_SHARE),
    Variant("blind", (*_BLIND, "model.unet=tiny")),
    Variant("blind-pose", (*_BLIND, "model.unet=tiny", "model.control=pose", "model.base={blind}"), share=0.6),
)

# Drawings

_PAIR = ("structure", "texture-high")
_LOW_PAIR = ("structure-low", "texture-low")
_COOP = (*_PAIR, "blind", "blind-pose", "vae-b")


def drawing(name: str, variants: tuple[str, ...], draw: Drawing) -> Joint:
    """What the judge sees in the drawings of some variants."""
    return Joint(name, (JUDGE, SPACE, *variants), partial(seen, draw))


def by(name: str, *variants: str, side: int = HIGH) -> Joint:
    """A model that draws alone, or two generators that share the time line."""
    return drawing(name, variants, partial(alone, variants, side))


def coop(name: str, weight: float, send_back: bool = True) -> Joint:
    """The captioned pair with the blind model that knows skeletons."""
    return drawing(name, _COOP, partial(together, _PAIR, ("blind", "blind-pose"), weight, send_back))


JOINTS = (
    drawing("true", (), true_pictures),
    by("halves", *_PAIR),
    by("one", "whole"),
    by("small-texture", "structure", "texture-low"),
    by("small-structure", "structure-low", "texture-high"),
    by("mixed-halves", "structure-mixed", "texture-low"),
    by("mixed-one", "whole-mixed"),
    by("sharp-one", "whole-sharp"),
    by("small", *_LOW_PAIR, side=LOW),
    drawing("handed-over", (*_LOW_PAIR, *_PAIR), partial(handed_over, _LOW_PAIR, _PAIR)),
    drawing("state-enlarged", (*_LOW_PAIR, *_PAIR), partial(state_enlarged, _LOW_PAIR, _PAIR)),
    coop("coop-0", 0.0),
    coop("coop-half", 0.5),
    coop("coop-1", 1.0),
    coop("coop-half-one-way", 0.5, send_back=False),
)

# Judging

_SCHEMES = {"text alone (d = 0)": "coop-0", "together (d = 0.5)": "coop-half", "pose alone (d = 1)": "coop-1"}
_SCHEMES |= {"d = 0.5 without sending back": "coop-half-one-way", "true pictures": "true"}
_OBEYED = {"both right": "both", "text right": "text", "key points found": "pck"}
_GAINS = {"coop-0": 10, "coop-1": 10, "coop-half-one-way": 5}  # points that are asked of d = 0.5
fd = partial(ratio, figure="fd")

CLAIMS = (
    Claim(
        "halves",
        "Two half-size generators draw as well as one whole model of equal training cost, at half the cost a step",
        "training cost -51 %, inference time about -50 %",
        "Fréchet distance at most 1.05 times, a step at most 0.6 times",
        {
            "Fréchet distance, two halves / one whole": fd("halves", "one").must_be(at_most, 1.05),
            "multiply-adds of a sampling step, half / whole": exact(HALF / WHOLE).must_be(at_most, 0.6),
            "processor time of a drawing, two halves / one whole": ratio("halves", "one", "draw_seconds"),
            "Fréchet distance, two halves": of("halves", "fd"),
            "Fréchet distance, one whole": of("one", "fd"),
        },
    ),
    Claim(
        "small texture",
        "Texture can be learned at the lower resolution; structure cannot",
        "structure at 1024, texture at 512 pixels; ablation not recovered",
        "Fréchet distance at most 1.1 times with texture learned small, at least 1.5 times with structure learned small",
        {
            f"Fréchet distance, texture learned at {LOW} / at {HIGH} pixels": fd("small-texture", "halves").must_be(
                at_most, 1.1
            ),
            f"Fréchet distance, structure learned at {LOW} / at {HIGH} pixels": fd("small-structure", "halves").must_be(
                at_least, 1.5
            ),
            "multiply-adds of a training step, small / large": exact(HALF_LOW / HALF),
        },
    ),
    Claim(
        "enlarged data",
        "Small pictures, enlarged, serve structure and do not blur what is drawn",
        "+48 % data used",
        "the lowest Fréchet distance of three, at least 90 % of the true pictures' fine detail, and more than one model",
        {
            "pictures used, halves / one on sharp pictures": ratio("structure-mixed", "whole-sharp", "samples"),
            "Fréchet distance, halves / one on the mixture": fd("mixed-halves", "mixed-one").must_be(below, 1),
            "Fréchet distance, halves / one on the sharp pictures": fd("mixed-halves", "sharp-one").must_be(below, 1),
            "energy of fine detail, halves, % of true pictures": of("mixed-halves", "fine").must_be(at_least, 90),
            "the same, one on the mixture, %": of("mixed-one", "fine"),
            "the same, one on the sharp pictures, %": of("sharp-one", "fine"),
        },
        unshown=(difference("mixed-halves", "mixed-one", "fine").must_be(above, errors=0),),
    ),
    Claim(
        "coop",
        "A text model and a pose model of different latent spaces, together, obey both",
        "shown in pictures",
        "both right at least 10 points more often than for either alone, and 5 more than without sending the fusion back",
        {
            **{
                f"{how}, {who}, %": of(drawn, figure)
                for how, figure in _OBEYED.items()
                for who, drawn in _SCHEMES.items()
            },
            **{
                f"both right, d = 0.5 - {other}, points": difference("coop-half", other, "both").must_be(at_least, gain)
                for other, gain in _GAINS.items()
            },
        },
        "Text is right: the top has the colour named. Pose is right: at least half of the visible key points found.",
    ),
    Claim(
        "hand-over",
        "From low to high resolution the clean guess is to be enlarged, not the noisy state",
        "shown in pictures",
        "Fréchet distance at most half of the enlarged state's, and below the enlarged small drawing's",
        {
            "Fréchet distance, clean guess enlarged / noisy state enlarged": fd(
                "handed-over", "state-enlarged"
            ).must_be(at_most, 0.5),
            "Fréchet distance, hand-over / small drawing enlarged": fd("handed-over", "small").must_be(below, 1),
            "energy of fine detail, hand-over, % of true pictures": of("handed-over", "fine"),
            "the same, small drawing enlarged, %": of("small", "fine"),
        },
    ),
)


def tables(runs: Mapping[str, Path], evidence: Evidence) -> list[Table]:
    """The efficiency table: measured here on the mixture, and estimated with the mixture's sizes as if 16 pixels were 512."""
    schemes = {
        "time-decoupled": ("mixed-halves", ("structure-mixed", "texture-low")),
        "monolithic, small pictures enlarged": ("mixed-one", ("whole-mixed",)),
        "monolithic, small pictures dropped": ("sharp-one", ("whole-sharp",)),
    }
    here = ledger.measured(
        {name: [runs[variant] for variant in variants] for name, (_, variants) in schemes.items()},
        {name: evidence[drawn][0] for name, (drawn, _) in schemes.items()},
    )
    small = round(1000 * SMALL)
    return [here, ledger.estimated([(512, 512)] * small + [(1024, 1024)] * (1000 - small))]


STUDY = Study(
    system="pangu",
    variants=VARIANTS,
    claims=CLAIMS,
    data=data,
    measure=of_run,
    steps=1500,
    expected="about 126 minutes of one core",
    joints=JOINTS,
    tables=tables,
)
