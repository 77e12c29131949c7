"""A stream on a cluster has the result of one in this process, whatever happens to the workers."""

import functools
import gzip
import os
import pickle
import sys
import threading
import time
from enum import IntEnum
from types import ModuleType

import cluster_kernels as kernels
import distributed
import fsspec
import numpy as np
import pytest
from numba import njit, typed, types
from support import until

import iobuf_nb
from iobuf_nb import BufferPool, StreamError
from iobuf_nb._dask import kernels as kernels_on_their_way
from iobuf_nb._dask import versions
from iobuf_nb._dask.travel import dumps
from iobuf_nb.dask import stream, worker_pool
from iobuf_nb.text import ByteTable

RNG = np.random.default_rng(19)
VALUES = RNG.integers(0, 250, 300_000, dtype=np.uint8)
LINES = b"\n".join(RNG.choice([b"tea", b"cake", b"", b"a longer line"], 40_000)) + b"\n"
WHOLE = len(LINES) // 12 * 12  # records that there are in it


@pytest.fixture
def files(tmp_path):
    """Return what makes files of data, and their paths in order."""

    def write(*data):
        paths = [tmp_path / f"file-{k}" for k in range(len(data))]
        for path, each in zip(paths, data, strict=True):
            path.write_bytes(each)
        return [str(path) for path in paths]

    return write


def three():
    return np.zeros(3, np.int64)


# ---- the same result as in one process -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "<u2", "tier": 1000},
        {"record": 12, "start": 24, "stop": 150_000, "skip": 2},
        {"delimiter": b"\n", "skip": 3},
        {"delimiter": b"\n\n", "start": 100},
        {"engine": "mmap", "workers": 2},
    ],
    ids=str,
)
def test_as_in_one_process(local_client, files, options):
    paths = files(LINES[:WHOLE], b"", LINES[:48], LINES[:120_000], LINES[:2400])
    options = {"state": three, "combine": np.add, **options}
    expected = iobuf_nb.stream(paths, kernels.add, **options)
    result = stream(local_client, paths, kernels.add, piece_bytes=50_000, **options)
    assert result.state.tolist() == expected.state.tolist()
    assert (result.bytes, result.names) == (expected.bytes, expected.names)


def test_neighbours_and_sources(local_client, files):
    paths = files(VALUES[:100_001].tobytes(), VALUES[:5].tobytes(), VALUES[:70_000].tobytes())
    options = {"state": lambda: np.zeros(3, np.int64), "combine": np.add, "overlap": (1, 1)}
    expected = iobuf_nb.stream(paths, kernels.neighbours, **options)
    result = stream(local_client, paths, kernels.neighbours, piece_bytes=20_000, tier=5000, **options)
    assert result.state.tolist() == expected.state.tolist()


@pytest.mark.parametrize("piece_bytes", [20_000, 10_000_000])
def test_states_by_file(local_client, files, piece_bytes):
    paths = files(VALUES.tobytes(), b"", VALUES[:10].tobytes(), VALUES[5:100_000].tobytes())
    options = {"state": three, "combine": np.add, "per_file": True}
    expected = iobuf_nb.stream(paths, kernels.add, **options)
    result = stream(local_client, paths, kernels.add, piece_bytes=piece_bytes, **options)
    assert [state.tolist() for state in result.state] == [state.tolist() for state in expected.state]


def test_arrays_with_headers(local_client, tmp_path):
    paths = []
    for k in (1, 2):
        paths.append(str(tmp_path / f"{k}.npy"))
        np.save(paths[-1], np.arange(30_000 * k, dtype="f8").reshape(-1, 2))
    expected = iobuf_nb.stream(paths, row_sums, state=np.zeros(2), combine=np.add)
    result = stream(local_client, paths, row_sums, state=np.zeros(2), combine=np.add, piece_bytes=100_000)
    assert result.state.tolist() == expected.state.tolist()
    (tmp_path / "first").write_bytes(LINES)  # is no such array: then all are read as they are
    sources, options = [str(tmp_path / "first"), *paths], {"state": three, "combine": np.add}
    expected = iobuf_nb.stream(sources, kernels.add, **options)
    assert (
        stream(local_client, sources, kernels.add, piece_bytes=100_000, **options).state.tolist()
        == expected.state.tolist()
    )


@njit(nogil=True)
def row_sums(buffer, n, offset, state):
    for k in range(n):
        state += buffer[k]


