"""io_uring: receiving, and what is refused."""

import errno
import os
import socket
import threading

import numpy as np
import pytest
from numba.core.errors import TypingError
from ring_faces import drain, fails
from support import take_all, why_no_io_uring

from iobuf_nb import BoundedQueue, BufferPool, PoolClosed, WouldBlock, uring
from iobuf_nb.uring import RegisteredPool, Ring

pytestmark = pytest.mark.skipif(bool(why_no_io_uring()), reason=why_no_io_uring() or "io_uring works")


# ---- receiving -------------------------------------------------------------------------------------------------------


def received(pool, registered, queue, streams):
    """Sort what came by the socket it came from, and put its buffers back; return the sockets that have ended."""
    ended = {}
    for index in drain(queue):
        n, fd = int(registered.lengths[index]), int(registered.descriptors[index])
        if n > 0:
            streams.setdefault(fd, bytearray()).extend(bytes(pool.value(index)[:n]))
        else:
            ended[fd] = n
        pool.put(index)
    return ended


@pytest.mark.parametrize("entries", [2, 64])  # with 2 the kernel has room for fewer completions than buffers
def test_receives_from_several_sockets_until_they_end(io, make, entries):
    pool, queue, registered = make(16, 1024, entries, receive=8)
    pairs = [socket.socketpair() for _ in range(3)]
    sent = {ours.fileno(): np.random.default_rng(k).bytes(50_000 + k) for k, (ours, _) in enumerate(pairs)}
    for ours, _ in pairs:
        assert io.receive(registered, ours.fileno()) == 0
    assert io.in_flight(registered) == 3

    def send():
        for ours, theirs in pairs:
            theirs.sendall(sent[ours.fileno()])
            theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    streams, ended = {}, {}
    while len(ended) < 3:
        assert io.complete(registered, queue) > 0
        ended |= received(pool, registered, queue, streams)
    sender.join()
    assert ended == dict.fromkeys(sent, 0)
    assert streams == sent
    assert io.in_flight(registered) == 0
    for ours, _ in pairs:
        ours.close()


def test_receivers_wait_for_buffers_and_lose_nothing(io, make):
    """More comes than the kernel has buffers for: what is left waits in the socket until buffers are put back."""
    pool, queue, registered = make(3, 16, receive=2)
    ours, theirs = socket.socketpair()
    message = bytes(range(200))
    with ours, theirs:
        assert io.receive(registered, ours.fileno()) == 0
        theirs.sendall(message)
        streams = {}
        assert io.complete(registered, queue, 2) == 2  # both buffers, and nobody has put them back
        assert io.complete(registered, queue, 1, 0.05) == 0
        assert io.in_flight(registered) == 1
        received(pool, registered, queue, streams)
        while len(streams[ours.fileno()]) < 200:
            assert io.complete(registered, queue) > 0
            assert received(pool, registered, queue, streams) == {}
        assert streams == {ours.fileno(): message}


def test_buffers_put_back_by_another_thread_end_the_wait_for_them(make):
    pool, queue, registered = make(2, 16, receive=1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        registered.receive(ours)
        theirs.sendall(bytes(32))
        assert registered.complete(queue) == 1
        index = queue.get()

        def put():
            while registered.in_flight:  # the receive has found no buffer, and then the buffer comes
                if registered.ring._words[uring.STARVED]:
                    pool.put(index)
                    return

        thread = threading.Thread(target=put)
        thread.start()
        assert registered.complete(queue, 1, 60.0) == 1
        thread.join()
        pool.put(queue.get())


def test_errors_end_a_receiver(io, make, pipe):
    pool, queue, registered = make(receive=2)
    assert io.receive(registered, pipe[0]) == 0
    assert io.complete(registered, queue) == 1
    index = queue.get()
    assert io.result(registered, index)[::2] == (-errno.ENOTSOCK, pipe[0])
    pool.put(index)


def test_receiving_needs_free_buffers(io, make):
    pool, _, registered = make(receive=2)
    taken = take_all(pool)
    assert fails(io, errno.ENOBUFS, io.receive, registered, 0)
    pool.put_many(np.array(taken))
    _, _, without = make()
    assert fails(io, errno.ENOBUFS, io.receive, without, 0)


def test_buffers_to_receive_into_cannot_be_put(make):
    pool, _, registered = make(capacity=4, receive=3)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        registered.receive(ours)
        registered.submit()
        assert sorted(pool.holders()) == [0, 1, 2, 3]
        assert not any(pool.try_put(index) for index in range(4))


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_refuses_buffers_that_are_not_its_callers_to_use(io, make, file, pipe):
    pool, queue, registered = make()
    index = pool.get()
    with pytest.raises(ValueError, match="that of a buffer that is checked out"):
        io.read_fixed(registered, file.fileno(), (index + 1) % 8, 0)
    io.read_fixed(registered, pipe[0], index, -1)
    for call in (io.read_fixed, lambda *arguments: io.write_fixed(*arguments, 1)):
        with pytest.raises(ValueError, match="index .*under way"):
            call(registered, file.fileno(), index, 0)
    assert not pool.try_put(index)
    with pytest.raises(ValueError, match="index"):
        pool.put(index)
    assert pool.holders() == {index: threading.get_ident()}
    os.write(pipe[1], b"x")
    assert io.complete(registered, queue) == 1
    assert pool.try_put(queue.get())
    with pytest.raises(ValueError, match="index"):
        io.read_fixed(registered, file.fileno(), index, 0)
    assert io.in_flight(registered) == 0


@pytest.mark.parametrize("index", [-1, 8, 2**40])
def test_refuses_indices_out_of_range(io, make, file, index):
    _, _, registered = make()
    with pytest.raises(IndexError, match=r"index must be from 0 to (7, not|capacity - 1;)"):
        io.read_fixed(registered, file.fileno(), index, 0)
    assert io.in_flight(registered) == 0


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("read_some", (-2, 0, 0, 1)),
        ("read_some", (0, 0, -2, 1)),
        ("read_some", (0, 0, 0, 4097)),
        ("read_some", (0, 0, 0, -2)),
        ("write_fixed", (2**31, 0, 0, 1)),
        ("read_batch", (0, -1, 10)),
        ("read_batch", (0, 0, -1)),
        ("receive", (-2,)),
    ],
)
def test_refuses_numbers_out_of_range(io, make, name, arguments):
    pool, _, registered = make()
    index = pool.get()
    with pytest.raises(ValueError, match="(fd|offset|length|end) (must be an integer from|is out of range)"):
        getattr(io, name)(registered, *arguments)
    assert io.in_flight(registered) == 0
    pool.put(index)


