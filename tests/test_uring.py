"""io_uring: fixed reads and writes by index, receiving, completions, and what becomes of buffers when things end."""

import errno
import functools
import gc
import gzip
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from numba import config, njit
from numba.core.errors import TypingError

from iobuf_nb import BoundedQueue, BufferPool, PoolClosed, WouldBlock, uring
from iobuf_nb._uring import liburing
from iobuf_nb.uring import RegisteredPool, Ring


def why_not():
    try:
        Ring(1).close()
    except (ImportError, OSError) as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "io_uring works")


@functools.cache
def compiled(function):
    return njit(nogil=True)(function)


class Face:
    """The methods of a RegisteredPool, called from Python or from kernels."""

    def __init__(self, face):
        self.name = face.name
        self.jit = compiled if face.name == "kernel" else face.jit

    def __getattr__(self, name):
        return self.jit(globals()[f"call_{name}"])


def call_read_fixed(registered, fd, index, offset):
    return registered.read_fixed(fd, index, offset)


def call_read_some(registered, fd, index, offset, length):
    return registered.read_fixed(fd, index, offset, length)


def call_write_fixed(registered, fd, index, offset, length):
    return registered.write_fixed(fd, index, offset, length)


def call_read_batch(registered, fd, offset, end):
    return registered.read_batch(fd, offset, end)


def call_receive(registered, fd):
    return registered.receive(fd)


def call_submit(registered):
    return registered.submit()


def call_complete(registered, queue, at_least=1, timeout=60.0):
    return registered.complete(queue, at_least, timeout)


def call_in_flight(registered):
    return registered.in_flight


def call_closed(registered):
    return registered.closed


def call_result(registered, index):
    return registered.lengths[index], registered.offsets[index], registered.descriptors[index]


@pytest.fixture
def io(face):
    return Face(face)


@pytest.fixture
def make():
    """Return what makes a pool, a queue and a registration; in the end no buffer may be out."""
    made = []

    def make(capacity=8, size=4096, entries=64, **options):
        pool, ring = BufferPool(capacity, size), Ring(entries)
        registered = RegisteredPool(pool, ring, **options)
        made.append((pool, ring))
        return pool, BoundedQueue(capacity), registered

    yield make
    for pool, ring in made:
        ring.close()
        assert not pool.holders()
        assert pool.available() == pool.capacity


@pytest.fixture
def file(tmp_path):
    """A file of 100,001 random bytes, open for reading and writing."""
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(1).bytes(100_001))
    with path.open("r+b", buffering=0) as file:
        yield file


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def take_all(pool):
    return [pool.get() for _ in range(pool.capacity)]


def drain(queue):
    return [queue.get(block=False) for _ in range(queue.was_size())]


def fails(io, code, call, *arguments):
    """Whether a call fails with an -errno: returned in a kernel, raised in Python."""
    if io.name == "kernel" and not config.DISABLE_JIT:
        return call(*arguments) == -code
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno == code


# ---- reads and writes ------------------------------------------------------------------------------------------------


def test_files_with_buffers_are_taken_at_an_offset_only(make, tmp_path):
    pool, queue, registered = make(receive=1)
    index = pool.get()
    with open(tmp_path / "data", "w+b") as opened, gzip.open(tmp_path / "zip", "wb") as zipped:
        opened.write(b"written, and not yet there")
        for function, arguments in (
            (registered.read_fixed, (opened, index, -1)),
            (registered.write_fixed, (opened, index, -1)),
            (registered.receive, (opened,)),
        ):
            with pytest.raises(TypeError, match="fd must not be a buffered file, which stands elsewhere"):
                function(*arguments)
        for function, arguments in (
            (registered.read_fixed, (zipped, index, 0)),
            (registered.write_fixed, (zipped, index, 0)),
            (registered.read_batch, (zipped, 0, 10)),
            (registered.receive, (zipped,)),
        ):
            with pytest.raises(TypeError, match="fd must be a socket or a binary file that open.. returns"):
                function(*arguments)
        assert registered.in_flight == 0
        assert registered.read_fixed(opened, index, 0) == 0
        registered.complete(queue)
        assert queue.get() == index and bytes(pool.value(index)[:7]) == b"written"
    pool.put(index)


