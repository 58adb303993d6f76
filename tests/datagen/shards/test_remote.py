"""Shards by URL: any fsspec store; random access asks for exactly the bytes of the sample."""

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lt.datagen.shards import ShardError, open_shards
from lt.datagen.shards.index import index_of
from lt.datagen.shards.info import describe
from lt.datagen.shards.reader import span
from lt.datagen.shards.remote import Location
from lt.datagen.shards.verify import verify
from lt.datagen.shards.why import explain
from tests.datagen.shards.making import build, img2dataset_folder, plain


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves a folder with `Range` requests, and keeps a log of (method, path, bytes sent)."""

    log: list[tuple[str, str, int]]
    ranges = True

    def __init__(self, *arguments, log, ranges=True, **options):
        self.log, self.ranges = log, ranges
        super().__init__(*arguments, **options)

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().do_GET()
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.ranges else None
        first, last = (int(wanted[1]), int(wanted[2] or len(data) - 1)) if wanted else (0, len(data) - 1)
        body = data[first : last + 1]
        self.log.append(("GET", path.name, len(body)))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{len(data)}"')
        self.end_headers()
        self.wfile.write(body)
        return None

    def end_headers(self):
        if self.command == "HEAD" and self.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"1"')
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(folder: Path, ranges: bool = True) -> tuple[str, list]:
        pytest.importorskip("aiohttp")
        log: list[tuple[str, str, int]] = []
        handler = partial(RangeHandler, directory=str(folder), log=log, ranges=ranges)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", log

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "index"


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "set", [plain(f"a{n}") for n in range(40)], [plain("b")])
    return tmp_path / "set"


def test_a_sample_by_key_over_http_costs_one_range_of_its_own_size(folder, serve):
    url, log = serve(folder)
    shards = open_shards(url)
    wanted = shards.shards[0].index.samples["a17"]
    log.clear()
    sample = shards["a17"]
    assert sample["txt"] == "caption a17" and sample["png"].shape == (6, 8, 3)
    first, last = span(wanted)
    tars = [(name, sent) for method, name, sent in log if name.endswith(".tar")]
    assert tars == [("shard-000000.tar", last - first)]


def test_a_whole_set_over_http_equals_the_local_one(folder, serve):
    url, _ = serve(folder)
    remote, local = open_shards(url), open_shards(folder)
    assert [(s.key, s.encoded("png")) for s in remote] == [(s.key, s.encoded("png")) for s in local]
    assert remote.digest() == local.digest()
    assert describe(url).samples == 41
    assert verify(url).is_good
    assert explain(url, "b")[0].file == "shard-000001.tar"


def test_a_signed_url_of_a_tar_is_a_tar(tmp_path, serve):
    keys = img2dataset_folder(tmp_path / "laion")
    url, _ = serve(tmp_path / "laion")
    assert list(open_shards(f"{url}/00000.tar?X-Signature=a/b.c").keys()) == keys[:4]


def test_a_server_without_ranges_is_an_error_not_wrong_bytes(folder, serve):
    url, _ = serve(folder, ranges=False)
    with pytest.raises(ShardError):
        open_shards(f"{url}/shard-000000.tar")["a17"]


def test_a_missing_folder_or_file_is_a_message(serve, folder):
    url, _ = serve(folder)
    with pytest.raises(ShardError):
        open_shards(f"{url}/nothing.tar")
    with pytest.raises(ShardError):
        open_shards(f"{url}/nothing")
    with pytest.raises(ShardError):
        open_shards("http://127.0.0.1:9/none.tar")


def test_an_unknown_protocol_says_what_to_install():
    with pytest.raises(ShardError, match="Cannot open"):
        open_shards("nosuchstore://bucket/x.tar")


def test_foreign_shards_over_http_are_indexed_once(tmp_path, serve, cache):
    keys = img2dataset_folder(tmp_path / "laion")
    url, log = serve(tmp_path / "laion")
    shards = open_shards(f"{url}/{{00000..00001}}.tar")
    assert list(shards.keys()) == keys
    assert len(list(cache.iterdir())) == 2
    log.clear()
    again = open_shards(f"{url}/{{00000..00001}}.tar")
    assert again[keys[0]]["json"]["key"] == keys[0]
    sent = [size for _, name, size in log if name.endswith(".tar")]
    assert len(sent) == 1 and sent[0] < 4096


def test_any_store_of_fsspec_will_do(folder):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/set/{path.name}", path.read_bytes())
    try:
        shards = open_shards("memory://set")
        assert [sample.key for sample in shards] == list(open_shards(folder).keys())
        assert shards["a3"]["txt"] == "caption a3"
        assert open_shards("memory://set/shard-000001.tar")["b"]["json"] == {"key": "b"}
        assert verify("memory://set").is_good
        memory.pipe_file("/set/shard-000001.tar", b"x" * 10240)
        assert {finding.what for finding in verify("memory://set").findings} >= {"wrong-sha256", "damaged-bytes"}
    finally:
        memory.rm("/set", recursive=True)


# --- the cache of indexes


def test_the_index_of_a_foreign_shard_is_kept_in_the_cache_and_follows_changes(tmp_path, cache):
    img2dataset_folder(tmp_path / "in", shards=1)
    shard = Location(str(tmp_path / "in" / "00000.tar"))
    index, place = index_of(shard)
    assert Path(place).parent == cache and len(index.samples) == 4
    Path(place).write_text("damaged")
    assert index_of(shard)[0].samples == index.samples
    stamp = Path(place).stat().st_mtime_ns
    index_of(shard)
    assert Path(place).stat().st_mtime_ns == stamp
    index_of(shard, refresh=True)
    assert Path(place).stat().st_mtime_ns > stamp
    shard.path.write_bytes(bytes(10240))
    assert index_of(shard)[0].samples == {} and index_of(shard)[1] != place


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LT_HOME", str(tmp_path / "file"))
    keys = img2dataset_folder(tmp_path / "in", shards=1)
    index, place = index_of(Location(str(tmp_path / "in" / "00000.tar")))
    assert (list(index.samples), place) == (keys, "")


def test_our_own_index_is_the_sidecar(folder):
    index, place = index_of(Location(str(folder / "shard-000001.tar")))
    assert (list(index.samples), place) == (["b"], str(folder / "shard-000001.json"))