def test_urls(local_client, tmp_path, monkeypatch):
    fsspec.filesystem("memory").pipe({"/cluster/a": LINES, "/cluster/b": LINES[:5000]})
    options = {"state": three, "combine": np.add, "delimiter": b"\n"}
    expected = iobuf_nb.stream("memory://cluster/*", kernels.add, **options)
    result = stream(local_client, "memory://cluster/*", kernels.add, piece_bytes=50_000, **options)
    assert result.state.tolist() == expected.state.tolist()
    assert (result.bytes, result.names) == (len(LINES) + 5000, expected.names)
    (tmp_path / "data").write_bytes(LINES)
    monkeypatch.chdir(tmp_path)
    for name in ("data", f"file://{tmp_path}/data"):
        assert stream(local_client, name, kernels.add, state=three, combine=np.add).bytes == len(LINES)


def test_compressed_sources_are_not_divided(local_client, files):
    paths = files(gzip.compress(LINES), LINES, gzip.compress(LINES[:100]))
    options = {"state": three, "combine": np.add, "delimiter": b"\n", "decompress": "auto"}
    for piece in (1000, 1 << 20):
        result = stream(local_client, paths, line_count, piece_bytes=piece, **options)
        assert result.state[0] == LINES.count(b"\n") * 2 + LINES[:100].count(b"\n") + (not LINES[:100].endswith(b"\n"))


@njit(nogil=True)
def line_count(buffer, n, offset, state):
    state[0] += (buffer[:n] == 10).sum() + (buffer[n - 1] != 10)


def test_what_kernels_return_in_order(local_client, files):
    paths = files(VALUES.tobytes(), VALUES[:1000].tobytes())
    expected = iobuf_nb.stream(paths, kernels.squares, collect=np.int64).collected
    result = stream(local_client, paths, kernels.squares, collect=np.int64, piece_bytes=40_000)
    assert result.collected.tolist() == expected.tolist()
    assert stream(local_client, [], kernels.squares, collect=np.int64).collected.tolist() == []


def test_parts_of_output(local_client, files, tmp_path):
    paths = files(VALUES.tobytes(), VALUES[:1000].tobytes())
    iobuf_nb.stream(paths, kernels.squares, output=tmp_path / "whole", output_dtype="i8")
    folder = tmp_path / "of {braces}"
    result = stream(local_client, paths, kernels.squares, output=folder, output_dtype="i8", piece_bytes=70_000)
    parts = sorted(folder.iterdir())
    assert [part.name for part in parts] == [f"part-{k:06}" for k in range(5)]
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "whole").read_bytes()
    assert result.written == (tmp_path / "whole").stat().st_size
    with pytest.raises(FileExistsError, match="no parts yet"):
        stream(local_client, paths, kernels.squares, output=folder, output_dtype="i8")


def test_states_without_combine_are_those_of_the_tasks_in_order(local_client, files):
    (path,) = files(VALUES.tobytes())
    result = stream(local_client, path, kernels.add, state=three, piece_bytes=100_000)
    assert [state[2] for state in result.state] == [100_000] * 3
    assert [state[0] for state in result.state] == VALUES.reshape(3, -1).sum(axis=1, dtype=int).tolist()


def test_neighbours_are_merged_in_order(local_client, files):
    paths = files(*(bytes([k]) * 1000 for k in range(40)))

    def joined(a, b):
        assert a[-1] < b[0]
        return np.concatenate((a, b))

    result = stream(local_client, paths, first_byte, state=np.zeros(1, np.int64), combine=joined, piece_bytes=1000)
    assert result.state.tolist() == list(range(40))


@njit(nogil=True)
def first_byte(buffer, n, offset, state):
    state[0] = buffer[0]


@njit(nogil=True)
def count_nothing(buffer, n, offset, state):
    pass


def test_no_states(local_client, files):
    paths = files(bytes(100), bytes(50))
    options = {"combine": np.add, "piece_bytes": 10, "workers": None}
    assert stream(local_client, paths, count_nothing, **options).state is None
    assert stream(local_client, paths, count_nothing, per_file=True, **options).state == [None, None]


