"""The cache of compiled kernels: shared, damaged, full, moved, of other sources, unsafe, not to be written."""

import compileall
import contextlib
import itertools
import os
import shutil
import sys
import time
import zipfile

import pytest
from numba import config
from support import PRELUDE, Process, add_a_comment, change, copied_package, files_in, needs_fork, python, run, said

from iobuf_nb._jit import cache as cache_of_code

pytestmark = [needs_fork, pytest.mark.compiled, pytest.mark.proof]


OVER_A_POOL = """
pool = BufferPool(4, 64)

@njit(cache=True)
def of_a_global():
    index = pool.get()
    pool.put(index)
    return index

def make(pool):
    @njit(cache=True)
    def of_a_closure():
        return pool.get()

    return of_a_closure

print(of_a_global(), pool.available(), expect(TypeError, make(pool)))
print(make(pool).py_func(), len(pool.holders()))
"""


def test_kernels_over_a_pool_of_their_surroundings_are_not_cached(tmp_path):
    """An address of this process must not come out of a cache in another: numba warns, or refuses."""
    for _ in range(2):
        status, output, errors = Process(OVER_A_POOL, file=tmp_path / "script.py").finish()
        assert status == 0 and output.startswith("0 4 a BufferPool cannot be pickled or copied"), output + errors
        assert "give it to kernels as an argument" in output and output.endswith("\n1 1\n")
        assert 'Cannot cache compiled function "of_a_global" as it uses dynamic globals' in errors
    assert not [path for path in tmp_path.rglob("*.nbc") if "of_a" in path.name]


# ---- the cache of compiled kernels -----------------------------------------------------------------------------------


CACHED = """
from numba.core import event

@njit(nogil=True, cache=True)
def work(pool, magazine):
    index = magazine.get(timeout=60.0)
    total = pool.value(index)[:].sum()
    magazine.put(index)
    other = magazine.get()
    pool.put(other)
    return total

with event.install_recorder("numba:compile") as recorder:
    pool = BufferPool(4, 100)
    pool.value(0)[:] = 2
    sys.stdin.readline()
    with pool.magazine() as mine:
        total = work(pool, mine)
        pool.put(pool.get()), mine.put(mine.get())
compiled_methods = {method.compiled for method in c_methods.METHODS if method.compiled}
owner = pool._deques[deque.base_of(0) + deque.OWNER]
compiled = len(recorder.buffer) + len(compiled_methods) - sum(method.cache_hits for method in compiled_methods)
print(total, pool.available(), owner == magazines.NOBODY, c_methods.WHY_NOT, LINE_PAIR, compiled)
"""


def entries_of(cache):
    """Return the names of what is compiled of the library's own functions."""
    return {path.name for path in (cache / "iobuf_nb").rglob("*.nbc")}


class Cached:
    """A copy of the library, and what processes that start at once make of an empty cache."""

    def __init__(self, count, path):
        self.package, self.cache, self.file = copied_package(path / "site"), path / "cache", path / "script.py"
        start = time.monotonic()
        processes = [self.process() for _ in range(count)]
        self.results = [self.split(process.output(timeout=60 * count)) for process in processes]
        self.figure = f"{count} processes at once on an empty cache: all right, {time.monotonic() - start:.0f} s"

    def process(self, package=None):
        path = str(package or self.package)
        return Process(CACHED, file=self.file, PYTHONPATH=path, NUMBA_CACHE_DIR=str(self.cache))

    def split(self, output):
        *values, compiled = output.split()
        return values, int(compiled)

    def next(self, package=None):
        """Return what one more process finds, and how many functions it has to compile."""
        return self.split(self.process(package).output())


@pytest.fixture(scope="module", params=[2, pytest.param(20, marks=pytest.mark.long)])
def cached(request, tmp_path_factory):
    return Cached(request.param, tmp_path_factory.mktemp("cached"))


RESULT = ["200", "4", "True", "None"]


def test_processes_that_start_at_once_on_an_empty_cache(cached, record_property):
    assert [values for values, _ in cached.results] == [[*RESULT, "16"]] * len(cached.results)
    before = files_in(cached.cache)
    assert cached.next() == ([*RESULT, "16"], 0)
    assert files_in(cached.cache) == before and before
    record_property("figure", f"{cached.figure}; the next one compiles and writes nothing")


def zipped(package, path):
    with zipfile.ZipFile(path, "w") as archive:
        for source in package.rglob("*.py"):
            archive.write(source, source.relative_to(package.parent))