def test_reads_by_index(io, make, file):
    pool, queue, registered = make()
    content = Path(file.name).read_bytes()
    taken = take_all(pool)
    offsets = {index: 777 + 12_000 * k for k, index in enumerate(reversed(taken))}
    for index, offset in offsets.items():
        assert io.read_fixed(registered, file.fileno(), index, offset) == 0
    assert io.in_flight(registered) == 8
    assert io.complete(registered, queue, 8) == 8
    assert io.in_flight(registered) == 0
    assert sorted(drain(queue)) == sorted(taken)
    for index, offset in offsets.items():
        expected = content[offset : offset + 4096]
        assert io.result(registered, index) == (len(expected), offset, file.fileno())
        assert bytes(pool.value(index)) == expected
        pool.put(index)


def test_reads_as_much_as_it_is_told(io, make, file):
    pool, queue, registered = make()
    index = pool.get()
    for length in (1, 0, 4096):
        pool.value(index)[:] = 0
        io.read_some(registered, file.fileno(), index, 5, length)
        assert io.complete(registered, queue) == 1 and queue.get() == index
        assert io.result(registered, index)[0] == length
        assert bytes(pool.value(index)) == Path(file.name).read_bytes()[5 : 5 + length].ljust(4096, b"\0")
    pool.put(index)


def test_a_short_read_and_the_end_of_a_file_show_in_the_lengths(io, make, file):
    pool, queue, registered = make()
    index = pool.get()
    for offset, length in ((100_000, 1), (100_001, 0), (10**12, 0)):
        io.read_fixed(registered, file.fileno(), index, offset)
        assert io.complete(registered, queue) == 1 and queue.get() == index
        assert io.result(registered, index)[0] == length
    pool.put(index)


def test_writes_by_index(io, make, file):
    pool, queue, registered = make()
    expected = bytearray(Path(file.name).read_bytes())
    for k, index in enumerate(take_all(pool)):
        offset, length = 10_000 * k + 3, 4096 if k % 2 else 100
        pool.value(index)[:] = k + 1
        expected[offset : offset + length] = bytes([k + 1]) * length
        assert io.write_fixed(registered, file.fileno(), index, offset, length) == 0
    assert io.submit(registered) == 8
    assert io.complete(registered, queue, 8) == 8
    for index in drain(queue):
        assert registered.lengths[index] in (100, 4096)
        pool.put(index)
    assert Path(file.name).read_bytes() == expected


def test_pipes_are_read_and_written_where_they_stand(io, make, pipe):
    pool, queue, registered = make()
    reads, writes = pool.get(), pool.get()
    io.read_fixed(registered, pipe[0], reads, -1)
    assert io.complete(registered, queue, 1, 0.0) == 0
    assert io.in_flight(registered) == 1
    pool.set_value(writes, b"through the pipe")
    io.write_fixed(registered, pipe[1], writes, -1, 16)
    assert io.complete(registered, queue, 2) == 2
    assert sorted(drain(queue)) == sorted([reads, writes])
    assert registered.lengths[reads] == registered.lengths[writes] == 16
    assert bytes(pool.value(reads)[:16]) == b"through the pipe"
    pool.put(reads), pool.put(writes)


def test_sockets_are_read_and_written_where_they_stand(io, make):
    pool, queue, registered = make()
    index = pool.get()
    left, right = socket.socketpair()
    with left, right:
        right.sendall(b"hello")
        io.read_fixed(registered, left.fileno(), index, -1)
        assert io.complete(registered, queue) == 1 and queue.get() == index
        assert bytes(pool.value(index)[: registered.lengths[index]]) == b"hello"
        io.write_fixed(registered, left.fileno(), index, -1, 5)
        assert io.complete(registered, queue) == 1 and queue.get() == index
        assert right.recv(100) == b"hello"
    pool.put(index)


def test_errors_of_an_operation_are_its_length(io, make, file, tmp_path):
    pool, queue, registered = make()
    index = pool.get()
    with (tmp_path / "file").open("rb") as read_only:
        for operation, fd, code in (
            (io.read_some, -1, errno.EBADF),
            (io.read_some, 2**31 - 1, errno.EBADF),
            (io.write_fixed, read_only.fileno(), errno.EBADF),
        ):
            assert operation(registered, fd, index, 0, 100) == 0
            assert io.complete(registered, queue) == 1 and queue.get() == index
            assert io.result(registered, index)[0] == -code
    pool.put(index)