def test_an_array_with_a_header_behind_another_file(local_client, tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b.npy")]
    for path in paths:
        with open(path, "wb") as file:
            np.save(file, np.arange(100))
    options = {"state": three, "combine": np.add}
    expected = iobuf_nb.stream(paths, kernels.add, **options)
    result = stream(local_client, paths, kernels.add, piece_bytes=300, **options)
    assert result.state.tolist() == expected.state.tolist()


# ---- processes: what travels -----------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_kernels_and_states_that_travel(client, files):
    paths = files(LINES, LINES[:1000])
    options = {"delimiter": b"\n", "piece_bytes": 100_000}
    table = ByteTable({"count": "sum"}, capacity=100)
    expected = iobuf_nb.stream(paths, kernels.count_words, state=table, combine=ByteTable.merge, delimiter=b"\n")
    result = stream(client, paths, kernels.count_words, state=table, combine=ByteTable.merge, **options)
    assert dict(result.state.items()) == dict(expected.state.items())

    weight = 3

    @njit
    def weigh(n):
        return n * weight

    @njit(nogil=True)
    def by_value(buffer, n, offset, state):
        counts, lengths = state
        counts[buffer[0]] = counts.get(buffer[0], 0) + weigh(n)
        lengths.append(n)

    def state():
        return typed.Dict.empty(types.int64, types.int64), typed.List.empty_list(types.int64)

    def combine(a, b):
        for key, value in b[0].items():
            a[0][key] = a[0].get(key, 0) + value
        for each in b[1]:
            a[1].append(each)
        return a

    counts, lengths = stream(client, paths, by_value, state=state, combine=combine, **options).state
    assert sum(lengths) == len(LINES) + 1000 and sum(counts.values()) == 3 * sum(lengths)


@pytest.mark.compiled
def test_a_kernel_by_value_is_compiled_once_in_a_process(client, files):
    (path,) = files(VALUES.tobytes())

    @njit(nogil=True)
    def made(buffer, n, offset, state):
        state[0] += n

    def compiled():
        from iobuf_nb._dask.kernels import _made

        return _made.cache_info().misses

    def misses():
        return sum(client.run(compiled).values())

    client.run(lambda pickled: pickle.loads(pickled) and None, dumps(made))  # on both workers, whichever is faster
    before = misses()
    for _ in range(2):
        assert stream(client, path, made, state=three, combine=np.add, piece_bytes=10_000).state[0] == len(VALUES)
    assert misses() == before


@pytest.mark.compiled
def test_what_is_compiled_of_a_kernel_by_value_is_kept():
    def made(factor):
        @njit
        def kernel(buffer, n, offset, state):
            state[0] += factor * n

        return kernel

    for factor, hits in ((random_factor := int(time.time_ns()), 0), (random_factor, 1), (7, None)):
        kernels_on_their_way._made.cache_clear()
        kernel = pickle.loads(dumps(made(factor)))
        state = np.zeros(1, np.int64)
        kernel(VALUES, 2, 0, state)
        assert state[0] == 2 * factor
        assert hits is None or sum(kernel.stats.cache_hits.values()) == hits


@pytest.mark.compiled
def test_a_kernel_that_is_another_on_the_worker():
    with pytest.raises(ImportError, match=r"cluster_kernels:add is not the one of the client"):
        kernels_on_their_way.named("cluster_kernels", "add", "0")
    with pytest.raises(ImportError, match="no_such_module:add cannot be imported"):
        kernels_on_their_way.named("no_such_module", "add", "0")


@pytest.mark.compiled
def test_a_digest_tells_what_a_kernel_does():
    digest = kernels_on_their_way.digest

    def made(factor, inner=lambda x: x + 1, options=None, rows=0):
        hash = njit(inner)
        return njit(lambda buffer, n, offset, state: hash(factor * n) + state.rows, **options or {})

    assert digest(made(2), values=True) == digest(made(2), values=True) == digest(made(2, rows=1), values=True)
    lock = threading.Lock()  # of each process its own
    others = [made(3), made(2, lambda x: x + 2), made(2, options={"locals": {"n": types.int32}}), made(np.arange(2))]
    others += [made(IntEnum("Kind", {"A": k})) for k in (1, 2)] + [made((2,)), made(lock)]
    assert len({digest(each, values=False) for each in [made(2), *others]}) == len(others) + 1
    with pytest.raises(TypeError, match="lock"):
        digest(made(lock), values=True)


@pytest.mark.compiled
def test_a_digest_tells_what_is_in_modules(monkeypatch):
    module = ModuleType("a_module")
    module.WEIGHT, module.weigh = 3, njit(lambda n: n)
    monkeypatch.setitem(sys.modules, "a_module", module)

    @njit
    def kernel(buffer, n, offset, state):
        state[0] += module.weigh(n) * module.WEIGHT

    pickled = dumps(kernel)
    assert dumps(kernel) == pickled and pickle.loads(pickled)
    for name, value in ("WEIGHT", 4), ("weigh", njit(lambda n: 2 * n)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            kernels_on_their_way._made.cache_clear()
            with pytest.raises(ImportError, match="kernel .*kernel uses modules that have other code or constants"):
                pickle.loads(pickled)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"state": threading.Lock}, "state must be something that numba kernels accept"),
        ({"combine": functools.partial(print, file=threading.Lock())}, "combine cannot be sent to workers: .*lock"),
        ({"pool": 3}, "pool must be the name of a PoolPlugin, not 3"),
        ({"kernel": len}, "kernel must be a function compiled by numba.njit"),
        ({"client": 3}, "client must be a distributed.Client"),
        ({"sources": b"memory"}, "source must be paths"),
        ({"state": functools.partial(np.asarray, np.zeros(3))}, "state must make another object at each call"),
        ({"engine": "uring"}, "engine must be 'auto', 'preadv' or 'mmap' on a cluster, not 'uring'"),
        ({"combine": None, "per_file": True, "workers": 2, "sources": []}, "per_file=True needs combine"),
        ({"piece_bytes": 0}, "piece_bytes must be an integer from 1"),
        ({"retries": -1}, "retries must be an integer from 0"),
        ({"worker_timeout": "long"}, "worker_timeout must be a number of seconds"),
        ({"combine": None, "per_file": True, "workers": 2}, "per_file=True needs combine"),
        ({"record": 7, "dtype": "u2"}, "record must be a multiple of the 2 bytes"),
    ],
)
@pytest.mark.compiled
def test_what_is_refused_before_anything_is_sent(local_client, files, arguments, sentence):
    (path,) = files(b"abc")
    given = {"client": local_client, "sources": path, "kernel": kernels.add, "state": three, "combine": np.add}
    with pytest.raises((TypeError, ValueError), match=sentence):
        stream(**given | arguments)


