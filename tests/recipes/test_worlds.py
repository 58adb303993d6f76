"""The built-in worlds as data: made once, taken up where they were interrupted."""

from lt.datagen.shards import open_shards
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.recipes.worlds import figures


def test_a_world_that_was_killed_before_its_first_shard_is_made_by_the_next_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    folder = figures("train", 4, 64, said.append)
    whole = {sample.key: sample["png"].tobytes() for sample in open_shards(str(folder))}
    manifest = Manifest.load(folder / MANIFEST)
    for file in folder.glob("shard-*"):
        file.unlink()
    manifest.complete, manifest.shards = False, []
    manifest.save(folder / MANIFEST)
    assert figures("train", 4, 64, said.append) == folder
    assert {sample.key: sample["png"].tobytes() for sample in open_shards(str(folder))} == whole
    assert len(said) == 2
    figures("train", 4, 64, said.append)
    assert len(said) == 2
