"""The scanner against the standard library's tarfile, and against archives made to fool a reader."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.datagen.shards import tar
from lt.datagen.shards.index import scan_index

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
parts = st.text("abcdefgh_é猫 -.", min_size=1, max_size=60).filter(lambda part: part.strip(". ") == part)
names = st.lists(parts, min_size=1, max_size=4).map("/".join)


def archive(*members: tarfile.TarInfo | tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as out:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                out.addfile(info, io.BytesIO(member[1]))
            else:
                out.addfile(member)
    return buffer.getvalue()


def scan(data: bytes) -> list[tar.Member | tar.Problem]:
    return list(tar.scan(io.BytesIO(data), len(data)))


def info(name: str, kind: bytes, **fields) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(files=st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_regular_files_are_found_where_tarfile_finds_them(format, files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as out:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            try:
                out.addfile(member, io.BytesIO(content))
            except ValueError:  # ustar cannot hold every long name
                assert format == tarfile.USTAR_FORMAT
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        theirs = [(member.name, member.offset_data, member.size) for member in archive.getmembers()]
    ours = [(member.name, member.offset, member.size) for member in scan(buffer.getvalue())]
    assert ours == theirs


@given(name=names.filter(str.isascii), size=st.integers(0, 2**40))
def test_our_headers_are_read_by_tarfile(name, size):
    head = tar.header(name, size)
    member = tarfile.TarFile(fileobj=io.BytesIO(head + bytes(tar.BLOCK))).firstmember
    assert (member.name, member.size, member.offset_data) == (name, size, len(head))
    assert (member.mode, member.uid, member.gid, member.mtime, member.isreg()) == (0o644, 0, 0, 0, True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../x.txt", "path climbs out of its folder"),
        ("a/../../x.txt", "path climbs out of its folder"),
        ("a\\..\\x.txt", "path climbs out of its folder"),
        ("/etc/passwd.txt", "absolute path"),
        ("C:/x.txt", "absolute path"),
        ("a\x1b[2J.txt", "control characters or invalid UTF-8 in the name"),
        ("a\udcff.txt", "control characters or invalid UTF-8 in the name"),
    ],
)
def test_names_that_could_become_harmful_paths_are_problems(name, reason):
    [problem] = scan(archive((name, b"x"), format=tarfile.PAX_FORMAT if "\udcff" not in name else tarfile.GNU_FORMAT))
    assert (problem.reason, problem.detail) == ("unsafe-member", reason)
    problem.name.encode("utf-8")
    assert "\x1b" not in problem.name


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_cost_the_sample_they_belong_to_and_no_other(kind):
    link = info("b.jpg", kind, linkname="/etc/passwd", size=4096)  # their size is no length
    index = scan_index_of(archive(("a.txt", b"1"), link, ("b.txt", b"2"), ("c.txt", b"3")))
    assert list(index.samples) == ["a", "c"]
    assert [(p.name, p.reason) for p in index.problems] == [("b.jpg", "unsafe-member"), ("b", "unsafe-field")]


def test_directories_are_passed_over_and_a_file_without_suffix_is_named():
    index = scan_index_of(archive(info("d", tarfile.DIRTYPE), ("d/README", b"hello"), ("d/a.txt", b"1")))
    assert list(index.samples) == ["d/a"]
    assert [(p.name, p.reason) for p in index.problems] == [("d/README", "no-key")]


def test_a_sparse_file_of_4_gib_ends_the_scan():
    sparse = info("b.jpg", tarfile.GNUTYPE_SPARSE, size=2**32)
    data = archive(("a.txt", b"1"), ("a.cls", b"1"), sparse)
    assert [(p.name, p.reason) for p in scan(data)[2:]] == [("b.jpg", "unsafe-archive")]
    pax = info("b.jpg", tarfile.REGTYPE, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**32)})
    data = archive(("a.txt", b"1"), pax, format=tarfile.PAX_FORMAT)
    assert [(p.name, p.reason) for p in scan(data)[1:]] == [("b.jpg", "unsafe-archive")]


def test_a_member_that_claims_more_than_the_archive_holds_is_not_read():
    claimed = tar.header("a.jpg", 2**42) + b"x" * 512
    assert [(p.name, p.reason) for p in scan(claimed)] == [("a.jpg", "truncated-archive")]


@pytest.mark.parametrize("size", [b"-0000000777\0", b"\xff" * 12, b"00_00000000\0", b"1234567x\0\0\0\0"])
def test_a_size_that_is_no_number_ends_the_scan(size):
    block = bytearray(tar.header("a.txt", 0))
    block[124:136] = size
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    assert [p.reason for p in scan(bytes(block) + bytes(1024))] == ["bad-header"]


@pytest.mark.parametrize(
    "body", [b"9" * 5000 + b" path=x\n", b"\xb2 path=x\n", b"3 =\n" * 5, b"0 path=x\n", b"30 path=x.txt\n"]
)
def test_damaged_pax_records_are_harmless(body):
    data = tar._block(b"pax", len(body), b"x") + tar.padded(body) + tar.header("a.txt", 1) + tar.padded(b"1")
    [member] = scan(data + tar.END_OF_ARCHIVE)
    assert isinstance(member, tar.Member)


def test_a_huge_pax_header_is_refused_unread():
    data = tar._block(b"pax", 2**21, b"x") + bytes(2**21) + tar.END_OF_ARCHIVE
    assert [p.reason for p in scan(data)] == ["bad-header"]


def test_a_pax_header_of_many_small_records_is_read_in_linear_time():
    body = b"6 a=b\n" * (2**20 // 6)
    data = tar._block(b"pax", len(body), b"x") + tar.padded(body) + tar.header("a.txt", 1) + tar.padded(b"1")
    assert len(scan(data + tar.END_OF_ARCHIVE)) == 1  # quadratic copying took minutes


def test_one_name_for_all_members_is_refused():
    body = b"14 path=x.txt\n"
    data = tar._block(b"pax", len(body), b"g") + tar.padded(body) + tar.END_OF_ARCHIVE
    assert [p.reason for p in scan(data)] == ["unsafe-archive"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("d/e/a.seg.PNG", ("d/e/a", "seg.png")),
        ("d.x/a.txt", ("d.x/a", "txt")),
        ("README", None),
        (".hidden", None),
        ("d/.hidden.txt", None),
        ("a.", None),
    ],
)
def test_names_are_split_as_webdataset_splits_them(name, parts):
    assert tar.split_name(name) == parts


def scan_index_of(data: bytes):
    return scan_index(io.BytesIO(data), len(data))


@given(st.binary(max_size=2048))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_scanned_without_a_traceback(data):
    scan(data)


@given(position=st.integers(0, 5 * 512 - 1), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_of_a_header_is_named_or_harmless(position, value):
    data = bytearray(archive(("a.jpg", b"1" * 600), ("a.txt", b"2"), format=tarfile.PAX_FORMAT))
    data[position] = value
    for entry in scan(bytes(data)):
        assert isinstance(entry, tar.Problem) or entry.offset + entry.size <= len(data)


@given(cut=st.integers(0, 4 * 512))
@settings(max_examples=100, deadline=None)
def test_a_cut_archive_never_gives_the_sample_it_was_cut_in(cut):
    data = tar.header("a.jpg", 600) + tar.padded(b"1" * 600) + tar.header("a.txt", 1) + tar.padded(b"2")
    assert len(data) == 5 * 512
    index = scan_index_of(data[:cut])
    assert not index.samples and index.problems


def test_bytes_after_the_end_are_named_and_cost_no_sample():
    whole = archive(("a.txt", b"1"), ("b.txt", b"2"))
    index = scan_index_of(whole + b"\0" * 3_000_000 + b"garbage" * 200)
    assert list(index.samples) == ["a", "b"]
    assert [problem.reason for problem in index.problems] == ["data-after-end"]
    assert not scan_index_of(whole + b"\0" * 3_000_000).problems


def test_archives_joined_by_cat_are_one():
    index = scan_index_of(archive(("a.txt", b"1")) * 2 + archive(("b.txt", b"22"), ("c.txt", b"3")))
    assert list(index.samples) == ["b", "c"]
    assert sorted(problem.reason for problem in index.problems) == ["joined-archive"] * 2 + ["non-contiguous-key"]
