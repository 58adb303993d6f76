"""The built-in world `scenes` as training and test data, made once."""

from pathlib import Path

from lt.recipes.contrastive.settings import ContrastiveSettings
from lt.recipes.system import Note
from lt.recipes.worlds import scenes


def scenes_world(settings: ContrastiveSettings, note: Note) -> tuple[list[str], str]:
    """(training folders, test folder) of scenes under `data/`, made on the first call and found again later."""
    world = settings.world
    train = scenes("train", world.train, world.size, note)
    return [str(train)], str(test_scenes(settings, note))


def test_scenes(settings: ContrastiveSettings, note: Note) -> Path:
    """The folder of the world's test scenes."""
    return scenes("test", settings.world.test, settings.world.size, note)
