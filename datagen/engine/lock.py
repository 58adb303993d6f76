"""One run at a time writes into a folder: an flock on a file that says who holds it.

The kernel drops an flock when its holder dies, however it dies: a lock file that nobody holds is stale and is taken over.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lt.datagen.shards.errors import LtError
from lt.datagen.shards.storage import write_error

LOCK = ".lock"


@contextlib.contextmanager
def directory_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the folder is made if it is missing.

    Args:
        wait: until another process lets it go, instead of refusing.

    Raises:
        LtError: another process holds it (the message says which, where and since when).
        OutputError: the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, wait)
        _sign(descriptor)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # before the lock is dropped: whoever waits sees that its file is gone
        os.close(descriptor)


def _acquire(path: Path, wait: bool = False) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = _holder(path)
            os.close(descriptor)
            raise LtError(
                f"Another run is writing into {path.parent}: {holder}.",
                "Wait until it ends, stop it, or choose another --out.",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """False if the file that we locked was removed by its last holder in the meantime."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(path: Path) -> str:
    try:
        info = json.loads(path.read_text())
        return f"process {info['pid']} on {info['host']} since {info['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not signed yet, or has just gone
        return "it started this moment"