def copied(package, path):
    shutil.copytree(package, path / "iobuf_nb")


@pytest.mark.parametrize("install", [copied, zipped])
def test_wherever_the_same_sources_are_they_share_the_cache(install, cached, tmp_path):
    before = files_in(cached.cache)
    install(cached.package / "iobuf_nb", tmp_path / "another.zip")
    assert cached.next(tmp_path / "another.zip") == ([*RESULT, "16"], 0)
    assert files_in(cached.cache) == before


def test_another_layout_misses_the_cache(cached, record_property):
    """Whatever changes in any file, all is compiled anew: code with another layout's constants inlined never runs."""
    before = entries_of(cached.cache)
    # The deques are of another file, and their functions take no argument that tells of the layout.
    change(cached.package / "iobuf_nb" / "_free" / "queue.py", "LINE_PAIR = 16\n", "LINE_PAIR = 32\n")
    again, compiled = cached.next()
    assert again == [*RESULT, "32"] and compiled >= max(compiled for _, compiled in cached.results)
    assert cached.next() == (again, 0)
    after = entries_of(cached.cache)
    assert before < after and len(after) >= 2 * len(before)  # what was compiled of the former sources stays
    record_property("figure", f"another layout of a queue's words: {compiled} steps of compiling, then none")


def test_a_comment_is_enough_to_miss_the_cache(tmp_path):
    package, show = copied_package(tmp_path), "print(iobuf_nb._jit.compile.FINGERPRINT)"
    before = run(show, PYTHONPATH=str(package))
    add_a_comment(package)
    assert run(show, PYTHONPATH=str(package)) != before


ZIPPED = """
import sys
sys.path.insert(0, sys.argv[1])
import threading, iobuf_nb
import numpy as np
from numba import njit, prange
from iobuf_nb import text

@njit(cache=True)
def get(pool):
    return pool.get()

@njit(cache=True)
def count(data):
    return text.count_byte(data, 0, 0, len(data))

@njit(cache=True, parallel=True)
def count_below(data):
    n = 0
    for _ in prange(1):
        n += count(data)
    return n

pool, another = iobuf_nb.BufferPool(1, 64), iobuf_nb.BufferPool(1, 64)
index, other = pool.get(), get(another)
data = np.zeros(0, np.uint8)
print(*[held.holders()[0] - threading.get_ident() for held in (pool, another)], count(data), count_below(data))
"""


FINGERPRINT = """
import sys
sys.path.insert(0, sys.argv[1])
import iobuf_nb
print(iobuf_nb._jit.compile.FINGERPRINT, iobuf_nb.__file__)
"""


def without_sources(package, path):
    shutil.rmtree(path, ignore_errors=True)
    compileall.compile_dir(package, quiet=2, legacy=True, force=True)
    shutil.copytree(package, path / "iobuf_nb", ignore=shutil.ignore_patterns("*.py", "__pycache__"))


def linked(package, path):
    path.mkdir(exist_ok=True)
    if not (path / "iobuf_nb").exists():
        (path / "iobuf_nb").symlink_to(package)


def changed(package):
    change(
        package / "_free" / "free_list.py",
        "store(pool._owners, owner_at(pool, index), thread_id())\n    return True",
        "store(pool._owners, owner_at(pool, index), 1000 + thread_id())\n    return True",
    )
    change(package / "_text" / "search.py", "count, last = 0, len", "count, last = 1000, len")


def seen(script, place, tmp_path, **settings):
    """Return what a script says that imports the library from a place."""
    settings |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    return said("-W", "ignore", str(script), str(place), cwd="/", **settings).split()


@pytest.mark.parametrize("install", [zipped, without_sources, linked])
def test_wherever_the_sources_are_a_change_is_another_fingerprint(install, tmp_path):
    package, script, place = copied_package(tmp_path / "site") / "iobuf_nb", tmp_path / "script.py", tmp_path / "app"
    script.write_text(FINGERPRINT)
    install(package, place)
    before, again = (seen(script, place, tmp_path, NUMBA_DISABLE_JIT="1") for _ in range(2))
    changed(package)
    install(package, place)
    (after, path), (fingerprint, old_path) = seen(script, place, tmp_path, NUMBA_DISABLE_JIT="1"), before
    assert before == again and after != fingerprint and path == old_path and path.startswith(str(place))


