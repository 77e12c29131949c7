"""Pools of workers: a plugin by which each worker process of a cluster has one, and how tasks find it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pickle
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed import Status, Worker, WorkerPlugin

from .._jit import check
from .._memory.segment import path_of
from .._memory.tier import Tier
from .._pools import sharing
from .._pools.layout import sizes_of
from .._pools.leaks import count_out
from .._pools.pool import BufferPool
from .machine_pool import join_pool

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

#: The topic of a cluster's events under which pools report.
TOPIC = "iobuf_nb"

_OPTIONS = ("checked", "nonblocking", "huge_pages", "lock", "populate")
_LONGEST_NAME = 100  # of a shared pool there is more in it
_AT_WORK = Status.running, Status.paused, Status.closing_gracefully

_logger = logging.getLogger("distributed.worker.iobuf_nb")  # what the workers' own messages go through
_lock = threading.Lock()  # workers in one process may have event loops of their own


@dataclass
class _Kept:
    """A pool of this process, what it was made from, and for which plugins of which workers it is kept."""

    pool: BufferPool[Any]
    settings: dict[str, Any]
    users: set[tuple[PoolPlugin, str]] = field(default_factory=set)


_kept: dict[str, _Kept] = {}


class PoolPlugin(WorkerPlugin):
    """A plugin that gives each worker process of a Dask cluster a `BufferPool`, for `worker_pool` to find.

    Parameters
    ----------
    capacity : int
        Number of buffers of each pool, from 1 to 2**32.
    size : Tier or int, optional
        Bytes of a buffer. Give either this or `shape`, with or without `dtype`, as to `BufferPool`.
    name : str
        By what tasks find it, and the name of the plugin; of 1 to 100 bytes of UTF-8, none of them a slash or 0.
    shared : bool
        Whether the workers of one machine use one pool, which is shared between their processes: that takes the memory
        of one, and the index of a buffer means the same in all of them. Linux only.
    shape, dtype, checked, nonblocking, page_size, huge_pages, lock, populate
        As in `BufferPool`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is out of range. When it is registered, also what `BufferPool` raises on a
        worker.
    RuntimeError
        When it is registered: a worker has a pool of that name with other arguments, of which buffers are checked out.

    Notes
    -----
    Register it with ``client.register_plugin``; workers that come later get their pool before their first task. If a
    plugin of the same name is registered again, workers keep their pools where the arguments are the same. Where they
    differ a pool is replaced if all of its buffers are free; otherwise it is kept, and an error says so.

    A pool is closed when its worker is, or the plugin is unregistered. If buffers are still checked out then, their
    number and holders are told three times: as a warning in the log of the worker, as a warning where a client is
    connected, and as an event of the scheduler, which ``client.get_events("iobuf_nb")`` returns. Workers of one process
    (``processes=False``) use one pool, and the last closes it.

    If a worker is killed the buffers of its own pool are gone with it; those that it held of a shared pool can be got
    again by others. The name of a shared pool, in /dev/shm, is removed with the last worker of the machine; if all of
    them are killed for good, by ``python -m iobuf_nb shared --clean``.

    Examples
    --------
    >>> from distributed import Client
    >>> def capacity():
    ...     return worker_pool().capacity
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     _ = client.register_plugin(PoolPlugin(8, 1 << 20))
    ...     client.submit(capacity).result()
    8
    """

    def __init__(
        self,
        capacity: int,
        size: Tier | int | None = None,
        *,
        name: str = "pool",
        shared: bool = False,
        shape: int | tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
        page_size: int | None = None,
        **options: bool,
    ) -> None:
        for option, value in options.items():
            if option not in _OPTIONS:
                raise TypeError(f"options of a PoolPlugin are {', '.join(_OPTIONS)}, not {option}")
            if not isinstance(value, bool):
                raise TypeError(f"{option} must be a bool, not {value!r:.60}")
        path_of(name, _LONGEST_NAME)
        capacity, layout, _ = sizes_of(capacity, size, shape, dtype)
        if page_size is not None:
            page_size = check.power_of_two("page_size", page_size, 1, 2**30)
        if sharing.is_shared(shared, None):
            sharing.require_shareable(options.get("checked", True), page_size, options.get("huge_pages", False))
        self.name, self.shared = str.__str__(name), bool(shared)
        self._settings = {
            **{"capacity": capacity, "shape": layout[0], "dtype": layout[1], "page_size": page_size},
            **options,
            "shared": self.shared,
        }

    async def setup(self, worker: Worker) -> None:
        """Give a worker its pool. Dask calls it."""
        user = self, worker.id
        if self.name in _kept:
            _kept[self.name].users.add(user)  # before others run, such as what `teardown` has called for
        cluster = (await worker.scheduler.identity())["id"] if self.shared else ""
        await asyncio.to_thread(self._keep_for, worker, user, cluster)  # it may compile

    def _keep_for(self, worker: Worker, user: tuple[PoolPlugin, str], cluster: str) -> None:
        settings = {**self._settings, "cluster": cluster}
        with _lock:
            old = _kept.get(self.name)
            if old is not None and old.settings == settings:
                old.users.add(user)
                return
            out = 0 if old is None else count_out(old.pool)
            if old is not None and out:
                raise RuntimeError(
                    f"pool {self.name!r} of worker {worker.address} is kept as it was: {out} of its "
                    f"{old.pool.capacity} buffers are checked out; register the plugin again when they have been put, "
                    "or give it another name"
                )
            new = _Kept(self._make(settings), settings, {user} if old is None else {*old.users, user})
            _kept[self.name] = new
        if old is not None:
            _close(old.pool, self.name, worker)

    def _make(self, settings: dict[str, Any]) -> BufferPool[Any]:
        options: dict[str, Any] = {key: value for key, value in self._settings.items() if key != "shared"}
        if not self.shared:
            return BufferPool(**options)
        digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:32]
        return join_pool(f"dask.{digest}.{self.name}", **options)

    def teardown(self, worker: Worker) -> None:
        """Close the pool if no other worker of this process uses it. Dask calls it."""
        kept = _kept.get(self.name)
        if kept is None:  # it could not be made
            return
        kept.users.discard((self, worker.id))
        if worker.status in _AT_WORK:  # a plugin that replaces this one is set up before the event loop goes on
            asyncio.get_running_loop().call_soon(self._close_unused, kept, worker)
        else:
            self._close_unused(kept, worker)

    def _close_unused(self, kept: _Kept, worker: Worker) -> None:
        with _lock:
            if kept.users or _kept.get(self.name) is not kept:
                return
            del _kept[self.name]
        _close(kept.pool, self.name, worker)


def _close(pool: BufferPool[Any], name: str, worker: Worker) -> None:
    """Close a pool, and tell of buffers that are still checked out where a user may look."""
    leaks = pool._close()
    if leaks:
        message = f"worker {worker.address}, pool {name!r}: {leaks}"
        _logger.warning(message)
        worker.log_event(TOPIC, {"worker": worker.address, "pool": name, "leaks": leaks})
        # What `distributed.worker.warn` sends from a task.
        worker.log_event("warn", {"message": pickle.dumps(message), "category": pickle.dumps(UserWarning)})


def worker_pool(name: str = "pool") -> BufferPool[Any]:
    """Return the pool that a `PoolPlugin` has given this worker process; for tasks.

    Parameters
    ----------
    name : str
        That of the plugin.

    Returns
    -------
    BufferPool
        Always the same one, in all tasks of the process, and in threads that they start. Do not close it.

    Raises
    ------
    RuntimeError
        This process is no worker.
    ValueError
        No plugin of that name is registered, or its pool could not be made.

    Notes
    -----
    Thread-safe, and as fast as looking into a dict.

    Examples
    --------
    >>> from distributed import Client
    >>> def brightness():
    ...     with worker_pool("frames").lease() as frame:
    ...         frame[:] = 7
    ...         return float(frame.mean())
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     _ = client.register_plugin(PoolPlugin(8, shape=(480, 640), name="frames"))
    ...     client.submit(brightness).result()
    7.0
    """
    try:
        return _kept[name].pool
    except (KeyError, TypeError):
        if all(worker.status is Status.closed for worker in Worker._instances):
            raise RuntimeError("worker_pool() is for tasks: this process is no Dask worker") from None
        raise ValueError(
            f"name must be that of a pool of this worker, which are {[*_kept]}, not {name!r:.60}: call "
            "client.register_plugin(PoolPlugin(capacity, size, name=name)) first; if that was done, "
            "the worker's log says why the pool could not be made"
        ) from None
