"""Files that are either whole or not there, digests, and the user's cache folder."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lt.datagen.shards.errors import OutputError

TEMP_MARK = ".tmp-"
"""Temporary names are `<name>.tmp-<random>`: no shard pattern matches them, and resume sweeps them away."""


def lt_home() -> Path:
    """The user's cache folder: `$LT_HOME`, else `$XDG_CACHE_HOME/lt`, else `~/.cache/lt`."""
    if home := os.environ.get("LT_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lt"


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "wb", durable: bool = True) -> Iterator[IO[Any]]:
    """Write a file under a temporary name and rename it into place on success; on failure nothing is left.

    Args:
        durable: flush to the disk before the rename, so that a power cut cannot leave an empty file of that name.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:8]}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside becomes an OutputError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> OutputError:
    """An OSError of a write as a message that says what to do."""
    import errno

    hints = {
        errno.ENOSPC: "Free some space or choose another --out, then run the same command again: it continues.",
        errno.EDQUOT: "Your quota is used up. Free some space, then run the same command again: it continues.",
        errno.EROFS: "The file system is read-only. Choose another --out.",
        errno.EACCES: "You may not write there. Choose another --out or change the permissions.",
        errno.EPERM: "You may not write there. Choose another --out or change the permissions.",
        errno.ENOTDIR: "A file stands where a folder is needed. Choose another --out.",
    }
    return OutputError(f"Cannot write {path}: {error.strerror or error}.", hints.get(error.errno or 0, ""))


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Write a whole file as `atomic_file` does."""
    with atomic_file(path, durable=durable) as file:
        file.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 json, atomically."""
    write_bytes(path, json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n")


def digest_of(value: Any) -> str:
    """sha256 (64 hex digits) of a json-able value, independent of the order of keys."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """sha256 (64 hex digits) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
