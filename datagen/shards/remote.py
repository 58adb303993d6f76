"""Where shards lie: local paths by plain system calls, everything else (s3://, http://, memory:// ...) through fsspec."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lt.datagen.shards.errors import ShardError

_URL = re.compile(r"[a-z][a-z0-9+.\-]+://", re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class Location:
    """A file by path or URL, with the few operations that shards need."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return not _URL.match(self.url)

    @property
    def path(self) -> Path:
        return Path(self.url)

    @property
    def name(self) -> str:
        url = self.url if self.is_local else self.url.partition("?")[0]  # a signed URL has its signature there
        return url.rstrip("/").rsplit("/", 1)[-1]

    def __truediv__(self, name: str) -> "Location":
        return Location(f"{self.url.rstrip('/')}/{name}")

    def sibling(self, name: str) -> "Location":
        return Location(self.url.removesuffix(self.name) + name)

    def with_suffix(self, suffix: str) -> "Location":
        return Location(self.url.removesuffix(".tar") + suffix)

    def stat(self) -> tuple[int, str]:
        """Size in bytes and a text that changes when the file changes ("" where the store tells none)."""
        with self._readable():
            if self.is_local:
                found = self.path.stat()
                return found.st_size, f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"
            info = self._filesystem().info(self.url)
            stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
            return int(info["size"]), str(stamp)

    def open(self) -> BinaryIO:
        """Open for reading from front to back, with seek."""
        with self._readable():
            return self.path.open("rb") if self.is_local else self._filesystem().open(self.url, "rb")

    def read_if_present(self) -> bytes | None:
        """All bytes, or None if there is no such file (or, as stores put it that list nothing, we may not see it)."""
        with self._readable():
            try:
                return self.path.read_bytes() if self.is_local else self._filesystem().cat_file(self.url)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except Exception as error:
                if not self.is_local and getattr(error, "status", None) in (403, 404, 410):
                    return None
                raise

    def list_tars(self) -> list["Location"]:
        """All `*.tar` of a folder, sorted by name. Empty if it is not a folder or none is there."""
        return [self / name for name in self.list_names() if name.endswith(".tar")]

    def list_names(self) -> list[str]:
        """The names of all that lies in a folder, sorted. Empty if it is not a folder."""
        with self._readable():
            if self.is_local:
                return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
            found = self._filesystem().ls(self.url, detail=False)
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def _filesystem(self) -> Any:
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.url)[0]
        except (ImportError, ValueError) as error:
            raise ShardError(f"Cannot open {self.url}: {error}.", "pip install 'lt-toolkit[remote]'") from error

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Whatever a path or one of fsspec's many stores raises becomes a ShardError."""
        try:
            yield
        except ShardError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ShardError(f"Cannot read {self.url}: {reason}.", "Check the path or URL.") from error


class RangeReader:
    """Random reads from one file, opened at the first read. Remote files are asked for exactly the bytes wanted."""

    def __init__(self, location: Location):
        self._location = location
        self._descriptor: int | None = None
        self._file: Any = None

    def read(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size); fewer only at the end of the file."""
        with self._location._readable():
            if self._location.is_local:
                if self._descriptor is None:
                    self._descriptor = os.open(self._location.url, os.O_RDONLY)
                return os.pread(self._descriptor, size, offset)
            if self._file is None:
                self._file = self._location._filesystem().open(self._location.url, "rb", cache_type="none")
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._file is not None:
            self._file.close()
        self._descriptor = self._file = None

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> Location:  # file handles do not cross process borders
        return self._location

    def __setstate__(self, location: Location) -> None:
        self.__init__(location)
