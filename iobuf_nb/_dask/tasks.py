"""Tasks: what runs on a worker of a cluster, once for each share of a stream and once for each merge of results."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import numba
from distributed import Reschedule, Worker, get_worker
from numpy.typing import NDArray

from .._streams.errors import StreamError
from .._streams.progress import processors
from .._streams.share import Share
from .._streams.stream import stream_share
from .plugin import worker_pool
from .travel import dumps
from .versions import require_same
from .waiting import TOPIC

_serial = threading.Lock()  # numba's workqueue aborts a process of which two threads use it


class Job(NamedTuple):
    """What all tasks of a stream have in common."""

    kernel: Any
    combine: Callable[[Any, Any], Any] | None
    options: dict[str, Any]  # of the local stream
    pool: str | None  # the name of a PoolPlugin
    part: str | None  # what makes a path of output, given the number of a share
    name: str | None  # of the stream, if it is to tell of progress
    threads: int  # of tasks on one machine, over all its workers


class Outcome(NamedTuple):
    """What one share, or several, have come to.

    States are pickled, so that a merge that is run once more finds them as they were, whatever `combine` changes.
    """

    states: list[bytes]  # one, if they were merged
    by_source: dict[int, bytes]  # those of sources, if they are kept apart
    bytes: int
    written: int
    mapped: int
    compile_seconds: float
    collected: NDArray[Any] | None  # does not go through merges


def run_share(number: int, pickled: bytes, *, sent: bytes) -> Outcome:
    """Run the kernel over a share of the sources."""
    worker = get_worker()
    job_pickled = _of_same_versions(sent, worker)
    with _told(worker):
        job: Job = pickle.loads(job_pickled)
        share, sources = pickle.loads(pickled)
        result = _streamed(worker, job, number, share, sources)
        apart = bool(job.options["per_file"])
        states = result.state if apart or job.combine is None else [result.state]
        pickles = [dumps(state) for state in states]
    if job.name is not None:
        worker.log_event(TOPIC, {"stream": job.name, "share": number, "bytes": result.bytes})
    return Outcome(
        states=[] if apart else pickles,
        by_source=dict(enumerate(pickles, share.index)) if apart else {},
        bytes=result.bytes,
        written=result.written,
        mapped=result.mapped,
        compile_seconds=result.compile_seconds,
        collected=result.collected,
    )


def merge(sent: bytes, *outcomes: Outcome) -> Outcome:
    """Merge the outcomes of shares that follow each other."""
    worker = get_worker()
    job_pickled = _of_same_versions(sent, worker)
    with _told(worker):
        job: Job = pickle.loads(job_pickled)
        found: dict[int, list[bytes]] = {}
        for each in outcomes:
            for index, state in each.by_source.items():
                found.setdefault(index, []).append(state)
        states = _merged([state for each in outcomes for state in each.states], job.combine)
        by_source = {index: _merged(some, job.combine)[0] for index, some in found.items()}
    return Outcome(
        states=states,
        by_source=by_source,
        bytes=sum(each.bytes for each in outcomes),
        written=sum(each.written for each in outcomes),
        mapped=sum(each.mapped for each in outcomes),
        compile_seconds=max(each.compile_seconds for each in outcomes),
        collected=None,
    )


def _of_same_versions(sent: bytes, worker: Worker) -> bytes:
    """Return the pickled job of a client that has the versions of this worker."""
    versions, job_pickled = pickle.loads(sent)
    require_same(versions, worker.address)
    return job_pickled


def _merged(states: list[bytes], combine: Callable[[Any, Any], Any] | None) -> list[bytes]:
    if combine is None or len(states) < 2:
        return states
    return [dumps(functools.reduce(combine, map(pickle.loads, states)))]


def _streamed(worker: Worker, job: Job, number: int, share: Share, sources: Any) -> Any:
    key: Any = worker.get_current_task()

    def look(done: int, size: int | None) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Reschedule  # which also serves, should somebody want it after all

    options = dict(job.options)
    if job.pool is not None:
        options["pool"] = worker_pool(job.pool)
    if job.part is not None:
        options["output"] = job.part.format(number)
    with _few_threads(worker, job) if _is_parallel(job.kernel) else nullcontext():
        return stream_share(share, sources, job.kernel, combine=job.combine, progress=look, **options)


def _is_parallel(kernel: Any) -> bool:
    return bool(getattr(kernel, "targetoptions", {}).get("parallel", False))


@contextmanager
def _few_threads(worker: Worker, job: Job) -> Iterator[None]:
    """Let numba's threads of all tasks on a machine be no more than its processors, for a ``with`` block."""
    before = numba.get_num_threads()  # the first such call also chooses the threading layer
    with ExitStack() as stack:
        if numba.threading_layer() == "workqueue":
            if worker.state.nthreads > 1:
                raise ValueError(
                    f"kernel has parallel=True, which {worker.state.nthreads} threads of a worker cannot use at once: "
                    "numba's threading layer there is workqueue; start workers with one thread (--nthreads 1), "
                    "or install tbb"
                )
            stack.enter_context(_serial)  # workers may share a process
        numba.set_num_threads(min(before, max(processors() // job.threads, 1)))
        stack.callback(numba.set_num_threads, before)
        yield


@contextmanager
def _told(worker: Worker) -> Iterator[None]:
    """Let errors of a ``with`` block tell the worker, and be ones that can be pickled."""
    where = f"on worker {worker.address}"
    try:
        yield
    except StreamError as error:
        raise StreamError(error.filename, error.offset, _picklable(error.args[2]), where) from None
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(error.errno, f"{error.strerror}, {where}", error.filename) from None
    except Exception as error:
        plain = type(error).__module__ == "builtins" and len(error.args) == 1 and isinstance(error.args[0], str)
        if plain:
            error.args = (f"{error.args[0]}, {where}",)
        raise


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error
