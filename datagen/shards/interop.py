"""Our shards as a Hugging Face `datasets` data set."""

from typing import Any

from lt.datagen.shards import codec
from lt.datagen.shards.errors import LtError


def load_hugging_face(urls: list[str], fields: list[str], streaming: bool, **options: Any):
    """`datasets.load_dataset` on the tars at `urls`, whose samples have no other fields than `fields`.

    Raises:
        LtError: the package is missing, or too old to hold json of any shape.
    """
    try:
        import datasets
        from datasets import Json
    except ImportError as error:
        raise LtError(f"This needs Hugging Face datasets ({error}).", "pip install 'datasets>=5.2'") from None
    kinds = {"txt": datasets.Value("string"), "json": Json()}
    features = {
        name: datasets.Image() if codec.is_image(name) else kinds.get(codec.kind_of(name), datasets.Value("binary"))
        for name in fields
    }
    features |= {"__key__": datasets.Value("string"), "__url__": datasets.Value("string")}
    return datasets.load_dataset(
        "webdataset",
        data_files=urls,
        split="train",
        streaming=streaming,
        features=datasets.Features(features),
        **options,
    )