def test_an_operation_that_fails_does_not_hold_up_the_others(io, make, file):
    pool, queue, registered = make()
    taken = take_all(pool)
    for k, index in enumerate(taken):
        io.read_fixed(registered, -1 if k % 2 else file.fileno(), index, 0)
    assert io.complete(registered, queue, 8) == 8
    assert [int(registered.lengths[index]) for index in taken] == [4096, -errno.EBADF] * 4
    pool.put_many(np.array(drain(queue)))


def test_a_full_submission_queue_is_submitted(io, make, file):
    pool, queue, registered = make(capacity=50, size=64, entries=32)
    taken = take_all(pool)
    for index in taken:
        assert io.read_fixed(registered, file.fileno(), index, 64 * index) == 0
    assert io.submit(registered) == 18  # of 50, for the first 32 filled it
    assert io.complete(registered, queue, 50) == 50
    content = Path(file.name).read_bytes()
    for index in drain(queue):
        assert bytes(pool.value(index)) == content[64 * index :][:64]
        pool.put(index)


def test_no_more_is_queued_than_completions_have_room(io, make, pipe):
    pool, queue, registered = make(capacity=10, entries=2)
    taken = take_all(pool)
    for index in taken[:4]:
        assert io.read_fixed(registered, pipe[0], index, -1) == 0
    held = pool.holders()
    assert fails(io, errno.EBUSY, io.read_fixed, registered, pipe[0], taken[4], -1)
    assert io.in_flight(registered) == 4 and pool.holders() == held
    for _ in range(4):
        os.write(pipe[1], b"x")
        assert io.complete(registered, queue) == 1
    assert io.read_fixed(registered, pipe[0], taken[4], -1) == 0
    os.write(pipe[1], b"x")
    assert io.complete(registered, queue) == 1
    assert sorted(drain(queue)) == sorted(taken[:5])
    pool.put_many(np.array(taken))


# ---- streams ---------------------------------------------------------------------------------------------------------


def stream_all(registered, queue, fd, size):
    position = 0
    while position < size or registered.in_flight > 0:
        reached = registered.read_batch(fd, position, size)
        if reached < 0:
            return reached
        if reached == position and registered.in_flight == 0:
            registered.pool.put(registered.pool.get(timeout=60.0))  # until the consumer puts one back
        position = reached
        if registered.complete(queue, 1, 60.0) < 0:
            return -1
    return position


def consume(registered, queue, out):
    """Copy what comes to where it belongs until all of `out` has come; return how many blocks that took."""
    pool = registered.pool
    bytes_seen = blocks = 0
    while bytes_seen < len(out):
        index = queue.get(timeout=60.0)
        n = registered.lengths[index]
        if n <= 0:
            return n
        start = registered.offsets[index]
        out[start : start + n] = pool.value(index)[:n]
        pool.put(index)
        bytes_seen += n
        blocks += 1
    return blocks