def test_a_change_of_the_sources_misses_the_cache(tmp_path):
    """Neither functions here nor a user's kernels go on running what was inlined into them."""
    package, script, place = (
        copied_package(tmp_path / "site") / "iobuf_nb",
        tmp_path / "script.py",
        tmp_path / "app.zip",
    )
    script.write_text(ZIPPED)
    zipped(package, place)
    assert seen(script, place, tmp_path) == ["0"] * 4
    changed(package)
    zipped(package, place)
    assert seen(script, place, tmp_path) == ["1000"] * 4


USED = """
pool = BufferPool(2, 64)
pool.put(pool.get())
queue = BoundedQueue(2)
queue.put(1), queue.get()
print(pool.available(), c_methods.WHY_NOT)
"""


def used(cache, folder=None, **settings):
    """Return what a process says that uses a pool with this cache."""
    return Process(USED, file=(folder or cache.parent) / "script.py", NUMBA_CACHE_DIR=str(cache), **settings).finish()


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory):
    cache = tmp_path_factory.mktemp("whole") / "cache"
    assert used(cache) == (0, "2 None\n", "")
    return cache


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def spoiled(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def garbage(path):
    path.write_bytes(b"no pickle at all" * 10)


def a_folder(path):
    path.unlink()
    path.mkdir()


def unreadable(path):
    path.unlink()
    path.symlink_to(path.name)  # a loop: root, too, gets an error


WAYS = [cut, emptied, spoiled, garbage, a_folder, unreadable]


def key(build="01234567", function="function"):
    return (build,), (("module", function, 1), "code", []), "options", "signature"


@pytest.mark.parametrize("spoil", WAYS)
def test_a_damaged_entry_is_seen(spoil, tmp_path):
    cache_of_code.save(tmp_path, key(), "code")
    assert cache_of_code.load(tmp_path, key()) == "code"
    assert cache_of_code.load(tmp_path, key(function="another")) is None
    (path,) = tmp_path.rglob("*.nbc")
    spoil(path)
    with pytest.raises(ValueError, match=str(path)):
        cache_of_code.load(tmp_path, key())


def test_the_builds_used_last_are_kept(tmp_path):
    place, kept = tmp_path / "cache", cache_of_code._BUILDS_KEPT
    for build in range(kept):
        cache_of_code.save(place, key(f"{build:08x}"), build)
    (place / "of the user").mkdir()
    for folder in place.iterdir():
        os.utime(folder, (0, 0))
    cache_of_code._mark_as_used.cache_clear()
    assert cache_of_code.load(place, key("00000001")) == 1  # which is now the newest
    for build in range(kept, 2 * kept - 1):
        cache_of_code.save(place, key(f"{build:08x}"), build)
    found = {build for build in range(2 * kept) if cache_of_code.load(place, key(f"{build:08x}")) == build}
    assert found == {1, *range(kept, 2 * kept - 1)} and (place / "of the user").is_dir()


def test_nobody_else_can_write_what_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    before = os.umask(0)
    try:
        place = cache_of_code.place_to_write.__wrapped__()
        cache_of_code.save(place, key(), "code")
    finally:
        os.umask(before)
    made = [*tmp_path.rglob("*")]
    assert len(made) == 3 and not [path for path in made if path.stat().st_mode & 0o022]


def test_damaged_entries_are_as_none_and_said_once(whole_cache, tmp_path):
    cache = shutil.copytree(whole_cache, tmp_path / "cache")
    entries = sorted(cache.rglob("*.nb?"))
    for entry, spoil in zip(entries, itertools.cycle(WAYS)):
        spoil(entry)
    status, output, errors = used(cache)
    assert (status, output) == (0, "2 None\n"), errors
    assert errors.count("RuntimeWarning") == 1 and "a damaged entry in the cache of compiled code is ignored" in errors
    assert any(str(entry) in errors for entry in entries)
    for entry in entries:
        if entry.is_dir():
            entry.rmdir()
    assert used(cache) == (0, "2 None\n", "")  # the others were written anew


def test_an_entry_in_the_place_of_another_is_as_none(whole_cache, tmp_path):
    cache = shutil.copytree(whole_cache, tmp_path / "cache")
    entries = sorted(cache.rglob("*.nbc"))
    whole = [entry.read_bytes() for entry in entries]
    for entry, of_another in zip(entries, whole[1:] + whole[:1], strict=True):
        entry.write_bytes(of_another)
    before = len(list(cache.rglob("*.nbc")))
    assert used(cache) == (0, "2 None\n", "")
    assert len(list(cache.rglob("*.nbc"))) == before and not list(cache.rglob("*.tmp*"))


def test_a_cache_that_becomes_full_is_said_once(tmp_path):
    """Where files can be made, and nothing written into them."""
    cache = tmp_path / "cache"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); " + (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    )
    done = python("-c", limit + PRELUDE + USED, cwd="/", NUMBA_CACHE_DIR=str(cache))
    assert (done.returncode, done.stdout) == (0, "2 None\n"), done.stderr
    assert done.stderr.count("RuntimeWarning") == 1 and f"cannot be cached in {cache}" in done.stderr
    assert "NUMBA_CACHE_DIR to use another folder" in done.stderr
    assert not [path for path in cache.rglob("*") if path.is_file()]  # nothing half-written is left


