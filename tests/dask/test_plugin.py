"""Pools of workers: who has which, when it is closed, and what is told of buffers that are still checked out."""

import asyncio
import os
import signal
import warnings

import pytest
from distributed import Client, LocalCluster, worker_client
from numba import njit
from support import beginning_with, until

from iobuf_nb import BufferPool, Channel, MagazineSet, Tier
from iobuf_nb._dask.plugin import TOPIC, _kept
from iobuf_nb.dask import PoolPlugin, worker_pool

pytestmark = pytest.mark.filterwarnings("ignore:.*was closed with:UserWarning")  # that a client repeats


def on(client, worker, function, *arguments):
    return client.submit(function, *arguments, workers=[worker], pure=False).result()


def take(name="pool"):
    return worker_pool(name).get()


def put(index, name="pool"):
    worker_pool(name).put(index)


def about(name="pool"):
    pool = worker_pool(name)
    return os.getpid(), id(pool), pool.capacity


def workers_of(client):
    return [*client.nthreads()]


def killed(client, worker):
    """Kill a worker process; return the worker that comes in its place, and the others."""
    others = {*workers_of(client)} - {worker}
    os.kill(on(client, worker, os.getpid), signal.SIGKILL)
    until(lambda: worker not in workers_of(client) and len(workers_of(client)) > len(others))
    (new,) = {*workers_of(client)} - others
    return new, *others


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((0, 64), {}, ValueError, "capacity must be an integer from 1 to 4294967296, not 0"),
        ((4, 0), {}, ValueError, "size must be an integer from 1 to .*, not 0"),
        ((4,), {}, TypeError, "needs either size or shape"),
        ((1 << 32, 1 << 32), {}, ValueError, r"capacity \* stride must be"),
        ((4, 64), {"dtype": "f4"}, TypeError, "dtype='f4' needs shape="),
        ((4, 64), {"name": 3}, TypeError, "name must be a str, not 3"),
        ((4, 64), {"name": "a/b"}, ValueError, "name must have 1 to 100 bytes of UTF-8, none of them a slash"),
        ((4, 64), {"name": "é" * 51}, ValueError, "name must have 1 to 100 bytes of UTF-8, .*, not 'é"),
        ((4, 64), {"shared": 1}, TypeError, "shared must be a bool, not 1"),
        ((4, 64), {"shared": True, "checked": False}, ValueError, "checked must be True for a shared pool"),
        ((4, 64), {"page_size": 3}, ValueError, "page_size must be a power of two from 1 to .*, not 3"),
        ((4, 64), {"populate": 1}, TypeError, "populate must be a bool, not 1"),
        ((4, 64), {"nonblock": True}, TypeError, "options of a PoolPlugin are checked, .*, not nonblock"),
    ],
)
def test_arguments_are_checked_where_the_plugin_is_made(arguments, options, error, message):
    with pytest.raises(error, match=message):
        PoolPlugin(*arguments, **options)


def test_options_are_those_of_the_pool(registered, local_client):
    registered(3, shape=(2, 5), dtype="f4", nonblocking=True, checked=False, name="rows")
    registered(2, Tier.SMALL)

    def facts():
        rows, pool = worker_pool("rows"), worker_pool()
        return rows.capacity, rows.shape, rows.dtype.str, rows.nonblocking, rows.checked, pool.buffer_size, pool.shared

    assert local_client.submit(facts).result() == (3, (2, 5), "<f4", True, False, Tier.SMALL, False)


# ---- finding it ------------------------------------------------------------------------------------------------------


class Taker:
    """An actor."""

    def capacity(self):
        return worker_pool().capacity


async def in_a_coroutine():
    await asyncio.sleep(0)
    async with worker_pool().alease() as buffer:
        return len(buffer)


def in_an_inner_task():
    with worker_client() as client:
        return client.submit(about).result()[2], worker_pool().capacity


def test_every_kind_of_task_finds_it(registered, local_client):
    registered(5, 64)
    assert local_client.submit(in_a_coroutine).result() == 64
    assert local_client.submit(in_an_inner_task).result() == (5, 5)
    future = local_client.submit(Taker, actor=True)  # which keeps the actor, in a cluster within one process
    assert future.result().capacity().result() == 5


@pytest.mark.parametrize("name", ["other", ["pool"], None])
def test_a_name_that_no_plugin_has(name, registered, local_client):
    registered(5, 64)
    with pytest.raises(ValueError, match=r"that of a pool of this worker, which are \['pool'\], not .*: call"):
        local_client.submit(worker_pool, name).result()


def test_outside_a_worker(monkeypatch):
    monkeypatch.setattr("distributed.Worker._instances", [])
    with pytest.raises(RuntimeError, match=r"worker_pool\(\) is for tasks: this process is no Dask worker"):
        worker_pool("nobody's")


# ---- one for each process, replaced and closed -----------------------------------------------------------------------


