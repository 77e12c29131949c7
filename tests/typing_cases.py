"""A program that uses everything public, as type checkers see it. Nothing runs this file.

mypy and pyright fail here if a type decays to Any, or is not what a user expects; both are strict about it.
"""

# pyright: strict, reportMissingTypeStubs=false

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import iobuf_nb as nb
from iobuf_nb import (
    BoundedQueue,
    BufferPool,
    Channel,
    IoVec,
    ItemPool,
    Magazine,
    MagazineSet,
    Tier,
    atomics,
    events,
    sockets,
    syscalls,
    text,
)
from iobuf_nb import dask as nb_dask
from iobuf_nb.uring import RegisteredPool, Ring

if TYPE_CHECKING:
    from typing_extensions import assert_type

Bytes = NDArray[np.uint8]
Words = NDArray[np.int64]


def a_pool_knows_its_dtype() -> None:
    assert_type(BufferPool(8, 1024), BufferPool[np.uint8])
    assert_type(BufferPool(8, Tier.SMALL, checked=False, page_size=4096), BufferPool[np.uint8])
    assert_type(BufferPool(8, shape=4), BufferPool[np.uint8])
    assert_type(BufferPool(8, shape=(2, 2), dtype=np.float32), BufferPool[np.float32])
    assert_type(BufferPool(8, shape=4, dtype=np.dtype(np.int16), lock=True), BufferPool[np.int16])
    assert_type(BufferPool(8, shape=4, dtype="f4"), BufferPool[Any])
    pool = BufferPool(8, shape=4, dtype=np.float32)
    assert_type(pool.value(pool.get()), NDArray[np.float32])
    assert_type(pool.dtype, np.dtype[np.float32])


def with_keeps_types() -> None:
    with BufferPool(8, 1024) as pool:
        assert_type(pool, BufferPool[np.uint8])
    with ItemPool(["a", "b"]) as items:
        assert_type(items, ItemPool[str])
    with pool.magazine() as magazine:
        assert_type(magazine, Magazine[Bytes])
    with MagazineSet(pool, 2) as magazines:
        assert_type(magazines, MagazineSet[Bytes])
    with Ring() as ring, RegisteredPool(pool, ring) as registered, pool.register(ring) as same:
        assert_type(ring, Ring)
        assert_type(registered, RegisteredPool)
        assert_type(same, RegisteredPool)


class OwnPool(BufferPool[np.uint8]):
    """A subclass."""


def with_keeps_subclasses() -> None:
    with OwnPool(8, 1024) as pool:
        assert_type(pool, OwnPool)


async def leases_are_of_what_value_returns(pool: BufferPool[np.float64], items: ItemPool[str]) -> None:
    lease: AbstractContextManager[NDArray[np.float64]] = pool.lease(timeout=1.0)
    alease: AbstractAsyncContextManager[str] = items.alease()
    with lease as buffer, items.lease() as item, pool.magazine().lease() as from_magazine:
        assert_type(buffer, NDArray[np.float64])
        assert_type(item, str)
        assert_type(from_magazine, NDArray[np.float64])
    again = pool.lease()
    with again as once:
        assert_type(once, NDArray[np.float64])
        assert_type(again.index, int)
    async with alease as awaited, pool.alease() as array:
        assert_type(awaited, str)
        assert_type(array, NDArray[np.float64])


def items_and_magazines_know_what_value_returns(pool: BufferPool[np.int16], items: ItemPool[str]) -> None:
    assert_type(items.value(0), str)
    assert_type(ItemPool([1, 2]).value(0), int)
    assert_type(pool.magazine().value(0), NDArray[np.int16])
    assert_type(Magazine(items).value(0), str)
    assert_type(pool.view(0), memoryview)
    assert_type(pool.magazine().view(0), memoryview)
    assert_type(MagazineSet(pool, 2)[0], Magazine[NDArray[np.int16]])
    items.set_value(0, 1)  # type: ignore[arg-type]


