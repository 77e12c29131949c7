"""The self-test: pools, queues and a stream at work for a moment each, with results that only come of exclusion.

What has to be compiled for it is compiled by a first run, which is not part of the figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np

from .._jit.compile import INTERPRETED, kernel
from .._memory.tier import Tier
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._streams.stream import stream
from .._warm import compiled_by
from .finding import Finding, ok, problem

_CALLS = 100 if INTERPRETED else 20_000  # in Python
_ROUNDS = 100 if INTERPRETED else 200_000  # in kernels: so many that the threads do meet
_CAPACITY = 64
_LIMIT_S = 5.0  # of a wait: a wake-up that is lost is an error, not a hang
_BYTES = 1 << 16 if INTERPRETED else 1 << 24


def tried(step: Callable[[], dict[str, float]]) -> Finding:
    """Examine whether a step of the self-test succeeds, and how fast it is: it returns figures by their units."""
    figures: dict[str, float] = {}
    try:
        kernels, first_s = compiled_by(step)
        _, seconds = compiled_by(lambda: figures.update(step()))
    except Exception as error:
        return problem(
            f"failed: {type(error).__name__}: {error}",
            f"{step.__doc__} That does not work here, or the machine is so busy that a wait took {_LIMIT_S:g} s.",
            "try again with NUMBA_CACHE_DIR set to an empty folder; if that fails, report it with this output",
        )
    ready_s = max(first_s - seconds, 0.0)
    told = [f"{value:,.1f} {unit.replace('_', ' ')}" for unit, value in figures.items()]
    ready = f"{kernels} kernels compiled" if kernels else "nothing compiled, kernels loaded"
    found = f"{', '.join(told)}; took {seconds:.2f} s; before that, {ready} in {ready_s:.1f} s"
    return ok(found, seconds=seconds, compiled=kernels, ready_seconds=ready_s, **figures)


def pool_in_python() -> dict[str, float]:
    """Get a buffer of a pool and put it back, in Python."""
    with BufferPool(4, Tier.MEDIUM) as pool:
        start = perf_counter()
        for _ in range(_CALLS):
            pool.put(pool.get())
        seconds = perf_counter() - start
        _require("free buffers", pool.available(), 4)
    return {"ns_per_get_and_put": seconds / _CALLS * 1e9}


@kernel
def _count(pool, rounds):
    """Count in the buffer, by additions that are right only for who has it alone."""
    for _ in range(rounds):
        index = pool.get(True, _LIMIT_S)
        pool.value(index)[0] += 1
        pool.put(index)


def pool_in_kernels() -> dict[str, float]:
    """Get and put the only buffer of a pool, in kernels on two threads that wait for each other."""
    with BufferPool(1, shape=8, dtype=np.int64) as pool:
        seconds = _on_two_threads(lambda: _count(pool, _ROUNDS), lambda: _count(pool, _ROUNDS))
        with pool.lease() as buffer:
            _require("rounds", int(buffer[0]), 2 * _ROUNDS)
    return {"ns_per_get_and_put": seconds / (2 * _ROUNDS) * 1e9}


@kernel
def _send(queue, rounds):
    for k in range(rounds):
        queue.put(k % _CAPACITY, True, _LIMIT_S)


@kernel
def _receive(queue, rounds, misplaced):
    for k in range(rounds):
        misplaced[0] += queue.get(True, _LIMIT_S) != k % _CAPACITY


def queue_in_kernels() -> dict[str, float]:
    """Pass integers through a bounded queue, in order, from a kernel on one thread to one on another."""
    misplaced = np.zeros(1, np.int64)
    with BoundedQueue(_CAPACITY) as queue:
        _send(queue, 0), _receive(queue, 0, misplaced)  # compiled before one waits for the other, which may take long
        seconds = _on_two_threads(lambda: _send(queue, _ROUNDS), lambda: _receive(queue, _ROUNDS, misplaced))
    _require("items out of order", int(misplaced[0]), 0)
    return {"ns_per_item": seconds / _ROUNDS * 1e9}


@kernel
def _sum(buffer, n, offset, state):
    state[0] += buffer[:n].sum()


def stream_of_a_file() -> dict[str, float]:
    """Stream a temporary file through a kernel."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"\x03" * _BYTES)
        file.seek(0)
        result = stream(file, _sum, state=np.zeros(1, np.int64), combine=np.add)
    _require("sum of all bytes", int(result.state[0]), 3 * _BYTES)
    return {"GB_per_s": result.gb_per_s}


def _on_two_threads(*calls: Callable[[], Any]) -> float:
    """Return how many seconds calls take side by side."""
    with ThreadPoolExecutor(len(calls)) as threads:
        start = perf_counter()
        for future in [threads.submit(call) for call in calls]:
            future.result()
        return perf_counter() - start


def _require(what: str, value: int, expected: int) -> None:
    if value != expected:
        raise RuntimeError(f"{what}: {value}, not {expected}")
