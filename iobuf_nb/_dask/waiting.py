"""Waiting for a cluster: until a result is there, or it is clear that none will come."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distributed import Client, Future, KilledWorker

from .._streams.errors import StreamError
from .plan import Task

_LOOK_S = 0.1
_WORKERS_S = 1.0  # between two looks for workers

#: The topic of a cluster's events under which tasks tell of progress.
TOPIC = "iobuf_nb-progress"
_lock = threading.Lock()
_followed: dict[str, dict[str, dict[int, int]]] = {}  # by client and stream: the bytes of shares that are done


def result_of(
    client: Client, future: Future, shares: list[Future], tasks: dict[Any, Task], patience: float,
    look: Callable[[], None],
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Wait for a future and return its result, calling `look` meanwhile; after an error nothing goes on.

    `shares` are further futures, whose results are returned, too. `tasks` are those of a stream by their keys,
    `patience` the seconds to wait for a worker when there is none.
    """
    ended = False
    try:
        _wait(client, future, patience, look)
        results = future.result(), client.gather(shares)
        ended = True
        return results
    except StreamError as error:
        raise error from error.args[2]
    except KilledWorker as error:
        task = tasks.get(error.task)
        if task is None:
            raise
        deaths = f"{error.allowed_failures + 1} workers died while they had this piece, the last at {_address(error)}"
        raise StreamError(*task.place, RuntimeError(deaths)) from error
    finally:
        if not ended and client.status == "running":
            client.cancel([future, *shares], force=True)


def _wait(client: Client, future: Future, patience: float, look: Callable[[], None]) -> None:
    """Wait for a future; ConnectionError without a scheduler, TimeoutError if there is no worker for too long."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    seen = looked = time.monotonic()
    while not done.wait(_LOOK_S) and not future.done():  # what calls back may be busy, with other futures
        look()
        now = time.monotonic()
        if now - looked > _WORKERS_S:
            looked = now
            if _has_workers(client):
                seen = now
            elif now - seen > patience:
                raise TimeoutError(
                    f"the cluster at {address_of(client)} has had no worker for {patience:g} seconds (worker_timeout): "
                    "see the workers' logs; a worker that uses too much memory is ended"
                )
    look()
    if future.status in ("cancelled", "lost"):
        if client.status != "running":
            raise lost(client)
        raise RuntimeError("the tasks of this stream were cancelled")


def _has_workers(client: Client) -> bool:
    with suppress(OSError):  # then the client finds out, and cancels its futures
        return bool(client.nthreads())
    return True


def lost(client: Client) -> ConnectionError:
    """Return the error for a client whose scheduler is gone."""
    return ConnectionError(f"the connection to the scheduler at {address_of(client)} was lost")


def address_of(client: Client) -> str:
    """Return the address of a client's scheduler."""
    return str(getattr(client.scheduler, "addr", None) or getattr(client.scheduler, "address", "?"))


def _address(error: KilledWorker) -> str:
    return str(getattr(error.last_worker, "address", error.last_worker))


@contextmanager
def followed(
    client: Client, report: Callable[[int, int | None], None], size: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what tasks are to call the stream when they tell how many bytes they have done, and what reports their sum.

    All streams tell under one topic, since a scheduler and a client keep each topic for ever.
    """
    name = uuid.uuid4().hex
    done: dict[int, int] = {}  # by share: one that is done twice counts once
    told = -1

    def look() -> None:
        nonlocal told
        found = sum(list(done.values()))
        if found != told:
            report(found, size)
            told = found

    with _lock:
        client.subscribe_topic(TOPIC, _heard)
        _followed.setdefault(client.id, {})[name] = done
    try:
        yield name, look
    finally:
        with _lock:
            del _followed[client.id][name]
            if not _followed[client.id]:
                del _followed[client.id]
                client.unsubscribe_topic(TOPIC)


def _heard(event: tuple[float, Any]) -> None:
    """Take note of a share that is done; in the thread of a client."""
    told = event[1]
    for streams in list(_followed.values()):
        done = streams.get(told["stream"])
        if done is not None:
            done[told["share"]] = told["bytes"]