@pytest.mark.compiled
def test_a_pool_in_a_kernel_does_not_travel(local_client, files):
    (path,) = files(b"abc")
    with BufferPool(2, 4096) as pool:
        kernel = njit(lambda buffer, n, offset, state: pool.put(pool.get()))
        with pytest.raises(TypeError, match=r"kernel cannot be sent to workers: .*BufferPool.*worker_pool"):
            stream(local_client, path, kernel)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_an_error_names_the_piece_and_the_worker(client, files):
    data = np.zeros(50_000, np.uint8)
    data[30_000] = 7
    paths = files(bytes(20_000), data.tobytes())
    with pytest.raises(StreamError) as caught:
        stream(client, paths, kernels.fail_at_seven, piece_bytes=10_000)
    error = caught.value
    assert (error.filename, error.offset) == (paths[1], 30_000)
    assert "on worker tcp://" in str(error) and "seven" in str(error)
    assert isinstance(error.__cause__, ValueError)


def test_an_error_of_combine_names_the_worker(local_client, files):
    with pytest.raises(ZeroDivisionError, match="by zero, on worker inproc://"):
        stream(
            local_client, files(bytes(100)), kernels.add, state=three, combine=lambda a, b: 1 // 0, piece_bytes=50,
        )  # fmt: skip


def test_a_file_that_is_missing_or_another_one_on_a_worker(local_client, files):
    (path,) = files(bytes(1000))
    here = threading.get_ident()

    def spoiling(spoil):
        def state():
            if threading.get_ident() != here:
                spoil()
            return three()

        return state

    with pytest.raises(OSError, match=rf"Changed .*on worker .*{path}"):
        stream(local_client, path, kernels.add, state=spoiling(lambda: os.truncate(path, 900)), combine=np.add)
    with pytest.raises(FileNotFoundError, match=rf"on worker .*{path}"):
        stream(local_client, path, kernels.add, state=spoiling(lambda: os.unlink(path)), combine=np.add)
    with pytest.raises(FileNotFoundError, match=path):
        stream(local_client, path, kernels.add, state=three, combine=np.add)