def text_is_typed(table: text.ByteTable, b: Bytes) -> None:
    assert_type(text.find_byte(b, 10, 0, 8), int)
    assert_type(text.load_f64(b, 0), float)
    assert_type(text.parse_decimal(b"1.5", 0, 3, 1), tuple[int, int])
    assert_type(text.parse_float(b"1.5", 0, 3), tuple[float, int])
    assert_type(table.slot(b, 0, 8), int)
    assert_type(text.ByteTable.merge(table, table), text.ByteTable)
    assert_type(table.items(), list[tuple[bytes, NDArray[Any]]])
    assert_type(table.rows, NDArray[Any])


def wrong_arguments_are_errors() -> None:
    BufferPool(8)  # type: ignore[call-overload]
    BufferPool(8, 1024, pages=1)  # type: ignore[call-overload]
    BufferPool("8", 1024)  # type: ignore[call-overload]


# ---- pools, queues and channels --------------------------------------------------------------------------------------


def pools_are_got_from_and_put_to(pool: BufferPool[np.uint8], out: Words) -> None:
    index = pool.try_get()
    assert_type(index, int)
    assert_type(pool.get(timeout=1.0), int)
    assert_type(pool.get(block=False), int)
    pool.put(index)
    assert_type(pool.try_put(index), bool)
    assert_type(pool.get_many(out), int)
    pool.put_many(out)
    pool.set_value(index, b"hello")
    pool.set_value(index, [1, 2])
    pool.fill(lambda: 1)
    assert_type(pool.nonblocking, bool)
    pool.nonblocking = True
    assert_type(pool.holders(), dict[int, int])
    assert_type(pool.holding_processes(), dict[int, int])
    assert_type((pool.capacity, pool.buffer_size, pool.arena, pool.stride), tuple[int, int, int, int])
    assert_type((pool.available(), pool.recover()), tuple[int, int])
    assert_type((pool.checked, pool.closed, pool.shared), tuple[bool, bool, bool])
    assert_type((pool.shape, pool.name), tuple[tuple[int, ...], "str | None"])
    assert_type(BufferPool.attach("name"), BufferPool[Any])
    assert_type(BufferPool(8, 64, shared=True, name="name", populate=True, huge_pages=True), BufferPool[np.uint8])
    pool.close()


def pools_can_be_observed() -> None:
    pool = BufferPool(8, 64, stats=True, trace=True, debug="any thread")
    assert_type(pool, BufferPool[np.uint8])
    assert_type((pool.stats(), pool.places()), tuple[nb.PoolStats, dict[int, str]])
    assert_type((pool.stats().gets, pool.stats().longest_wait), tuple[int, float])
    pool.check()


def magazines_are_got_from_and_put_to(magazine: Magazine[Bytes], magazines: MagazineSet[Bytes], out: Words) -> None:
    assert_type((magazine.get(), magazine.try_get(), magazine.size), tuple[int, int, int])
    assert_type((magazine.try_put(0), len(magazines), magazines.n), tuple[bool, int, int])
    magazine.put(0)
    magazine.release()
    magazine.close()
    magazines.close()


async def coroutines_await(pool: BufferPool[np.uint8], queue: BoundedQueue, channel: Channel) -> None:
    assert_type(await pool.aget(timeout=1.0), int)
    assert_type(await queue.aget(), int)
    await queue.aput(1)
    assert_type(await channel.areceive(), int)
    await channel.asend(1)
    async for index in channel:
        assert_type(index, int)


def queues_know_whether_they_hold_values(out: Words) -> None:
    queue = BoundedQueue(8)
    assert_type(BoundedQueue(8, 100, name="name"), BoundedQueue[int])
    assert_type((queue.get(timeout=1.0), queue.try_get(), queue.get_or_closed()), tuple[int, int, int])
    assert_type((queue.try_put(1), queue.closed), tuple[bool, bool])
    queue.put(1, timeout=1.0)
    assert_type((queue.get_many(out), queue.put_many(out), queue.was_size()), tuple[int, int, int])
    assert_type((queue.capacity, queue.limit), tuple[int, int])
    assert_type(BoundedQueue.attach("name"), BoundedQueue)
    with queue as same:
        assert_type(same, BoundedQueue)
    for item in queue:
        assert_type(item, int)
    values: BoundedQueue[float] = BoundedQueue(8, dtype=np.float64)
    assert_type(BoundedQueue(8, dtype="i8"), BoundedQueue[Any])
    values.put(1.5)
    assert_type(values.get_into(np.zeros(1)), int)
    assert_type(values.try_get_into(np.zeros(1), 0), bool)
    assert_type(values.put_many(np.zeros(3)), int)
    for value in values:
        assert_type((value, values.get()), tuple[float, float])


