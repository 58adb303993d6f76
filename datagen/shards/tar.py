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
_WINDOW = 2**20
_NAME_MAX = 100
_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_REST = bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
_CONSTANT_SUM = sum(_OWNER) + sum(_TIME) + sum(_REST) + 8 * ord(" ")  # the checksum field counts as spaces
_REGULAR = (b"0", b"\0", b"7")
# GNU long name, GNU long link, PAX and Sun's for the next member, PAX for all
_EXTENDED = (b"L", b"K", b"x", b"X", b"g")
_WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # their size is no length: hard links state that of their target
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_TYPE_NAMES = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"6": "fifo",
    b"S": "sparse file",
}
_DRIVE = re.compile("[A-Za-z]:")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BASE_AND_FIELD = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")


@dataclass(slots=True, frozen=True)
class Member:
    """A regular file in a tar: its name and where its bytes lie."""

    name: str
    offset: int
    size: int


ENDS = frozenset({"missing-end-marker", "truncated-archive", "bad-header", "unsafe-archive"})
"""Reasons that end a scan: the sample before them may be incomplete."""


HARMLESS = frozenset({"no-key", "joined-archive", "data-after-end"})
"""Reasons that cost no sample. What follows the end of an archive is for `verify`: most readers stop there."""


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


def footprint(name: str, size: int) -> int:
    """Bytes that a file takes in an archive, with its header and padding."""
    return len(header(name, 0)) + _next(0, size)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    size_field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    checksum = _CONSTANT_SUM + sum(name) + sum(size_field) + kind[0]
    return b"".join((name.ljust(_NAME_MAX, b"\0"), _OWNER, size_field, _TIME, b"%06o\0 " % checksum, kind, _REST))


def split_name(name: str) -> tuple[str, str] | None:
    """`a/b.seg.png` to (`a/b`, `seg.png`), as WebDataset splits at the first dot of the base name; None if it has none."""
    match = _BASE_AND_FIELD.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def scan(file: BinaryIO, size: int) -> Iterator[Member | Problem]:
    """Walk the headers of a seekable tar of `size` bytes.

    Yields regular files and, in their place, problems. Archives that follow the first, as `cat` joins them, are walked too.
    After a header that cannot be trusted the walk ends with a problem whose reason is in `ENDS`, since no later offset can be
    trusted either.
    """
    position, pax = 0, {}
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
            after = _next_data(file, position, size)
            if after is None:
                return
            file.seek(after)
            if _checksum_holds(file.read(BLOCK)):
                yield Problem(
                    "", "joined-archive", f"another archive follows at byte {after}: most readers stop before it"
                )
                position, pax = after, {}
                continue
            yield Problem("", "data-after-end", f"the bytes from {after} on are no archive")
            return
        length = _number(block[124:136])
        if length is None or not _checksum_holds(block):
            yield Problem("", "bad-header", f"the header at byte {position} is damaged")
            return
        kind, start = block[156:157], position + BLOCK
        if kind in _EXTENDED:
            if length > _MAX_EXTENDED_HEADER:
                yield Problem(_shown(_name(block)), "bad-header", f"an extended header of {length} bytes")
                return
            body = file.read(length)
            if len(body) < length:
                yield Problem(
                    _shown(_name(block)), "truncated-archive", f"the extended header at byte {position} is cut"
                )
                return
            if kind == b"L":
                pax["path"] = body.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif kind in (b"x", b"X"):
                pax |= _pax(body)
            elif kind == b"g" and not _pax(body).keys().isdisjoint({"path", "size"}):
                yield Problem(_shown(_name(block)), "unsafe-archive", "one name or size for all members")
                return
            position = _next(start, length)
            continue
        name = pax.get("path", _name(block))
        length = 0 if kind in _WITHOUT_BODY else _stated_size(pax, length)
        if kind == b"S" or any(record.startswith("GNU.sparse") for record in pax):
            yield Problem(_shown(name), "unsafe-archive", "a sparse file")
            return
        if length is None or start + length > size:
            yield Problem(_shown(name), "truncated-archive", f"the member at byte {position} reaches past the end")
            return
        position, pax = _next(start, length), {}
        if kind == b"5" or (kind == b"\0" and name.endswith("/")):
            continue
        if kind not in _REGULAR:
            yield Problem(_shown(name), "unsafe-member", _TYPE_NAMES.get(kind, f"member type {kind!r}"))
        elif reason := unsafe_name(name):
            yield Problem(_shown(name), "unsafe-member", reason)
        else:
            yield Member(name.removeprefix("./"), start, length)


def _next_data(file: BinaryIO, position: int, size: int) -> int | None:
    """The first block from `position` on that is not all zero; None where there is none."""
    while position < size:
        file.seek(position)
        data = file.read(_WINDOW)
        if zeros := data.lstrip(b"\0"):
            return position + (len(data) - len(zeros)) // BLOCK * BLOCK
        position += max(len(data), 1)
    return None


def _next(start: int, length: int) -> int:
    return start + length + -length % BLOCK


def _stated_size(pax: dict[str, str], length: int) -> int | None:
    """A PAX record `size` replaces the header's own; None if it is not a number."""
    size = pax.get("size")
    if size is None:
        return length
    return int(size) if size.isascii() and size.isdigit() and len(size) < 20 else None


def unsafe_name(name: str) -> str:
    """Why a name from an archive or sidecar must not become a path; "" if it may."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or _DRIVE.match(name):
        return "absolute path"
    if ".." in parts:
        return "path climbs out of its folder"
    if _UNPRINTABLE.search(name):
        return "control characters or invalid UTF-8 in the name"
    return ""


def _shown(name: str) -> str:
    """A hostile name as text that can be printed and stored."""
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]) & 0xFFFF:02x}", name)[:300]


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:262] == b"ustar" and block[263:265] == b"00" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _number(raw: bytes) -> int | None:
    """A header's number: octal digits, or binary where the first bit is set (which allows no negative ones here)."""
    if raw[0] & 0x80:
        return int.from_bytes(raw[1:], "big") if raw[0] == 0x80 else None
    match = _OCTAL.fullmatch(raw)
    return int(match[1] or b"0", 8) if match else None


def _checksum_holds(block: bytes) -> bool:
    return len(block) == BLOCK and _number(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _pax(body: bytes) -> dict[str, str]:
    """The records `<length> <key>=<value>\\n` of a PAX header; a damaged record ends them."""
    records, position = {}, 0
    while (space := body.find(b" ", position, position + 10)) > 0:
        digits = body[position:space]
        length = int(digits) if digits.isdigit() else 0
        if length <= space - position or position + length > len(body):
            break
        key, _, value = body[space + 1 : position + length - 1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records