def test_workers_in_one_process_have_one_pool_until_the_last_is_gone(caplog):
    plugin = PoolPlugin(4, 64, name="brief")
    with LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.register_plugin(plugin)
        first, second = workers_of(client)
        pool = on(client, first, worker_pool, "brief")
        assert on(client, second, about, "brief")[1] == id(pool)
        index = on(client, first, take, "brief")
        client.retire_workers([first])
        until(lambda: len(_kept["brief"].users) == 1)
        assert not pool.closed and client.get_events(TOPIC) == ()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client.retire_workers([second])
            until(lambda: client.get_events(TOPIC))
            until(lambda: any("still checked out" in str(each.message) for each in caught))
        assert pool.closed
        ((_, event),) = client.get_events(TOPIC)
        assert (event["worker"], event["pool"]) == (second, "brief")
        leaks = event["leaks"]
        assert leaks.startswith(f"BufferPool of 4 was closed with 1 of its buffers still checked out: {index} by ")
        assert [record.levelname for record in caplog.records if leaks in record.getMessage()] == ["WARNING"]
        pool.put(index)
        assert pool.available() == 4


def test_registered_again_it_is_kept_or_replaced_or_refused(registered, local_client):
    registered(4, 64)
    first, second = workers_of(local_client)
    pool = on(local_client, first, worker_pool)
    index = on(local_client, first, take)
    registered(4, 64)
    assert on(local_client, second, worker_pool) is pool
    with pytest.raises(RuntimeError, match="pool 'pool' of worker .* is kept as it was: 1 of its 4 buffers"):
        registered(5, 64)
    assert on(local_client, second, worker_pool) is pool and not pool.closed
    pool.put(index)
    registered(5, 64)
    assert pool.closed
    assert [on(local_client, worker, about)[2] for worker in (first, second)] == [5, 5]


def test_a_plugin_that_is_gone_has_closed_its_pool(registered, local_client):
    registered(4, 64)
    worker = workers_of(local_client)[0]
    pool = on(local_client, worker, worker_pool)
    local_client.unregister_worker_plugin("pool")
    until(lambda: pool.closed)
    with pytest.raises(ValueError, match=r"a pool of this worker, which are \[\], not 'pool'"):
        on(local_client, worker, take)
    registered(4, 64)


def test_what_a_worker_cannot_make_is_told_where_it_is_registered(local_client):
    with pytest.raises(MemoryError, match="address space"):
        local_client.register_plugin(PoolPlugin(1 << 27, 1 << 20, name="huge"))
    local_client.unregister_worker_plugin("huge")


# ---- worker processes ------------------------------------------------------------------------------------------------


def fill(name):
    pool = worker_pool(name)
    index = pool.get()
    pool.value(index)[:] = 7
    return index, pool.name


def contents(name, index):
    return bytes(worker_pool(name).value(index)[:2])


def available(name):
    pool = worker_pool(name)
    pool.recover()
    return pool.available()


@pytest.mark.compiled
def test_worker_processes_one_of_which_is_killed(client):
    client.register_plugin(PoolPlugin(4, 64, name="own"))
    client.register_plugin(PoolPlugin(4, 64, name="shared", shared=True))
    first, second = workers_of(client)
    assert [on(client, worker, take, "own") for worker in (first, second)] == [0, 0]
    index, name = on(client, first, fill, "shared")
    assert on(client, second, contents, "shared", index) == b"\7\7"
    new, _ = killed(client, first)
    assert on(client, second, available, "shared") == 4
    assert on(client, new, take, "own") == 0
    index, again = on(client, second, fill, "shared")
    assert again == name and on(client, new, contents, "shared", index) == b"\7\7"
    assert beginning_with(name) == [name]
    on(client, second, put, index, "shared")
    for worker in (new, second):
        on(client, worker, put, 0, "own")
    for plugin in ("own", "shared"):
        client.unregister_worker_plugin(plugin)
    until(lambda: beginning_with(name) == [])


# ---- pools that are sent ---------------------------------------------------------------------------------------------


def closing_over(pool):
    @njit
    def kernel(number):
        return pool.capacity + number

    return kernel


@pytest.mark.parametrize(
    "make",
    [lambda pool: pool, Channel, lambda pool: MagazineSet(pool, 2), lambda pool: pool.magazine()],
    ids=["pool", "channel", "magazines", "magazine"],
)
def test_a_pool_that_is_sent_says_what_to_do(make, local_client):
    with pytest.raises(TypeError) as caught:
        local_client.submit(len, make(BufferPool(2, 64)))
    assert "takes the pool of its worker: iobuf_nb.dask.PoolPlugin" in str(caught.value.__cause__)


@pytest.mark.compiled
def test_so_does_a_kernel_that_closes_over_one(local_client):
    with pytest.raises(TypeError) as caught:
        local_client.submit(closing_over(BufferPool(2, 64)), 1)
    assert "takes the pool of its worker: iobuf_nb.dask.PoolPlugin" in str(caught.value.__cause__)