TWO_SIGNATURES = """
from iobuf_nb._jit.compile import kernel

@kernel
def double(x):
    return x + x

values = {"int": 2, "float": 1.5, "array": np.ones(2), "bytes": np.ones(2, "u1")}
sys.stdin.readline()
print(*[np.sum(double(values[kind])) for kind in sys.argv[1:]], sum(double.stats.cache_hits.values()))
"""


def test_processes_that_save_different_signatures_at_once_keep_all_entries(tmp_path):
    kinds, script = {"int": "4", "float": "3.0", "array": "4.0", "bytes": "4"}, tmp_path / "script.py"

    def start(*kinds):
        return Process(TWO_SIGNATURES, *kinds, file=script, NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    processes = {kind: start(kind) for kind in kinds}
    assert {kind: process.output() for kind, process in processes.items()} == {k: f"{v} 0" for k, v in kinds.items()}
    assert start(*kinds).output() == f"{' '.join(kinds.values())} {len(kinds)}"


# Root may write anywhere, until it gives that up for all it starts: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE.
GIVE_UP = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


READ_ONLY = """

@njit(nogil=True)
def work(pool, magazine):
    index = pool.get()
    pool.put(index)
    magazine.put(magazine.get())
    return index

pool = BufferPool(2, 64)
with pool.magazine() as mine:
    pool.put(pool.get()), mine.put(mine.get())
    print(work(pool, mine) >= 0, pool.available())
expect(WouldBlock, BoundedQueue(1).get, timeout=0.01)
print(c_methods.WHY_NOT)
expect(RuntimeError, njit(cache=True), work.py_func)
"""


@contextlib.contextmanager
def read_only(*places):
    """Let nobody write to folders and what is in them."""
    folders = [each for place in places for each in (place, *place.rglob("*")) if each.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    yield
    for folder in folders:
        folder.chmod(0o755)


needs_capabilities = pytest.mark.skipif(sys.platform != "linux", reason="needs capabilities")


@needs_capabilities
def test_where_nothing_can_be_written_kernels_are_compiled_in_memory(tmp_path):
    package, home = copied_package(tmp_path / "site"), tmp_path / "home"
    home.mkdir()
    (tmp_path / "file").touch()
    places = {"HOME": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below")}
    with read_only(home, package / "iobuf_nb"):
        process = Process(READ_ONLY, flags=("-c", GIVE_UP), PYTHONPATH=str(package), **places)
        status, output, errors = process.finish()
    used, why_not = output.splitlines()
    assert (status, used) == (0, "True 2") and "no folder for compiled code can be written" in why_not
    assert errors.count("RuntimeWarning") == 1 and "cannot be cached in any folder" in errors and str(package) in errors
    assert not list(home.iterdir()) and not list(package.rglob("*.nb?"))


@needs_capabilities
def test_a_cache_that_can_only_be_read_is_used(whole_cache, tmp_path):
    """What had to be compiled could not be saved, and there would be a warning."""
    package, cache = copied_package(tmp_path / "site"), shutil.copytree(whole_cache, tmp_path / "cache")
    with read_only(cache, package / "iobuf_nb"):
        assert used(cache, flags=("-c", GIVE_UP), PYTHONPATH=str(package)) == (0, "2 None\n", "")


@needs_capabilities
def test_where_the_home_cannot_be_written_entries_are_saved_beside_the_package(tmp_path):
    package, home = copied_package(tmp_path / "site"), tmp_path / "home"
    home.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": "relative", "PYTHONPATH": str(package)}
    with read_only(home):
        assert used("", tmp_path, flags=("-c", GIVE_UP), **places) == (0, "2 None\n", "")
    with read_only(home, package / "iobuf_nb"):
        assert used("", tmp_path, flags=("-c", GIVE_UP), **places) == (0, "2 None\n", "")
    assert not list(home.iterdir()) and entries_of(package / "iobuf_nb" / "__pycache__")
