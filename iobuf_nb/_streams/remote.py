"""Remote objects: what URLs name, of which bytes are read by their offsets, through fsspec."""

from __future__ import annotations

import errno
import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
_LOCAL = ("file://", "local://")
_VERSION = ("size", "ETag", "etag", "generation", "created", "mtime", "LastModified", "last_modified", "Last-Modified")
_OF_HTTP = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}
LARGE_RANGE = 1 << 22  # bytes of which a server that sends all of an object instead must not send more


def is_url(text: str) -> bool:
    """Return whether a source is a URL, and not a path that looks like one."""
    return _URL.match(text) is not None and not os.path.lexists(text)


def without_scheme(url: str) -> str | None:
    """Return the path that the URL of a local file has; None if it is of something else."""
    return next((url[len(scheme) :] for scheme in _LOCAL if url.startswith(scheme)), None)


def matching(url: str) -> list[str]:
    """Return the URLs of the objects that match one with ``*``, ``?`` or ``[``; itself, if there is none in it."""
    system, path = _resolved(url)
    magic = "*[" if "http" in system.protocol else "*?["  # of HTTP a question mark begins a query
    pattern = re.search(f"[{re.escape(magic)}].*", path, re.DOTALL)
    if "::" in url or pattern is None:
        return [url]
    with _naming(url):
        system.invalidate_cache()  # listings are kept for as long as the process lives
        if system.exists(path):
            return [url]
        found = system.glob(path, detail=True)
    names = sorted(name for name, info in found.items() if info["type"] == "file")
    if not names:
        raise FileNotFoundError(errno.ENOENT, "No object has this name or matches this pattern", url)
    # What stands before the pattern is kept as it is: paths know nothing of hosts and credentials.
    head, behind = url[: url.rindex(pattern[0])], pattern.start()
    return [head + name[behind:] for name in names]


class Remote:
    """A remote object that was looked at.

    Attributes
    ----------
    name : str
        Its URL.
    first, size : int
        Where its data begins, which is 0 unless it has a header; and how many bytes it has from there.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        self.first = 0
        self._system, self._path = _resolved(url)
        self._info = self._looked_up()
        if self._info.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)
        if self._info.get("size") is None:
            raise OSError(errno.ENOTSUP, "The server does not say how many bytes it has", url)
        self._end = int(self._info["size"])
        self._options: dict[str, Any] = {}
        if "http" in self._system.protocol:
            headers = self._system.kwargs.get("headers", {})
            self._options["headers"] = {**headers, "Accept-Encoding": "identity"}  # ranges are of the bytes themselves
            if self._end > LARGE_RANGE:
                self._require_ranges()

    @property
    def size(self) -> int:
        return self._end - self.first

    def name_of(self, k: int) -> str:
        """Return its name, as a table does that of its source `k`."""
        return self.name

    def first_of(self, k: int) -> int:
        """Return where its data begins."""
        return self.first

    def size_of(self, k: int) -> int:
        """Return how many bytes it has."""
        return self.size

    def read(self, offset: int, n: int) -> bytes:
        """Return `n` bytes of its data from an offset on, or those up to its end."""
        begin = self.first + offset
        n = min(n, self._end - begin)
        if n <= 0:
            return b""
        with _naming(self.name, f" at offset {begin}"):
            data: bytes = self._system.cat_file(self._path, start=begin, end=begin + n, **self._options)
        if len(data) != n:
            self.require_unchanged()
            what = f"The server sent {len(data)} bytes for the {n} at offset {begin}"
            raise OSError(errno.EIO, what if len(data) < n else f"{what}: it does not read by ranges", self.name)
        return data

    def require_unchanged(self) -> None:
        """Raise if it is another version now, as far as the server tells versions apart."""
        info = self._looked_up()
        if any(self._info.get(key) != info.get(key) for key in _VERSION):
            raise OSError(errno.EIO, f"Changed while its {self._end} bytes were read", self.name)

    def _looked_up(self) -> dict[str, Any]:
        """Return what the server says of it now, whatever was listed before."""
        with _naming(self.name):
            self._system.invalidate_cache(self._path)
            info: dict[str, Any] = self._system.info(self._path)
        return info

    def _require_ranges(self) -> None:
        """Refuse a server that would send the whole object for each range."""
        with _naming(self.name):
            try:
                with self._system.open(self._path, cache_type="none", size=self._end, **self._options) as file:
                    file.seek(self._end - 1)
                    file.read(1)
            except ValueError:
                raise OSError(errno.ENOTSUP, "The server does not read by ranges", self.name) from None


def _resolved(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and what the object is called there."""
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError:
        raise ImportError(f"a URL such as {url:.60} needs fsspec: pip install 'iobuf-nb[remote]'") from None
    try:
        system, path = core.url_to_fs(url)
    except ValueError as error:
        raise ValueError(f"source must be a path, or a URL that fsspec knows, not {url!r:.60}: {error}") from None
    return system, path


@contextmanager
def _naming(url: str, where: str = "") -> Iterator[None]:
    """Turn what a file system raises, which differs from one to the next, into an OSError that names the URL."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename == url:
            raise
        cause: BaseException = error
        if isinstance(error, FileNotFoundError) and url.startswith("http") and error.__cause__ is not None:
            cause = error.__cause__  # of HTTP it says of each error that there is no such file
        code = _OF_HTTP.get(getattr(cause, "status", 0)) or getattr(cause, "errno", None)
        if not code:
            kinds = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
            code = next((number for kind, number in kinds.items() if isinstance(cause, kind)), errno.EIO)
        known = code in (errno.ENOENT, errno.EACCES)
        text = os.strerror(code) if known else getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise OSError(code, text + where, url) from error
