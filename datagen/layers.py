"""Layered images from photographs: `lt datagen layers`, the `light` preset (no weights needed).

    pipeline = layers_pipeline(source, LayersSettings(max_layers=3))

A sample comes with a picture, `json.captions` and `json.instances` (COCO's annotations) and leaves with `background.png`,
`layer-00.png` ... and `json.layers`, `json.zorder`, `json.background`, `json.recomposition`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lt.datagen.engine.stage import Pipeline, Source
from lt.datagen.stages.background import CompleteBackground
from lt.datagen.stages.captions import CaptionLayers
from lt.datagen.stages.entities import ChooseEntities
from lt.datagen.stages.filters import DropDuplicates, FilterEntities, FilterRecomposition
from lt.datagen.stages.finish import DescribeLayers
from lt.datagen.stages.masks import MakeMasks, check_expert
from lt.datagen.stages.matte import MatteLayers
from lt.datagen.stages.recompose import SolveLayers
from lt.datagen.stages.zorder import OrderLayers

Share = Annotated[float, Field(ge=0, le=1)]


class LayersSettings(BaseModel):
    """What can be set in a run of `lt datagen layers`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_layers: Annotated[int, Field(ge=1, le=6)] = 4
    """Layers a picture, at most; touching things of one kind are joined before the smallest are left out."""
    min_area: Share = 0.005
    """Smallest share of the picture that a layer covers."""
    max_area: Share = 0.7
    """Largest share of the picture that a layer covers."""
    max_border: Share = 0.4
    """Largest share of a layer's outline that lies on the picture's border."""
    min_largest: Share = 0.5
    """Smallest share of a layer that is one piece."""
    segmenter: str = "opencv"
    """Backend for instances that have a box but no mask: opencv (GrabCut), transformers:NAME (SAM)."""
    inpainter: str = "patches"
    """Backend that completes the background: patches (by example), opencv:telea, opencv:ns, diffusers:NAME."""
    duplicate_distance: Annotated[int, Field(ge=-1, le=64)] = 4
    """Differing bits of 64 up to which two pictures of a shard are the same; -1 keeps all."""
    min_psnr: Annotated[float, Field(ge=0)] = 35.0
    """Smallest PSNR in dB of background and layers against the photograph."""


def layers_pipeline(source: Source, settings: LayersSettings | None = None) -> Pipeline:
    """The stages of the light preset, in order. Raises LtError where a backend cannot work here."""
    s = settings or LayersSettings()
    check_expert("segmenter", s.segmenter)
    check_expert("inpainter", s.inpainter)
    stages: tuple[Any, ...] = (
        DropDuplicates(distance=s.duplicate_distance),
        ChooseEntities(max_layers=s.max_layers, min_area=s.min_area, max_area=s.max_area),
        MakeMasks(segmenter=s.segmenter),
        FilterEntities(min_area=s.min_area * 0.8, min_largest=s.min_largest, max_border=s.max_border),
        OrderLayers(),
        MatteLayers(),
        CompleteBackground(inpainter=s.inpainter),
        SolveLayers(),
        FilterRecomposition(min_psnr=s.min_psnr),
        CaptionLayers(),
        DescribeLayers(),
    )
    return Pipeline("layers", source, stages, tolerance=10 ** (-s.min_psnr / 20))
