"""io_uring: fixed reads and writes by index, in order of completion."""

import errno
import gzip
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from ring_faces import drain, fails
from support import take_all, why_no_io_uring

pytestmark = pytest.mark.skipif(bool(why_no_io_uring()), reason=why_no_io_uring() or "io_uring works")


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
            with pytest.raises(TypeError, match="fd must not be a buffered file, whose position differs"):
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


@pytest.mark.proof
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