@pytest.mark.parametrize("arguments", [("0", 0, 0), (0, 1.5, 0), (0, 0, None)])
def test_refuses_what_is_no_integer(io, make, arguments):
    _, _, registered = make()
    with pytest.raises((TypeError, TypingError), match="(fd|index|offset) must be an integer"):
        io.read_fixed(registered, *arguments)


def test_refuses_queues_that_not_every_index_fits_into(io, make):
    _, _, registered = make()
    least = "queue must have a capacity and a limit of at least the pool's capacity, 8"
    for queue in (BoundedQueue(7, 16), BoundedQueue(7), BoundedQueue(16, 7)):
        with pytest.raises(ValueError, match=f"{least}, not {queue.capacity} and {queue.limit}"):
            io.complete(registered, queue)
    with pytest.raises((TypeError, TypingError), match="queue must be a BoundedQueue, not"):
        io.complete(registered, 5)


def test_other_items_in_the_queue_hold_completions_up_and_lose_none(io, make, file):
    pool, queue, registered = make(capacity=2)
    taken = take_all(pool)
    queue.put(0), queue.put(0)
    for index in taken:
        io.read_fixed(registered, file.fileno(), index, 0)
    with pytest.raises(WouldBlock, match="the queue holds other items"):
        io.complete(registered, queue)
    assert io.in_flight(registered) == 2
    assert not pool.try_put(taken[0])
    queue.get()
    assert io.complete(registered, queue, 2) == 1
    assert drain(queue)[0] == 0
    assert io.complete(registered, queue, 2) == 1
    assert io.in_flight(registered) == 0
    drain(queue)
    pool.put_many(np.array(taken))


@pytest.mark.parametrize(
    "entries, error", [(0, ValueError), (32769, ValueError), (-1, ValueError), ("8", TypeError), (1.0, TypeError)]
)
def test_rings_refuse_bad_sizes(entries, error):
    with pytest.raises(error, match=f"entries must be an integer from 1 to 32768, not {entries!r}"):
        Ring(entries)


def test_entries_are_rounded_up_to_a_power_of_two():
    with Ring(20) as ring:
        assert ring.entries == 32


def test_a_ring_has_one_pool_at_a_time(make):
    pool, _, registered = make()
    with pytest.raises(ValueError, match="ring must be one that no other pool is registered with"):
        RegisteredPool(BufferPool(2, 16), registered.ring)
    registered.close()
    other = BufferPool(2, 16)
    with RegisteredPool(other, registered.ring) as second:
        index = other.get()
        second.read_fixed(-1, index, 0)
        assert second.in_flight == 1 and not second.closed
        assert registered.in_flight == 0 and registered.closed
        with pytest.raises(PoolClosed):
            registered.submit()
    other.put(index)
    for arguments, error in (
        ((object(), registered.ring), TypeError),
        ((pool, None), TypeError),
        ((pool, registered.ring, 9), ValueError),
        ((pool, registered.ring, -1), ValueError),
        ((BufferPool(65537, 16), registered.ring, 1), ValueError),
    ):
        with pytest.raises(error, match="(pool|ring|receive) must be|receive=1 needs"):
            RegisteredPool(*arguments)
