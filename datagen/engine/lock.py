"""One run at a time writes into a folder: a lock (filelock's, of the kernel) on a file that says who holds it.

The kernel drops the lock when its holder dies, however it dies: a lock file that nobody holds is stale and is taken over.
"""

import contextlib
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
    from filelock import FileLock, Timeout

    path = folder / LOCK
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
    except Timeout:
        raise LtError(
            f"Another run is writing into {folder}: {_holder(path)}.",
            "Wait until it ends, stop it, or choose another --out.",
        ) from None
    except OSError as error:
        lock.release()
        raise write_error(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # before the lock is dropped: whoever waits sees that its file is gone
        lock.release()


def _holder(path: Path) -> str:
    try:
        info = json.loads(path.read_text())
        return f"process {info['pid']} on {info['host']} since {info['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not signed yet, or has just gone
        return "it started this moment"
