"""Streams on a cluster: the client plans tasks over all sources, sends them, and waits for what they come to."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pickle import loads
from typing import Any, Literal

import numpy as np
from distributed import Client
from distributed.comm import get_address_host
from numpy.typing import DTypeLike

from .._jit import check
from .._memory.aligned import MAX_BYTES
from .._memory.tier import Tier
from .._streams.progress import reporter
from .._streams.remote import is_url
from .._streams.sinks import TEMPORARY
from .._streams.state import check_combine, make_states
from .._streams.stream import StreamResult
from .._streams.windows import windows_of
from .kernels import require_kernel
from .plan import USUAL_BYTES, piece_size, tasks_of
from .tasks import Job
from .travel import require_sendable
from .tree import grown
from .waiting import followed, lost, result_of


def stream(
    client: Client,
    sources: Any,
    kernel: Any,
    *,
    state: Any = None,
    combine: Callable[[Any, Any], Any] | None = None,
    per_file: bool = False,
    output: Any = None,
    collect: DTypeLike | None = None,
    output_dtype: DTypeLike | None = None,
    output_items: int | None = None,
    workers: int | None = None,
    tier: Tier | int | None = None,
    buffers: int | None = None,
    pool: str | None = None,
    engine: Literal["auto", "preadv", "mmap"] = "auto",
    direct: bool = False,
    record: int | None = None,
    dtype: DTypeLike | None = None,
    delimiter: bytes | None = None,
    overlap: Sequence[int] = (0, 0),
    start: int = 0,
    stop: int | None = None,
    skip: int = 0,
    decompress: str | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
    piece_bytes: int | None = None,
    retries: int = 0,
    worker_timeout: float = 60.0,
) -> StreamResult:
    r"""Run a kernel over files on all workers of a Dask cluster: `iobuf_nb.stream`, past one machine.

    The client looks at the sources and divides them into tasks: a few small files each, or a part of a large one. A
    task is a stream of its own, on one worker. States are merged on the workers, 32 at a time, and only states
    and results cross the wire.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster. Client, scheduler and workers must have the same version of iobuf_nb, and of Python, numba and
        numpy but for the last number.
    sources : path, pattern or URL; or a list, tuple or iterator of them
        As in `iobuf_nb.stream`. The client looks at them and the workers read them: files must be on a file system that
        they share, and URLs in reach of both. They must not change meanwhile. Pipes, sockets, descriptors and memory
        stay with their process.
    kernel : function compiled by ``numba.njit``
        As in `iobuf_nb.stream`, with the same `offset` and `source`. A kernel of a module that workers can import
        travels by its name, and has the cache that its decorator asked for; one of a notebook or script travels by
        value, with the functions and globals that it uses. Each worker process compiles it once, or loads it
        from its cache.
    state : value that kernels accept and can change in place, a callable that makes one, or None
        As in `iobuf_nb.stream`, for each task; a callable makes another object at each call. It must be one that
        `pickle` or cloudpickle can pickle; numba's typed lists and dicts, and `iobuf_nb.text.ByteTable`, are.
    combine : callable, optional
        ``combine(a, b)`` merges the states of neighbours, in the order of the source, so that it needs to be
        associative but not commutative. It runs on workers. Without it the result's `state` is a list: one of each
        worker thread of each task, in the order of the source.
    per_file : bool
        Keep states apart by source: the result's `state` is a list with one for each. Needs `combine`, unless
        `workers` is 1 and no file is divided.
    output : path, optional
        A folder, which is made if it is not there, on the file system that workers share. Each task writes its part:
        ``part-000000``, ``part-000001`` and so on, in the order of the source. A part appears when it is complete. The
        folder must have no parts yet. After a failure those that are complete stay.
    collect : dtype, optional
        As in `iobuf_nb.stream`: what kernels return comes to the client, as one array.
    workers : int, optional
        Threads of one task, from 1 to 1024. Dask runs several tasks at once, one in each of its threads, and that is
        why the default is 1. A kernel with ``parallel=True`` gets a share of the processors of its machine.
    pool : str, optional
        The name of a `PoolPlugin`: tasks use the buffers of the worker's pool. By default each makes its own.
    output_dtype, output_items, tier, buffers, direct, record, dtype, delimiter, overlap, start, stop, skip
        As in `iobuf_nb.stream`.
    engine : {"auto", "preadv", "mmap"}
        As in `iobuf_nb.stream`.
    decompress : {None, "auto", "gzip", "zstd", "lz4", "bz2", "xz"}
        As in `iobuf_nb.stream`. Files that are compressed are not divided, and count in the `offset` of sources behind
        them by their compressed bytes, because nobody knows the others beforehand.
    progress : bool or callable
        As in `iobuf_nb.stream`. It moves when a task has ended.
    piece_bytes : int, optional
        Bytes of a task. By default 128 MiB, and less, down to 8 MiB, of sources that would give fewer than four tasks
        to each thread of the cluster; with `output` 128 MiB always, so that parts do not depend on the cluster.
    retries : int
        How often a task is tried again, on any worker, that has raised an exception. A task whose worker died is always
        tried again, as often as Dask's ``distributed.scheduler.allowed-failures`` says.
    worker_timeout : float
        Seconds to wait for a worker when there is none.

    Returns
    -------
    StreamResult
        `seconds` is from the plan to the last result, and includes the time that compiles; `compile_seconds` is
        that of the task that compiled longest.

    Raises
    ------
    StreamError
        The kernel raised; the message names the piece, and the worker. Or as many workers died on a piece as Dask
        allows.
    OSError, ValueError, TypeError, ImportError, MemoryError
        As `iobuf_nb.stream`; those of workers name the worker. A file is missing on a worker, or has changed since it
        was planned. An argument cannot be sent. The kernel cannot be imported on a worker, or has other code there.
    RuntimeError
        The versions on a worker differ; the tasks were cancelled by someone else.
    ConnectionError, TimeoutError
        The scheduler is gone; there was no worker for `worker_timeout` seconds.
    FileExistsError
        `output` has parts already.

    Notes
    -----
    It blocks until the last task has ended; any number of threads may call it, also with the same client. Ctrl-C
    cancels the tasks; those at work end within a piece or so, and their buffers are back then. The result does not
    depend on which worker did what, nor how often: where states are integers it is that of a stream on one machine, bit
    for bit. Sums of floats depend on `piece_bytes`, as they do on `workers` there.

    Examples
    --------
    >>> import tempfile
    >>> from distributed import Client
    >>> from numba import njit
    >>> @njit
    ... def add(buffer, n, offset, state):
    ...     state[0] += buffer.sum()
    >>> with Client(processes=False, dashboard_address=None) as client, tempfile.NamedTemporaryFile() as file:
    ...     np.arange(100_000).tofile(file.name)
    ...     stream(client, file.name, add, state=np.zeros(1, int), combine=np.add, dtype=int).state
    array([4999950000])
    """
    began = time.perf_counter()
    if not isinstance(client, Client) or client.asynchronous:
        raise TypeError(f"client must be a distributed.Client that is not asynchronous, not {client!r:.60}")
    if client.status in ("closing", "closed"):
        raise ValueError(f"client must be connected, and is {client.status}")
    check_combine(combine)
    workers = check.integer("workers", 1 if workers is None else workers, 1, 1024)
    check.integer("retries", retries, 0, 2**20)
    patience = check.seconds("worker_timeout", worker_timeout, "a number of seconds >= 0")
    if pool is not None and not isinstance(pool, str):
        raise TypeError(
            f"pool must be the name of a PoolPlugin, not {pool!r:.60}: pools stay in their process, so let workers "
            "have their own, client.register_plugin(PoolPlugin(capacity, size, name=...))"
        )
    if not isinstance(engine, str) or engine not in ("auto", "preadv", "mmap"):
        raise ValueError(f"engine must be 'auto', 'preadv' or 'mmap' on a cluster, not {engine!r}")
    require_kernel(kernel)
    units: dict[str, Any] = {
        "record": record, "dtype": dtype, "delimiter": delimiter, "overlap": overlap, "start": start, "stop": stop,
        "skip": skip, "decompress": decompress,
    }  # fmt: skip
    options = units | {
        "state": state, "per_file": bool(per_file), "collect": collect, "output_dtype": output_dtype,
        "output_items": output_items, "workers": workers, "tier": tier, "buffers": buffers, "engine": engine,
        "direct": direct,
    }  # fmt: skip
    first, *second = make_states(state, 2 if callable(state) else 1)
    if first is None:
        combine = None if combine is None else _first
    elif second and first is second[0]:
        raise ValueError("state must make another object at each call, or tasks of one process would share it")
    require_sendable(kernel=kernel, state=state, combine=combine)
    require_sendable(state=first)
    made_of, options["dtype"], found = windows_of(sources, **units)
    try:
        threads = client.nthreads()
    except OSError as error:
        raise lost(client) from error
    total = sum(each.window.high - each.window.low for each in found)
    if piece_bytes is not None:
        piece = check.integer("piece_bytes", piece_bytes, 1, MAX_BYTES)
    elif output is not None:
        piece = USUAL_BYTES
    else:
        piece = piece_size(total, sum(threads.values()) or 1)
    everywhere = [each if is_url(each.name) else each._replace(name=os.path.abspath(each.name)) for each in found]
    tasks = tasks_of(everywhere, piece, made_of.record)
    if per_file and combine is None and (workers > 1 or sum(len(task.sources) for task in tasks) > len(found)):
        raise ValueError(
            "per_file=True needs combine, because several tasks or threads may read one file; or pass workers=1, and "
            f"piece_bytes of at least {max((each.window.size for each in found), default=1)}"
        )
    with ExitStack() as stack:
        report = stack.enter_context(reporter(progress, "stream"))
        size = total if decompress is None else None
        follow = nullcontext((None, lambda: None)) if progress is False else followed(client, report, size)
        topic, look = stack.enter_context(follow)
        part = None if output is None else stack.enter_context(_folder_of_parts(output, len(tasks)))
        on_one = max(Counter(map(get_address_host, threads)).values(), default=1)
        job = Job(kernel, combine, options, pool, part, topic, on_one)
        future, by_key, shares = grown(client, job, tasks, retries)
        if collect is None:
            shares.clear()  # the cluster then forgets what is merged
        outcome, collected = result_of(client, future, shares, by_key, patience, look)
        report(outcome.bytes, size and outcome.bytes)
    by_source = outcome.by_source
    if per_file:
        merged = [loads(by_source[k]) if k in by_source else make_states(state, 1)[0] for k in range(len(found))]
    else:
        merged = [*map(loads, outcome.states)]
    return StreamResult(
        merged if per_file or combine is None else merged[0],
        outcome.bytes,
        time.perf_counter() - began,
        outcome.compile_seconds,
        tuple(each.name for each in found),
        None if collect is None else np.concatenate([each.collected for each in collected]),
        outcome.written,
        outcome.mapped,
    )


@contextmanager
def _folder_of_parts(output: Any, count: int) -> Iterator[str]:
    """Make a folder for parts, for a ``with`` block, and yield what makes the path of a part of its number."""
    folder = os.path.abspath(check.path("output", output))
    os.makedirs(folder, exist_ok=True)
    if any(name.startswith("part-") for name in os.listdir(folder)):
        raise FileExistsError(errno.EEXIST, "output must be a folder that has no parts yet", folder)
    digits = max(6, len(str(count - 1)))
    yield os.path.join(folder.replace("{", "{{").replace("}", "}}"), f"part-{{:0{digits}}}")
    for name in os.listdir(folder):
        if name.startswith(TEMPORARY):  # of a worker that was killed
            with suppress(FileNotFoundError):  # or was only cut off, and is done with it now
                os.unlink(os.path.join(folder, name))


def _first(a: Any, b: Any) -> Any:
    """Merge two states that are None."""
    return a
