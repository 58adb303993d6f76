"""Downloads against a local server: resume, size check, damaged and hostile archives."""

import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lt.datagen.fetch import download, fetch_coco, unpack
from lt.datagen.shards import LtError


class Server:
    """Serves `files` with ranges and entity tags; cuts a body after `cut` bytes once if asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.log: list[tuple[str, str | None]] = []
        self.cut: int | None = None
        self.tag = '"v1"'
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.log.append((request.path, wanted))
        body = self.files.get(request.path)
        if body is None:
            request.send_error(404)
            return
        start = 0
        if wanted and request.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.send_header("ETag", self.tag)
        request.end_headers()
        stop = len(body) if self.cut is None else self.cut
        self.cut = None
        request.wfile.write(body[start:stop])


@pytest.fixture
def server():
    server = Server()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()


def test_download_continues_where_the_connection_was_cut(server, tmp_path):
    body = bytes(range(256)) * 20_000
    server.files["/big"] = body
    server.cut = 3_000_000
    with pytest.raises(LtError, match="continues"):
        download(f"{server.url}/big", tmp_path / "big")
    assert not (tmp_path / "big").exists()
    got = (tmp_path / "big.part").stat().st_size
    assert 0 < got <= 3_000_000
    assert download(f"{server.url}/big", tmp_path / "big")
    assert server.log[1] == ("/big", f"bytes={got}-")
    assert (tmp_path / "big").read_bytes() == body
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big"]
    assert not download(f"{server.url}/big", tmp_path / "big")


def test_a_changed_file_is_not_glued_to_its_old_part(server, tmp_path):
    server.files["/big"] = b"old" * 1_000_000
    server.cut = 1_500_000
    with pytest.raises(LtError):
        download(f"{server.url}/big", tmp_path / "big")
    server.files["/big"], server.tag = b"NEW" * 1_000_000, '"v2"'
    download(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == b"NEW" * 1_000_000


def test_missing_file_and_dead_server_are_messages(server, tmp_path):
    with pytest.raises(LtError, match="404"):
        download(f"{server.url}/nope", tmp_path / "x")
    with pytest.raises(LtError, match="no connection"):
        download("http://127.0.0.1:9/x", tmp_path / "x")


def coco_site(server: Server, count: int) -> None:
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(count)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        for kind in ("instances", "captions", "person_keypoints"):
            for split in ("val2017", "train2017"):
                out.writestr(f"annotations/{kind}_{split}.json", json.dumps({"images": images, "annotations": []}))
    server.files["/annotations/annotations_trainval2017.zip"] = archive.getvalue()
    pictures = io.BytesIO()
    with zipfile.ZipFile(pictures, "w") as out:
        for image in images:
            data = image["file_name"].encode() * 100
            server.files[f"/val2017/{image['file_name']}"] = data
            out.writestr(f"val2017/{image['file_name']}", data)
        out.writestr("val2017/not-asked-for.exe", b"x")
    server.files["/zips/val2017.zip"] = pictures.getvalue()


def test_coco_limited_then_whole(server, tmp_path):
    coco_site(server, 6)
    seen = []
    fetched = fetch_coco(tmp_path, "val2017", 2, server.url, seen.append)
    assert (fetched.pictures, fetched.downloaded) == (2, 3)
    assert seen[-1] == ("val2017", 2, 2, "files")
    assert sorted(p.name for p in (tmp_path / "val2017").iterdir()) == ["000000000000.jpg", "000000000001.jpg"]
    assert not (tmp_path / "annotations/instances_train2017.json").exists()
    requests = len(server.log)
    assert fetch_coco(tmp_path, "val2017", 2, server.url).downloaded == 0
    assert len(server.log) == requests
    assert fetch_coco(tmp_path, "val2017", None, server.url).pictures == 6
    assert not list(tmp_path.rglob("*.exe")) and not list(tmp_path.glob("*.zip"))


def test_unknown_split_lists_the_known_ones(tmp_path):
    with pytest.raises(LtError, match="val2017, train2017"):
        fetch_coco(tmp_path, "test2017", None)


def test_hostile_archive_writes_nothing_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr("../evil.txt", "x")
    with pytest.raises(LtError, match="outside"):
        unpack(tmp_path / "x.zip", tmp_path / "in", lambda name: True)
    assert not (tmp_path / "evil.txt").exists()


def test_damaged_archive_is_removed_and_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 but then nothing")
    with pytest.raises(LtError, match="damaged"):
        unpack(tmp_path / "x.zip", tmp_path / "in", lambda name: True)
    assert not (tmp_path / "x.zip").exists()
