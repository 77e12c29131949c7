"""Remote objects: they are read as files of the same bytes are, and fail with their URL and the offset."""

import errno
import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from numba import njit
from sharing import CASES, LINES, RECORDS, complete, divided, require_same, see
from streaming import text

from iobuf_nb import BufferPool, StreamError, blocks, copy, scan, stream
from iobuf_nb._streams import objects, ranges, remote
from iobuf_nb._streams.stream import stream_share
from iobuf_nb._streams.windows import windows_of

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    """A file system in memory, which is empty again after the test."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


@pytest.fixture
def small_ranges(monkeypatch):
    """Let ranges be of some bytes, so that what is small is read as what is large."""
    for module in objects, ranges, remote:
        monkeypatch.setattr(module, "LARGE_RANGE", 8)
    monkeypatch.setattr(ranges, "_SMALL_RANGE", 3)


REMOTE = [
    (data, {name: value for name, value in options.items() if name not in ("engine", "direct")})
    for data, options in CASES
]


@pytest.mark.parametrize("data, options", REMOTE, ids=str)
def test_an_object_divided_anywhere_is_the_whole(memory, small_ranges, data, options):
    memory.pipe("/object", data)
    url = "memory://object"
    assert (
        stream(url, see, **complete(**options)).collected.tolist()
        == stream(data, see, **complete(**options)).collected.tolist()
    )
    for at in range(1, len(data), 3):
        require_same([url], [(0, at)], **options)
    require_same([url], [(0, at) for at in range(len(data))], **options)


@pytest.mark.parametrize("options", [{"record": 2}, {"delimiter": b"abab", "skip": 1, "tier": 24}, {"overlap": (2, 1)}])
def test_small_objects_divided_anywhere_are_the_whole(memory, file, options):
    for k in range(12):
        memory.pipe(f"/folder/{k:02}", LINES[: 4 * k % 34])
    path = str(file(LINES[:20]))
    urls = [f"memory:///folder/{k:02}" for k in range(12)]
    sources = [urls[0], path, *urls[1:], path]
    assert list(stream("memory:///folder/*", see, **complete(**options)).names) == urls
    require_same(sources, [], **options)
    require_same(sources, [(k, 3 * k % 20) for k in range(14)] + [(k, 10) for k in range(14)], **options)


def test_a_pattern_keeps_its_host(memory):
    class Hosted(type(memory)):
        """Objects in memory, whose URLs begin as those of ftp do."""

        protocol = "hosted"
        cachable = False

        def __init__(self, host="", **options):
            super().__init__(**options)
            if host != "user:password@host:21":
                raise ConnectionError(f"{host!r} cannot be reached")

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("hosted://user:password@host:21").strip("/")

        @staticmethod
        def _get_kwargs_from_urls(path):
            return {"host": path.removeprefix("hosted://").partition("/")[0]}

    fsspec.register_implementation("hosted", Hosted, clobber=True)
    for name in "a1", "a2", "b":
        memory.pipe(f"/folder/{name}", RECORDS)
    base = "hosted://user:password@host:21/folder"
    assert stream(f"{base}/a*", see, **complete()).names == (f"{base}/a1", f"{base}/a2")


def test_what_was_listed_before_is_looked_at_anew(memory):
    class Listed(type(memory)):
        """Objects in memory, whose listings are kept, as those of S3 are."""

        protocol = "listed"
        listings = {}  # noqa: RUF012

        def ls(self, path, detail=True, **options):
            if path not in self.listings:
                self.listings[path] = super().ls(path, detail=True, **options)
            return self.listings[path] if detail else [each["name"] for each in self.listings[path]]

        def info(self, path, **options):
            known = [each for each in self.ls(self._parent(path)) if each["name"] == path]
            return known[0] if known else super().info(path, **options)

        def invalidate_cache(self, path=None):
            self.listings.clear()

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("listed://").strip("/")

    fsspec.register_implementation("listed", Listed, clobber=True)
    memory.pipe("/folder/a", b"one")
    for url in "listed://folder/*", "listed://folder/a":
        assert stream(url, see, **complete()).bytes == 3
        fsspec.filesystem("listed").ls("/folder")
        memory.pipe("/folder/a", b"three")
        assert stream(url, see, **complete()).bytes == 5
        memory.pipe("/folder/a", b"one")
        memory.pipe("/folder/b", b"")
    assert len(stream("listed://folder/*", see, **complete()).names) == 2


def test_arrays_and_compressed_objects(memory, tmp_path, small_ranges):
    np.save(tmp_path / "a.npy", np.arange(2000, dtype="i4"))
    np.save(tmp_path / "b.npy", np.arange(3, dtype="i4"))
    for name in "a.npy", "b.npy":
        memory.pipe(f"/{name}", (tmp_path / name).read_bytes())
    options = complete(collect="i8", tier=256)

    @njit
    def copy(buffer, n, offset, state, output):
        output[:n] = buffer[:n]
        return n

    found = stream("memory://*.npy", copy, **options)
    assert found.collected.tolist() == [*range(2000), *range(3)]
    memory.pipe("/c.npy", (tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="c.npy must be an array of plain memory: it should have 8000 bytes of data"):
        windows_of("memory://*.npy")
    data = text(5000)
    memory.pipe("/packed", gzip.compress(data))
    memory.pipe("/plain", data)
    require_same(["memory://plain", "memory://packed"], [(0, 77)], decompress="auto", record=4, skip=2, tier=256)
    assert stream("memory://packed", see, **complete(decompress="gzip", tier=256)).bytes == 5000


def test_blocks_scan_and_progress(memory, small_ranges):
    data = text(1000)
    memory.pipe("/object", data)
    pieces = blocks("memory://object", start=10, stop=900, tier=64)
    assert b"".join(piece.tobytes() for piece in pieces) == data[10:900]
    calls = []
    result = scan("memory://object", progress=lambda done, size: calls.append((done, size)))
    assert (result.bytes, result.lines) == (1000, data.count(b"\n")) and calls[-1] == (1000, 1000)


def test_many_small_objects_are_not_all_awaited_before_the_first_is_processed(memory, monkeypatch):
    for k in range(200):
        memory.pipe(f"/folder/{k:03}", RECORDS)
    looked, seen = [], []
    look = objects.Objects._look
    monkeypatch.setattr(objects.Objects, "_look", lambda *arguments: looked.append(1) or look(*arguments))
    result = stream("memory://folder/*", see, **complete(progress=lambda done, size: seen.append((done, len(looked)))))
    assert result.bytes == 200 * len(RECORDS) and next(n for done, n in seen if done) < 100


def test_what_is_a_path(file, tmp_path, monkeypatch, memory):
    path = file(b"local")
    for scheme in "file://", "local://":
        result = stream(f"{scheme}{path}", see, **complete())
        assert result.bytes == 5 and result.names == (str(path),)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "object").write_bytes(b"a path")
    monkeypatch.chdir(tmp_path)
    memory.pipe("/object", b"an object")
    assert stream("memory://object", see, **complete()).bytes == 6
    assert stream(["memory:///object"], see, **complete()).bytes == 6
    monkeypatch.chdir("/")
    assert stream("memory://object", see, **complete()).bytes == 9


def test_errors_name_the_place_in_the_object(memory, small_ranges):
    @njit
    def fail(buffer, n, offset, state):
        raise ZeroDivisionError("no way")

    memory.pipe("/object", b"0123456789\n" * 3 + b"x" * 100)
    with pytest.raises(StreamError, match="offset 32 of memory://object"):
        stream("memory://object", fail, start=32, workers=1)
    _, (share, names) = divided(["memory://object"], [(0, 30)], delimiter=b"\n")
    with pytest.raises(
        ValueError, match="memory://object has a line at offset 33 that is longer than a piece, 16 bytes"
    ):
        stream_share(share, names, see, **complete(delimiter=b"\n"))
    memory.pipe("/object", b"0123456789\n" * 3)
    with pytest.raises(OSError, match="Changed since the stream was planned: it had 133 bytes, and has 33") as caught:
        stream_share(share, names, see, **complete(delimiter=b"\n"))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "memory://object")


def test_what_is_refused(memory, monkeypatch):
    memory.pipe("/object", RECORDS)
    for engine in "mmap", "uring":
        with pytest.raises(ValueError, match=f"engine='{engine}' needs regular files, and memory://object is not one"):
            stream("memory://object", njit(lambda buffer, n, offset, state: None), engine=engine)
    with pytest.raises(ValueError, match="direct=True needs a path to open, not memory://object"):
        stream("memory://object", see, **complete(direct=True))
    with pytest.raises(ValueError, match="src must be a path, because only files can be copied, not the URL 'memory:"):
        copy("memory://object", "copied")
    with pytest.raises(ValueError, match="source must be a path, or a URL that fsspec knows, not 'nothing://a'"):
        stream("nothing://a", see, **complete())
    for url, error in [
        ("memory://none", FileNotFoundError),
        ("memory://no*", FileNotFoundError),
        ("memory://", OSError),
    ]:
        with pytest.raises(error) as caught:
            stream(["memory://object", url], see, **complete())
        assert caught.value.filename == url
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        ImportError, match=r"a URL such as memory://object needs fsspec: pip install 'iobuf-nb\[remote\]'"
    ):
        stream("memory://object", see, **complete())


# ---- servers ---------------------------------------------------------------------------------------------------------

DATA = text(300)


class Handler(BaseHTTPRequestHandler):
    """Serves DATA; the last word of the path says what is wrong."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        what = self.path.rpartition("/")[2]
        self.server.requests[what] = self.server.requests.get(what, 0) + 1
        status = {"missing": 404, "forbidden": 403, "broken": 500}.get(what)
        asked = self.headers.get("Range")
        data = DATA
        at = int(asked[6:].partition("-")[0]) if asked else 0
        if what == "late" and 160 <= at < 290:
            status = 503
        if status:
            self.send_error(status)
            return
        packed = what == "data" and "gzip" in self.headers.get("Accept-Encoding", "")
        if asked and what != "unranged" and not packed:
            low, high = asked.removeprefix("bytes=").split("-")
            data = DATA[int(low) : int(high) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {low}-{int(low) + len(data) - 1}/{len(DATA)}")
        else:
            self.send_response(200)
        if packed:  # many servers do not read by ranges what they compress on the way
            data = gzip.compress(data)
            self.send_header("Content-Encoding", "gzip")
        if what == "changing":
            self.send_header("ETag", f'"{self.server.requests[what]}"')
        if what != "unsized":
            self.send_header("Content-Length", len(data))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            half = what == "cut" and 80 <= at < 290
            self.wfile.write(data[: len(data) // 2] if half else data)
            if half or what == "unsized":
                self.close_connection = True


@pytest.fixture(scope="module")
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.requests = {}
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize("options", [{}, {"delimiter": b"\n", "tier": 256}, {"overlap": (3, 1), "start": 100}], ids=str)
def test_a_server(server, small_ranges, options):
    pytest.importorskip("aiohttp")
    url = f"http://127.0.0.1:{server.server_port}/data"
    require_same([url], [(0, 50), (0, 170)], **options)
    expected = stream(DATA, see, **complete(**options)).collected
    assert stream(url, see, **complete(**options)).collected.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "what, number, message",
    [
        ("missing", errno.ENOENT, "No such file"),
        ("forbidden", errno.EACCES, "Permission denied"),
        ("broken", errno.EIO, "500"),
        ("unsized", errno.ENOTSUP, "The server does not say how many bytes it has"),
        ("unranged", errno.ENOTSUP, "The server does not read by ranges"),
        ("late", errno.EIO, r"503.* at offset 1\d\d"),
        ("cut", errno.EIO, r" at offset \d+"),
        ("changing", errno.EIO, "Changed while its 300 bytes were read"),
    ],
)
def test_servers_that_fail(server, small_ranges, what, number, message):
    pytest.importorskip("aiohttp")
    url = f"http://127.0.0.1:{server.server_port}/{what}"
    with BufferPool(3, 256) as pool:
        with pytest.raises(OSError, match=message) as caught:
            stream([url], see, **complete(tier=None, pool=pool))
        assert (caught.value.errno, caught.value.filename) == (number, url)
        assert pool.available() == 3 and not any(each.name.startswith("iobuf_nb-r") for each in threading.enumerate())


def test_what_a_small_object_needs_of_a_server(server):
    pytest.importorskip("aiohttp")
    url = f"http://127.0.0.1:{server.server_port}"
    assert stream([f"{url}/data", f"{url}/unranged"], see, **complete(tier=512)).bytes == 600
    with pytest.raises(OSError, match="The server sent 300 bytes for the 100 at offset 0: it does not read by ranges"):
        stream(f"{url}/unranged", see, **complete(tier=512, stop=100))
    with pytest.raises(OSError, match="Changed while its 300 bytes were read"):
        stream(f"{url}/changing", see, **complete(tier=512))