def channels_hand_buffers_on(pool: BufferPool[np.uint8], out: Words) -> None:
    with Channel(pool, 4) as channel:
        assert_type(channel, Channel)
        channel.send(pool.get(), timeout=1.0)
        assert_type((channel.receive(), channel.try_receive(), channel.was_size()), tuple[int, int, int])
        assert_type((channel.try_send(0), channel.closed), tuple[bool, bool])
        assert_type((channel.send_many(out), channel.receive_many(out), channel.recover()), tuple[int, int, int])
    assert_type(Channel.attach("name"), Channel)
    for index in channel:
        assert_type(index, int)


# ---- streams ---------------------------------------------------------------------------------------------------------


def streams_take_all_their_options(kernel: Any, pool: BufferPool[np.uint8]) -> None:
    result = nb.stream(
        [Path("a"), "b", b"data", 0],
        kernel,
        state=np.zeros(1),
        combine=np.add,
        per_file=False,
        dtype="f4",
        workers=2,
        tier=Tier.GIANT,
        buffers=4,
        engine="auto",
        direct=False,
        ordered=True,
        overlap=(1, 1),
        start=0,
        stop=None,
        skip=1,
        decompress="auto",
        progress=lambda done, size: print(done, size),
    )
    assert_type(result, nb.StreamResult)
    assert_type((result.bytes, result.written, result.mapped), tuple[int, int, int])
    assert_type((result.seconds, result.compile_seconds, result.gb_per_s), tuple[float, float, float])
    assert_type((result.names, result.collected), tuple[tuple[str, ...], "NDArray[Any] | None"])
    total: float = result.state[0]  # only the program knows what its states are
    print(total)
    sink = nb.Sink(4, Tier.LARGE)
    nb.stream("a", kernel, pool=pool, output=sink, output_dtype=np.int64, output_items=10, record=4)
    nb.stream("a", kernel, collect="i8", delimiter=b"\n", combine=lambda a, b: a)
    for block in sink:
        assert_type(block, NDArray[Any])
    for block in nb.blocks("a", tier=4096, delimiter=b"\n"):
        assert_type(block, NDArray[Any])
    nb.stream("a", kernel, engine="fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def scans_and_copies_have_results() -> None:
    scanned = nb.scan(Path("a"), workers=2, progress=True)
    assert_type(scanned, nb.ScanResult)
    assert_type((scanned.lines, scanned.entropy, scanned.histogram), tuple[int, float, Words])
    copied = nb.copy("a", Path("b"), verify=True, sync=False)
    assert_type(copied, nb.CopyResult)
    assert_type((copied.bytes, copied.gb_per_s), tuple[int, float])


def errors_are_classes() -> None:
    try:
        pass
    except nb.StreamError as error:
        assert_type((error.filename, error.offset, error.where), tuple[str, int, str])
    except (nb.WouldBlock, nb.Closed, nb.PoolClosed) as error:
        print(error)


# ---- memory, waiting, system calls -----------------------------------------------------------------------------------


def memory_is_bytes(pool: BufferPool[np.uint8]) -> None:
    assert_type(nb.aligned_mem(64, 4096, lock=True), Bytes)
    assert_type(nb.aligned_mem_blocks(2, populate=True), Bytes)
    assert_type(nb.aligned_mem_block(), Bytes)
    assert_type(nb.cache_line_aligned_mem(64), Bytes)
    assert_type(nb.cache_line_aligned_mem_blocks(2, nb.CACHE_LINE_SIZE), Bytes)
    assert_type(nb.new_buffers(2, Tier.SMALL), Bytes)
    assert_type(nb.view_as_buffers(nb.aligned_mem(4096), Tier.SMALL), Bytes)
    nb.set_page_size(nb.page_size())
    assert_type(nb.IOVEC_DTYPE, np.dtype[np.void])
    iovec = pool.iovec([0, 1], [10, 20])
    assert_type(iovec, IoVec)
    assert_type(nb.iovec_from_buffers([b"a"]), IoVec)
    assert_type(nb.iovec_from_registered(pool), IoVec)
    assert_type(nb.iovec_addr_len(iovec), tuple[int, int])
    assert_type((nb.fill_iovec(iovec, pool, [0]), nb.advance_iovec(iovec, 5)), tuple[int, int])
    assert_type((Tier.SMALL.size, Tier.for_size(5)), tuple[int, Tier])


def waiting_is_paced() -> None:
    spin, backoff = nb.SpinWait(), nb.Backoff(1e-6, max=1e-3)
    spin.once()
    spin.reset()
    backoff.wait()
    backoff.set_max(1.0)
    assert_type((spin.will_yield, backoff.block, backoff.duration), tuple[bool, int, float])
    nb.pause(3)


def words_are_atomic(words: Words) -> None:
    atomics.store(words, 0, 1, "release")
    atomics.fence("seq_cst")
    assert_type((atomics.load(words, 0), atomics.fetch_add(words, 0, 1, "relaxed")), tuple[int, int])
    assert_type(atomics.compare_and_swap(words, 0, 1, 2), bool)
    assert_type((atomics.swap(words, 0, 1), atomics.fetch_or(words, 0, 1)), tuple[int, int])
    atomics.load(words, 0, "strict")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def system_calls_return_counts(b: Bytes, iovec: IoVec) -> None:
    assert_type((syscalls.read(0, b), syscalls.pwrite_full(0, b, 10)), tuple[int, int])
    assert_type((syscalls.preadv(0, iovec, 0), syscalls.writev_full(1, iovec)), tuple[int, int])
    assert_type((syscalls.recv(0, b, sockets.MSG_PEEK), syscalls.poll_in(0, 10)), tuple[int, int])


def sockets_have_records(pool: BufferPool[np.uint8], b: Bytes, iovec: IoVec, out: Words) -> None:
    made = socket.socket()
    addresses, messages = np.zeros(2, sockets.ADDRESS_DTYPE), np.zeros(2, sockets.MESSAGE_DTYPE)
    addresses[0] = sockets.address_of(("127.0.0.1", 80))
    assert_type(sockets.same_address(addresses[0], addresses[1]), bool)
    assert_type((sockets.accept(made, addresses[0]), sockets.connect(made, addresses[0])), tuple[int, int])
    assert_type((sockets.recvfrom(made, b, addresses[0]), sockets.sendto(0, b, addresses[0])), tuple[int, int])
    assert_type((sockets.recvmsg(0, iovec, messages[0]), sockets.sendmsg(0, iovec, messages[0])), tuple[int, int])
    assert_type((sockets.recvmmsg(0, pool, out, messages), sockets.sendmmsg(0, pool, out, messages)), tuple[int, int])
    assert_type(sockets.controls_of(messages[0]), list[tuple[int, int, bytes]])
    assert_type(sockets.getsockopt(made, sockets.SOL_SOCKET, sockets.SO_ERROR), int)
    assert_type(sockets.close(3), int)


def events_are_waited_for() -> None:
    records = np.zeros(2, events.POLL_DTYPE)
    assert_type((events.poll(records, 1.0), events.epoll_create(), events.now_ns()), tuple[int, int, int])
    assert_type(events.epoll_ctl(3, events.EPOLL_CTL_ADD, socket.socket(), events.EPOLLIN, 5), int)
    assert_type((events.eventfd(), events.timerfd(), events.timerfd_set(3, 0.5, None)), tuple[int, int, int])


def rings_complete_into_queues(pool: BufferPool[np.uint8], queue: BoundedQueue) -> None:
    with Ring(64) as ring, pool.register(ring, receive=2) as registered:
        assert_type((registered.read_fixed(0, 1, 0), registered.receive(socket.socket())), tuple[int, int])
        assert_type((registered.complete(queue, timeout=1.0), registered.in_flight), tuple[int, int])
        assert_type((registered.lengths, registered.closed), tuple[Words, bool])


def clusters_have_pools_and_streams(client: Any, kernel: Any) -> None:
    plugin = nb_dask.PoolPlugin(8, Tier.SMALL, shared=True, lock=True)
    assert_type((plugin.name, nb_dask.worker_pool()), tuple[str, BufferPool[Any]])
    assert_type(nb_dask.stream(client, "a*", kernel, piece_bytes=1 << 20, retries=1), nb.StreamResult)
