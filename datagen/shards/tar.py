"""Tar archives, strictly: headers that never vary, and a scanner that trusts nothing.

Written headers are ustar with fixed owner, mode and time, so equal samples give equal archives. The scanner reads headers only;
it names every member that could fool a reader (links, devices, sparse files, absolute or climbing paths) instead of following it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
_MAX_EXTENDED_HEADER = 2**20
_NAME_MAX = 100
_REGULAR = (b"0", b"\0", b"7")
_TYPE_NAMES = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"6": "fifo",
    b"S": "sparse file",
}
_BASE_AND_FIELD = re.compile(r"((?:.*/)?[^./][^.]*)\.([^/]+)")


@dataclass(slots=True, frozen=True)
class Member:
    """A regular file in a tar: its name and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(slots=True, frozen=True)
class Problem:
    """Something in an archive that a reader must not pass on. `name` is the member or key concerned."""

    name: str
    reason: str
    detail: str = ""


def header(name: str, size: int) -> bytes:
    """The header block(s) of a regular file; names over 100 bytes get a GNU long-name member before it."""
    raw = name.encode("ascii")
    if len(raw) > _NAME_MAX:
        long_name = raw + b"\0"
        return _block(b"././@LongLink", len(long_name), b"L") + padded(long_name) + _block(raw[:_NAME_MAX], size, b"0")
    return _block(raw, size, b"0")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    size_field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    before = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size_field + b"00000000000\0"
    after = kind + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    checksum = sum(before) + sum(after) + 8 * 32
    return before + b"%06o\0 " % checksum + after


def split_name(name: str) -> tuple[str, str] | None:
    """`a/b.seg.png` to (`a/b`, `seg.png`), as WebDataset splits at the first dot of the base name; None if it has none."""
    match = _BASE_AND_FIELD.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def scan(file: BinaryIO, size: int) -> Iterator[Member | Problem]:
    """Walk the headers of a seekable tar of `size` bytes.

    Yields regular files and, in their place, problems. After a header that cannot be trusted the walk ends with a problem,
    since no later offset can be trusted either.
    """
    position, long_name, long_size = 0, None, None
    while True:
        if position == size and position > 0:
            yield Problem("", "missing-end-marker", "the archive ends without the two zero blocks")
            return
        file.seek(position)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            yield Problem("", "truncated-archive", f"the header at byte {position} is cut")
            return
        if not any(block):
            if size - position < len(END_OF_ARCHIVE):
                yield Problem("", "missing-end-marker", "the archive ends after one zero block")
            return
        if not _checksum_holds(block):
            yield Problem("", "bad-header", f"the header at byte {position} fails its checksum")
            return
        kind, length = block[156:157], _number(block[124:136])
        start = position + BLOCK
        if kind == b"S":
            yield Problem(_name(block), "unsafe-member", "sparse file")
            return
        if length is None or start + length > size:
            yield Problem(_name(block), "truncated-archive", f"a member at byte {position} reaches past the end")
            return
        position = start + length + -length % BLOCK
        if kind in (b"L", b"x", b"g"):
            if length > _MAX_EXTENDED_HEADER:
                yield Problem(_name(block), "bad-header", f"an extended header of {length} bytes")
                return
            body = file.read(length)
            if kind == b"L":
                long_name = body.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind == b"x":
                records = _pax(body)
                if any(key.startswith("GNU.sparse") for key in records):
                    yield Problem(_name(block), "unsafe-member", "sparse file")
                    return
                long_name, long_size = records.get("path", long_name), records.get("size")
            continue
        name = long_name if long_name is not None else _name(block)
        if long_size is not None:
            if not long_size.isdigit() or start + int(long_size) > size:
                yield Problem(name, "truncated-archive", "a member reaches past the end")
                return
            length = int(long_size)
            position = start + length + -length % BLOCK
        long_name = long_size = None
        if kind == b"5":
            continue
        if kind not in _REGULAR:
            yield Problem(name, "unsafe-member", _TYPE_NAMES.get(kind, f"member type {kind!r}"))
        elif reason := _unsafe_name(name):
            yield Problem(name, "unsafe-member", reason)
        else:
            yield Member(name.removeprefix("./"), start, length)


def _unsafe_name(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "absolute path"
    if ".." in parts:
        return "path climbs out of its folder"
    if not name.isprintable() or "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        return "control characters or invalid UTF-8 in the name"
    return ""


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:262] == b"ustar" and block[263:265] == b"00" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _number(raw: bytes) -> int | None:
    if raw[0] & 0x80:
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
    try:
        return int(raw.strip(b" \0") or b"0", 8)
    except ValueError:
        return None


def _checksum_holds(block: bytes) -> bool:
    stated = _number(block[148:156])
    return stated == sum(block[:148]) + sum(block[156:]) + 8 * 32


def _pax(body: bytes) -> dict[str, str]:
    records, position = {}, 0
    while position < len(body):
        length, _, _ = body[position:].partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        record = body[position + len(length) + 1 : position + int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position += int(length)
    return records