def test_a_task_is_tried_again(local_client, files):
    path, once, twice = files(bytes(1000), b"", b"")
    here = threading.get_ident()

    def state():
        left = [each for each in (once, twice) if os.path.exists(each)]
        if threading.get_ident() != here and left:
            os.unlink(left[0])
            raise OSError(5, "Input/output error", "a disk")
        return three()

    options = {"state": state, "combine": np.add}
    with pytest.raises(OSError, match="error, on worker"):
        stream(local_client, path, kernels.add, **options)
    assert stream(local_client, path, kernels.add, retries=1, **options).bytes == 1000


def test_versions_that_differ(local_client, files, monkeypatch):
    (path,) = files(b"abc")
    ours = versions.own()
    for name in ours:
        monkeypatch.setattr("iobuf_nb._dask.tree.own_versions", lambda name=name: ours | {name: "1.99"})
        with pytest.raises(RuntimeError, match=rf"worker .* has {name} {ours[name]}, and the client 1.99"):
            stream(local_client, path, kernels.add, state=three, combine=np.add)


@pytest.mark.compiled
def test_a_parallel_kernel(local_client, files, monkeypatch):
    (path,) = files(VALUES.tobytes())
    options = {"state": three, "combine": np.add, "piece_bytes": 50_000}
    assert stream(local_client, path, kernels.in_parallel, **options).state[0] == VALUES.sum()
    monkeypatch.setattr("numba.threading_layer", lambda: "workqueue")
    with pytest.raises(ValueError, match="parallel=True, which 2 threads of a worker cannot use at once"):
        stream(local_client, path, kernels.in_parallel, **options)


# ---- progress, and giving up -----------------------------------------------------------------------------------------


def test_progress(local_client, files):
    (path,) = files(VALUES.tobytes())
    told = []
    stream(
        local_client, path, kernels.slow, state=three, combine=np.add, piece_bytes=30_000,
        progress=lambda done, size: told.append((done, size)),
    )  # fmt: skip
    assert told[-1] == (len(VALUES), len(VALUES)) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_all_streams_tell_of_progress_under_one_topic(local_client, files):
    (path,) = files(bytes(1000))
    for _ in range(2):
        stream(local_client, path, kernels.add, state=three, combine=np.add, progress=lambda done, size: None)
    assert [topic for topic in local_client.get_events() if "iobuf_nb-" in topic] == ["iobuf_nb-progress"]
    assert [topic for topic in local_client._event_handlers if "iobuf_nb-" in topic] == ["iobuf_nb-progress"]


def test_a_client_that_is_busy_with_the_callbacks_of_other_futures(local_client, files):
    """Such as one that calls a stream itself."""
    (path,) = files(bytes(1000))
    states = []
    ended = threading.Event()

    def call(_):
        states.append(stream(local_client, path, kernels.add, state=three, combine=np.add).state)
        ended.set()

    future = local_client.submit(int)
    future.add_done_callback(call)
    assert ended.wait(60) and states[0][2] == 1000


def test_closed_clients(local_client, files):
    with distributed.Client(local_client.scheduler.address) as client:
        pass
    with pytest.raises(ValueError, match="client must be connected, and is closed"):
        stream(client, files(b"abc"), kernels.add, state=three, combine=np.add)


@pytest.mark.parametrize("call", ["submit", "gather"])
def test_giving_up_while_tasks_are_sent_or_results_fetched(local_client, files, monkeypatch, call):
    (path,) = files(bytes(1000))

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(local_client, call, interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback keeps all that there was
        stream(local_client, path, kernels.squares, collect=np.int64, piece_bytes=100)
    monkeypatch.undo()
    assert not any("stream-" in key for key in local_client.futures)
    until(lambda: not any("stream-" in key for keys in local_client.has_what().values() for key in keys))
    assert caught.tb


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_giving_up_cancels_the_tasks_and_returns_their_buffers(local_client, registered, files, error):
    (path,) = files(bytes(1_000_000))
    registered(4, 4096, name="of a stream")

    def stop(done, size):
        raise error

    with pytest.raises(error):
        stream(
            local_client, path, kernels.slow, state=three, combine=np.add, piece_bytes=10_000, pool="of a stream",
            progress=stop,
        )  # fmt: skip
    until(lambda: not local_client.processing() or not any(local_client.processing().values()))
    until(lambda: all(local_client.run(lambda: worker_pool("of a stream").available() == 4).values()))
