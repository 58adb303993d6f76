"""What an adapter or a control branch takes over from the model that it is built on: what must be the same in both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lt.recipes.config import flat, resolve
from lt.recipes.diffusion import hub
from lt.recipes.diffusion.settings import DiffusionSettings
from lt.recipes.diffusion.unets import is_pipeline, shape_of
from lt.recipes.registry import find_recipe, run_named
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import RECORD, Record

_SHARED = ("autoencoder", "text", "text_length", "unet", "prediction", "buckets")


def inherited(settings: DiffusionSettings, own: Sequence[str] = ()) -> Mapping[str, Any]:
    """See `Recipe.inherited`: out of the base's record, or where it has yet to be trained, its card; {} where nobody knows it.

    Args:
        own: further settings of `model` that the system's models must share.

    Raises:
        LtError: the record is damaged.
    """
    if not settings.base:
        return {}
    if is_pipeline(settings.base):
        return {
            "model.autoencoder": settings.base,
            "model.text": [settings.base],
            **shape_of(hub.found(settings.base)),
        }
    theirs = _settings_in(Path(settings.base))
    return {key: theirs[key] for name in (*_SHARED, *own) if (key := f"model.{name}") in theirs}


def _settings_in(where: Path) -> Mapping[str, Any]:
    checkpoint = checkpoints.chosen(where)
    if (checkpoint / RECORD).is_file():
        return Record.load(checkpoint).settings
    need = run_named(where)
    return flat(resolve(find_recipe(need.system).settings, need.card).settings) if need else {}