@pytest.mark.parametrize("capacity, size, entries", [(3, 4096, 64), (1, 1000, 1), (64, 512, 4)])
def test_a_file_streams_through_a_consumer_thread(io, make, file, capacity, size, entries):
    _, queue, registered = make(capacity, size, entries)
    content = np.fromfile(file.name, np.uint8)
    out, blocks = np.zeros_like(content), []
    consumer = threading.Thread(target=lambda: blocks.append(io.jit(consume)(registered, queue, out)))
    consumer.start()
    assert io.jit(stream_all)(registered, queue, file.fileno(), len(content)) == len(content)
    consumer.join(60)
    assert blocks == [-(-len(content) // size)]
    assert bytes(out) == bytes(content)


def test_a_batch_takes_what_is_free_and_stops_at_the_end(io, make, file):
    pool, queue, registered = make(capacity=4, size=1000)
    mine = pool.get()
    assert io.read_batch(registered, file.fileno(), 500, 100_001) == 3500
    assert io.in_flight(registered) == 3 and pool.available() == 0
    assert io.read_batch(registered, file.fileno(), 3500, 100_001) == 3500  # no buffer is free
    assert io.complete(registered, queue, 3) == 3
    assert sorted(registered.offsets[index] for index in drain(queue)) == [500, 1500, 2500]
    pool.put_many(np.array([index for index in pool.holders() if index != mine]))
    assert io.read_batch(registered, file.fileno(), 99_000, 100_001) == 100_001
    assert io.read_batch(registered, file.fileno(), 100_001, 100_001) == 100_001
    assert io.complete(registered, queue, 2) == 2
    assert sorted(int(registered.lengths[index]) for index in drain(queue)) == [1, 1000]
    pool.put_many(np.array([*pool.holders()]))


@njit(nogil=True)
def check_blocks(registered, queue, fd, blocks):
    """Read a file of numbered blocks by index, any eight bytes but the first and last zero; how many were right."""
    pool = registered.pool
    size = pool.buffer_size
    position = seen = right = 0
    while seen < blocks:
        position = registered.read_batch(fd, position, blocks * size)
        if position < 0 or registered.complete(queue) < 0:
            return -1
        index = queue.try_get()
        while index >= 0:
            words = pool.value(index).view(np.int64)
            k = registered.offsets[index] // size
            fine = registered.lengths[index] == size and words[0] == k + 1 and words[-1] == -k
            for word in words[1:-1]:
                fine &= word == 0
            right += fine
            seen += 1
            pool.put(index)
            index = queue.try_get()
    return right


@pytest.mark.compiled
def test_a_file_of_one_gib(make, tmp_path):
    size, blocks = 2**18, 2**12
    path = tmp_path / "large"
    with path.open("w+b", buffering=0) as file:
        file.truncate(size * blocks)
        for k in range(blocks):
            os.pwrite(file.fileno(), np.int64(k + 1).tobytes(), k * size)
            os.pwrite(file.fileno(), np.int64(-k).tobytes(), (k + 1) * size - 8)
        _, queue, registered = make(64, size)
        assert check_blocks(registered, queue, file.fileno(), blocks) == blocks
        # It would see a wrong block.
        os.pwrite(file.fileno(), b"\1", 5 * size + 100)
        assert check_blocks(registered, queue, file.fileno(), 10) == 9
    path.unlink()


def test_an_arena_of_more_than_one_piece(make, file):
    pool, queue, registered = make(1030, 2**20, entries=8)
    assert registered._per_piece == 1024
    content = Path(file.name).read_bytes()
    taken = take_all(pool)
    for k, index in enumerate([0, 1023, 1024, 1029]):
        registered.read_fixed(file, index, k)
    assert registered.complete(queue, 4) == 4
    for index in drain(queue):
        k = [0, 1023, 1024, 1029].index(index)
        assert bytes(pool.value(index)[: registered.lengths[index]]) == content[k:]
    pool.put_many(np.array(taken))


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
    with pytest.raises(ValueError, match="is that of a buffer that is not out|that is out"):
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
    for queue in (BoundedQueue(7, 16), BoundedQueue(7)):
        with pytest.raises(ValueError, match="queue must have a capacity of at least the pool's"):
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


def test_nothing_works_after_close(io, make, file):
    pool, queue, registered = make()
    index = pool.get()
    registered.ring.close()
    registered.ring.close()
    registered.close()
    assert registered.ring.closed and io.closed(registered)
    fd = file.fileno()
    for call, *arguments in (
        (io.read_fixed, fd, index, 0),
        (io.write_fixed, fd, index, 0, 1),
        (io.read_batch, fd, 0, 1),
        (io.receive, fd),
        (io.submit,),
        (io.complete, queue),
    ):
        with pytest.raises(PoolClosed, match="closed"):
            call(registered, *arguments)
    assert pool.holders() == {index: threading.get_ident()}
    pool.put(index)
    with pytest.raises(PoolClosed, match="a ring that has been closed"):
        RegisteredPool(pool, registered.ring)


# ---- ends in mid-flight ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "close the ring", "collect"])
def test_ends_with_operations_in_flight(make, file, pipe, how):
    """The kernel lets go of every buffer: what comes into the pipe later stays there."""
    pool, _, registered = make(capacity=12, receive=2)
    ring = registered.ring
    ours, theirs = socket.socketpair()
    with ours, theirs:
        mine = [pool.get(), pool.get()]
        for index in mine:
            registered.read_fixed(pipe[0], index, -1)
        registered.receive(ours)
        registered.read_batch(pipe[0], 0, 4 * 4096)
        assert registered.in_flight == 7 and pool.available() == 3
        start = time.monotonic()
        if how == "close":
            registered.close()
        elif how == "close the ring":
            ring.close()
        else:
            gone = weakref.ref(registered)
            del registered
            gc.collect()
            assert gone() is None
        assert time.monotonic() - start < 5
        assert pool.holders() == dict.fromkeys(mine, threading.get_ident())
        os.write(pipe[1], b"late"), theirs.sendall(b"late")
        assert os.read(pipe[0], 100) == ours.recv(100) == b"late"
        assert not pool._buffers.any()
    for index in mine:
        pool.put(index)


def test_pools_that_do_not_check_get_their_buffers_back_too(file, pipe):
    pool, queue = BufferPool(4, 4096, checked=False), BoundedQueue(4)
    with Ring() as ring:
        registered = RegisteredPool(pool, ring)
        registered.read_batch(file, 0, 4096)
        assert registered.complete(queue) == 1
        pool.put(queue.get())
        registered.read_batch(pipe[0], 0, 8192)
        assert pool.available() == 2
    assert sorted(take_all(pool)) == [0, 1, 2, 3]


def test_what_was_never_submitted_never_happens(make, file):
    pool, queue, registered = make()
    before = Path(file.name).read_bytes()
    taken = take_all(pool)
    for index in taken:
        pool.value(index)[:] = 1
        registered.write_fixed(file, index, 4096 * index)
    registered.close()
    with RegisteredPool(pool, registered.ring) as again:
        assert again.submit() == again.complete(queue, 0) == again.in_flight == 0
        assert Path(file.name).read_bytes() == before
        again.write_fixed(file, taken[0], 0, 2)
        assert again.complete(queue) == 1
        assert queue.get() == taken[0] and again.lengths[taken[0]] == 2
        assert Path(file.name).read_bytes() == b"\1\1" + before[2:]
    pool.put_many(np.array(taken))


def test_an_interrupted_close_can_be_finished(make, pipe, monkeypatch):
    pool, _, registered = make(capacity=3)
    registered.read_batch(pipe[0], 0, 3 * 4096)
    call = uring.call
    calls = []

    def interrupted(name, *arguments):
        calls.append(name)
        if calls.count("io_uring_cq_advance") == 2:
            raise KeyboardInterrupt
        return call(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(uring, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            registered.close()
    assert len(pool.holders()) == 3 and uring._stuck.pop()[1] is pool
    registered.close()
    assert not pool.holders() and registered.closed


def test_a_thread_that_ends_takes_its_operations_along(make, pipe):
    """What comes then ends them with an error, and is not lost."""
    pool, queue, registered = make()
    index = pool.get()

    def submit():
        registered.read_fixed(pipe[0], index, -1)
        assert registered.submit() == 1

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():  # join returns before it has left the kernel
        time.sleep(0.001)
    os.write(pipe[1], b"x")
    assert registered.complete(queue, 1, 60.0) == 1
    assert queue.get() == index and registered.lengths[index] == -errno.ECANCELED
    assert os.read(pipe[0], 9) == b"x"
    pool.put(index)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_ring_alone(io, make, file, pipe):
    pool, queue, registered = make()
    index, other = pool.get(), pool.get()
    io.read_fixed(registered, file.fileno(), index, 0)  # first of all, for a child should not compile
    assert io.complete(registered, queue) == 1 and queue.get() == index
    io.read_fixed(registered, pipe[0], index, -1)
    assert io.submit(registered) == 1
    child = os.fork()
    if child == 0:
        status = 0
        for call in (lambda: io.read_fixed(registered, file.fileno(), other, 0), lambda: io.submit(registered)):
            try:
                call()
                status = 1
            except RuntimeError as error:
                status |= 0 if "a forked child cannot use the ring" in str(error) else 2
        registered.ring.close()
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.write(pipe[1], b"parent")
    assert io.complete(registered, queue) == 1
    assert queue.get() == index
    assert bytes(pool.value(index)[: registered.lengths[index]]) == b"parent"
    pool.put(index), pool.put(other)


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_complete_keeps_its_limit(io, make, pipe):
    pool, queue, registered = make()
    index = pool.get()
    io.read_fixed(registered, pipe[0], index, -1)
    io.complete(registered, queue, 1, 0.0)
    start = time.monotonic()
    assert io.complete(registered, queue, 1, 0.2) == 0
    assert time.monotonic() - start >= 0.2
    os.write(pipe[1], b"x")
    assert io.complete(registered, queue, 5) == 1  # no more are under way
    assert io.complete(registered, queue, 5) == 0
    pool.put(queue.get())
    for timeout in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0"):
            io.complete(registered, queue, 1, timeout)


def wait_for_one(registered, queue):
    return registered.complete(queue)


@pytest.mark.parametrize("jit", [lambda f: f, njit(nogil=True), njit], ids=["python", "nogil kernel", "kernel"])
def test_complete_waits_without_the_gil(make, pipe, jit):
    pool, queue, registered = make()
    index = pool.get()
    wait = jit(wait_for_one)
    assert wait(registered, queue) == 0
    registered.read_fixed(pipe[0], index, -1)
    about_to_wait = threading.Event()

    def write():
        about_to_wait.wait()
        os.write(pipe[1], b"x")

    thread = threading.Thread(target=write)
    thread.start()
    about_to_wait.set()
    assert wait(registered, queue) == 1
    thread.join()
    pool.put(queue.get())


PRELUDE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
from numba import njit
from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb.uring import RegisteredPool, Ring
"""

INTERRUPTED = """
def wait(registered, queue):
    return registered.complete(queue)
wait = {"python": lambda f: f, "nogil": njit(nogil=True), "gil": njit}[sys.argv[1]](wait)
pool, queue = BufferPool(2, 16), BoundedQueue(2)
registered = RegisteredPool(pool, Ring())
wait(registered, queue)
reader, writer = os.pipe()
index = pool.get()
registered.read_fixed(reader, index, -1)
try:
    print("waiting", flush=True)
    wait(registered, queue)
except KeyboardInterrupt:
    os.write(writer, b"on")
    print("interrupted", wait(registered, queue), registered.lengths[queue.get()], flush=True)
    pool.put(index)
"""


def until_it_sleeps(child):
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "S" and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["python", "nogil", "gil"])
def test_ctrl_c_ends_the_wait_and_loses_nothing(how):
    child = subprocess.Popen([sys.executable, "-c", PRELUDE + INTERRUPTED, how], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "waiting\n"
        until_it_sleeps(child)
        child.send_signal(signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
        assert child.stdout.read() == "interrupted 1 2\n"
    assert child.returncode == 0


def test_a_signal_ends_the_wait_at_once(make, pipe, untraced):
    class Alarm(Exception):
        pass

    def handle(number, frame):
        raise Alarm

    pool, queue, registered = make()
    index = pool.get()
    registered.read_fixed(pipe[0], index, -1)
    before = signal.signal(signal.SIGALRM, handle)
    try:
        late = []
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            start = time.monotonic()
            with pytest.raises(Alarm):
                registered.complete(queue, 1, 30.0)
            late.append(time.monotonic() - start - 0.1)
        assert min(late) < 0.1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    registered.close()
    pool.put(index)


# ---- processes -------------------------------------------------------------------------------------------------------

KILLED = """
pool, queue = BufferPool(32, 65536), BoundedQueue(32)
registered = RegisteredPool(pool, Ring(), receive=4)
reader, writer = os.pipe()
fd = os.open(sys.argv[1], os.O_RDWR)
for _ in range(8):
    registered.read_fixed(reader, pool.get(), -1)
position = registered.read_batch(fd, 0, os.path.getsize(fd))
print(registered.in_flight, flush=True)
while True:  # file reads in flight all the time, and those of the silent pipe
    position = registered.read_batch(fd, position, os.path.getsize(fd)) % os.path.getsize(fd)
    registered.complete(queue)
    while queue.was_size():
        pool.put(queue.get())
"""


def test_kill_9_in_mid_flight(file):
    before = Path(file.name).read_bytes()
    child = subprocess.Popen([sys.executable, "-c", PRELUDE + KILLED, file.name], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "10\n"  # 8 reads of the pipe, and 2 of the file
        child.kill()
        assert child.wait(10) == -signal.SIGKILL
    assert Path(file.name).read_bytes() == before


AT_EXIT = """
import threading
pool, queue = BufferPool(4, 4096), BoundedQueue(4)
registered = RegisteredPool(pool, Ring(), receive=1)
reader, writer = os.pipe()
registered.read_batch(reader, 0, 8192)
print(registered.in_flight, sorted(pool.holders()))
"""


def run(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    return process.stdout.strip()


def test_the_interpreter_may_end_with_operations_in_flight():
    assert run(PRELUDE + AT_EXIT) == "2 [0, 1]"


CACHED = """
from numba.core import event

@njit(nogil=True, cache=True)
def work(registered, queue, fd):
    end = registered.read_batch(fd, 0, 100)
    registered.complete(queue)
    index = queue.get()
    n = registered.lengths[index]
    registered.pool.put(index)
    return n + end

if __name__ == "__main__":
    with event.install_recorder("numba:compile") as recorder:
        pool, queue = BufferPool(4, 4096), BoundedQueue(4)
        with Ring() as ring, open(sys.argv[0], "rb") as file:
            print(work(RegisteredPool(pool, ring), queue, file.fileno()), work.stats.cache_misses != {})
"""


@pytest.mark.compiled
def test_a_second_process_compiles_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + CACHED)
    command = [sys.executable, str(script)]
    for compiled in ("True", "False"):
        process = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert process.stdout.split() == ["200", compiled], process.stdout + process.stderr


MISSING = """
import sys
sys.modules["liburing"] = None
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    import iobuf_nb.uring
print(len(recorder.buffer))
try:
    iobuf_nb.uring.Ring()
except ImportError as error:
    print(error)
"""


def test_without_the_extra_it_is_named():
    compiled, sentence = run(MISSING).split("\n")
    assert compiled == "0"
    assert "pip install 'iobuf-nb[uring]'" in sentence


@pytest.mark.parametrize(
    "code, switch, sentence",
    [
        (errno.EPERM, "2", "kernel.io_uring_disabled is 2"),
        (errno.EPERM, "0", "a seccomp filter or a security module forbids io_uring here"),
        (errno.ENOSYS, "0", "this kernel has no io_uring, or a seccomp filter hides it"),
        (errno.ENOMEM, "0", r"RLIMIT_MEMLOCK allows a user -?\d+ bytes"),
        (errno.EINVAL, "0", "io_uring is used as of Linux 6.0"),
    ],
)
def test_where_io_uring_is_forbidden_it_says_why(monkeypatch, code, switch, sentence):
    monkeypatch.setattr(uring, "call", lambda *arguments: -code)
    monkeypatch.setattr(Path, "read_text", lambda path: switch + "\n")
    with pytest.raises(OSError, match=rf"Ring\(4\) is refused by io_uring \(.*{sentence}") as caught:
        Ring(4)
    assert caught.value.errno == code


def test_elsewhere_than_on_linux_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    liburing._library.cache_clear()
    with pytest.raises(OSError, match="io_uring is a part of Linux, and this system is darwin"):
        Ring()


def test_a_liburing_that_lacks_a_function_is_refused(monkeypatch):
    monkeypatch.setattr(liburing, "_FUNCTIONS", "io_uring_submit io_uring_of_tomorrow")
    liburing._library.cache_clear()
    with pytest.raises(ImportError, match="needs a newer liburing: .* has no io_uring_of_tomorrow"):
        Ring()


LIMITED = """
import resource
pool, small, ring = BufferPool(64, 65536), BufferPool(1, 4096), Ring()
RegisteredPool(small, ring).close()
ring.close()
resource.setrlimit(resource.RLIMIT_MEMLOCK, (2**20, 2**20))
if os.getuid() == 0:
    os.setuid(65534)
ring = Ring()
try:
    RegisteredPool(pool, ring)
except OSError as error:
    print(error)
RegisteredPool(small, ring).close()
"""


def test_the_limit_of_locked_memory_is_named():
    sentence = run(PRELUDE + LIMITED)
    assert "pinning 4194304 bytes is refused" in sentence and "RLIMIT_MEMLOCK allows a user 1048576 bytes" in sentence


def test_they_show_themselves_and_cannot_be_copied(make):
    _, _, registered = make(capacity=2)
    assert repr(registered.ring) == "Ring(entries=64, in_flight=0, closed=False)"
    assert repr(registered).startswith("RegisteredPool(pool=BufferPool(capacity=2,")
    assert "0.0 %" in registered._repr_html_()
    with pytest.raises(TypeError, match="a Ring cannot be pickled or copied"):
        registered.ring.__reduce__()
    with pytest.raises(ValueError, match="read-only"):
        registered.lengths[0] = 1


def test_nothing_stays_open():
    """Rings dropped unclosed leave no descriptor and no locked memory behind."""

    def cycle():
        pool = BufferPool(4, 4096)
        return RegisteredPool(pool, Ring(), receive=2), pool

    cycle()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        cycle()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before
