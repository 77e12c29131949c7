"""The machines of io_uring."""

import contextlib
import errno
import os
import socket

import faces
import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)
from ring_faces import Face
from support import assert_whole

from iobuf_nb import (
    BoundedQueue,
    BufferPool,
    PoolClosed,
    WouldBlock,
)
from iobuf_nb.uring import RegisteredPool, Ring

from .machine import FACE, Machine, only_here, outcome

# ---- io_uring --------------------------------------------------------------------------------------------------------


IO = {name: Face(getattr(faces, name)) for name in ("python", "kernel")}


def status(face, function, *arguments):
    """Return a count, or -errno from either face."""
    got = outcome(getattr(IO[face], function), *arguments)
    return -got.errno if isinstance(got, OSError) and not isinstance(got, WouldBlock) else got


class Reading(Machine):
    """A `RegisteredPool` over a file: a buffer is free, held by us, or the kernel's until its index comes back."""

    covers = (RegisteredPool, Ring)
    SIZE, FILE = 512, 5000

    @initialize(entries=st.sampled_from([1, 2, 8]), checked=st.booleans())
    def start(self, entries, checked):
        self.data = bytearray(os.urandom(self.FILE))
        self.file = os.memfd_create("machine")
        os.write(self.file, self.data)
        self.pool, self.ring = BufferPool(4, self.SIZE, checked=checked), Ring(entries)
        assert self.ring.entries == entries
        self.registered = self.pool.register(self.ring)
        self.queue = BoundedQueue(4)
        self.held = set()
        self.queued = {}  # what is under way by index: (offset, length), both None for a write
        self.batches = []  # the same for reads into buffers that we do not know yet
        self.waiting = 0  # operations in the submission queue

    def room(self):
        """How many operations can still be queued."""
        return 2 * self.ring.entries - len(self.queued) - len(self.batches)

    def free(self):
        return 4 - len(self.held) - len(self.queued) - len(self.batches)

    def enqueue(self, n):
        for _ in range(n):
            self.waiting = self.waiting % self.ring.entries + 1

    @rule()
    def get(self):
        index = self.pool.try_get()
        assert (index >= 0) == (self.free() > 0)
        self.held |= {index} - {-1}

    @rule(index=st.integers(0, 3))
    def put(self, index):
        assume(index in self.held or self.pool.checked)
        assert self.pool.try_put(index) is (index in self.held)
        self.held -= {index}

    @rule(face=FACE, index=st.integers(-1, 4), offset=st.integers(-2, 6000), length=st.integers(-2, 513))
    def read(self, face, index, offset, length):
        assume(offset != -1 and (self.pool.checked or index in self.held or index in self.queued))
        got = status(face, "read_some", self.registered, self.file, index, offset, length)
        if offset < 0 or not -1 <= length <= self.SIZE:
            assert isinstance(got, ValueError) and ("offset" if offset < 0 else "length") in str(got)
        elif self.may_queue(got, index):
            self.queued[index] = offset, self.SIZE if length < 0 else length

    @rule(face=FACE, index=st.integers(-1, 4), byte=st.integers(0, 255))
    def write(self, face, index, byte):
        """Write beyond what is read, a place for each buffer."""
        assume(self.pool.checked or index in self.held or index in self.queued)
        if index in self.held:
            self.pool.value(index)[:] = byte
        got = status(face, "write_fixed", self.registered, self.file, index, 10_000 + index * self.SIZE, -1)
        if self.may_queue(got, index):
            self.queued[index] = None, byte

    def may_queue(self, got, index):
        if not 0 <= index < 4:
            assert type(got) is IndexError
        elif index in self.queued:
            assert isinstance(got, ValueError) and "under way" in str(got)
        elif index not in self.held and self.room() > 0:
            assert isinstance(got, ValueError)  # in a kernel's hands, or in the pool
        elif self.room() == 0:
            assert got == -errno.EBUSY or isinstance(got, ValueError)
        else:
            assert got == 0
            self.held.remove(index)
            self.enqueue(1)
            return True
        return False

    @rule(face=FACE, offset=st.integers(-1, 6000), size=st.integers(0, 2000))
    def read_batch(self, face, offset, size):
        n = min(self.free(), self.room(), -(-size // self.SIZE))
        got = status(face, "read_batch", self.registered, self.file, offset, max(offset + size, 0))
        if offset < 0:
            assert isinstance(got, ValueError) and "offset" in str(got)
            return
        assert got == min(offset + size, offset + n * self.SIZE)
        self.batches += [(at, min(self.SIZE, offset + size - at)) for at in range(offset, got, self.SIZE)]
        self.waiting = 0 if n else self.waiting

    @rule(face=FACE)
    def submit(self, face):
        assert IO[face].submit(self.registered) == self.waiting
        self.waiting = 0

    @rule(face=FACE, at_least=st.integers(-1, 5))
    def complete(self, face, at_least):
        under_way = len(self.queued) + len(self.batches)
        got = outcome(IO[face].complete, self.registered, self.queue, at_least, 60.0)
        if at_least < 0:
            assert isinstance(got, ValueError) and "at_least" in str(got)
            return
        assert min(at_least, under_way) <= got <= under_way
        self.waiting = 0
        for _ in range(got):
            self.completed(self.queue.get(block=False))
        assert self.queue.try_get() == -1

    def completed(self, index):
        length, offset, fd = IO["kernel"].result(self.registered, index)
        assert self.registered.lengths[index] == length and self.registered.descriptors[index] == fd == self.file
        assert self.registered.offsets[index] == offset
        if index not in self.queued:
            self.queued[index] = self.batches.pop([at for at, _ in self.batches].index(offset))
        start, wanted = self.queued.pop(index)
        if start is None:
            written = os.pread(self.file, self.SIZE, offset)
            assert length == self.SIZE and written == self.pool.value(index).tobytes() == bytes([wanted]) * self.SIZE
        else:
            expected = self.data[start : start + wanted]
            assert start == offset
            assert length >= len(expected) and self.pool.value(index)[: len(expected)].tobytes() == expected
        self.held.add(index)

    @rule(bad=st.sampled_from([None, 1.5, "1"]), face=st.just("python"))
    def pass_what_is_no_number(self, bad, face):
        for arguments in ((bad, 0, 0), (self.file, bad, 0), (self.file, 0, bad)):
            with pytest.raises(TypeError, match="must be an integer"):
                self.registered.read_fixed(*arguments)

    @rule(queue=st.sampled_from([None, BoundedQueue(3), BoundedQueue(5, limit=3)]))
    def complete_into_what_does_not_fit(self, queue):
        with pytest.raises((TypeError, ValueError), match="queue must"):
            self.registered.complete(queue)

    @rule()
    def open_what_cannot_be(self):
        for bad in (0, 32769, None, 1.5):
            with pytest.raises((TypeError, ValueError), match="entries must be"):
                Ring(bad)
        for pool, ring in ((self.pool, self.ring), (None, self.ring), (self.pool, None)):
            with pytest.raises((TypeError, ValueError), match="must be"):
                RegisteredPool(pool, ring)
        got = status("python", "receive", self.registered, self.file)
        assert got == -errno.ENOBUFS  # it was made without receive=

    @rule(of=st.sampled_from(["ring", "registered"]), leave=st.booleans())
    def close_and_open(self, of, leave):
        """Closing gives back what `read_batch` took, and ends what is under way."""
        closed = getattr(self, of)
        with closed if leave else contextlib.nullcontext():
            closed.close()
        assert self.registered.closed and self.ring.closed == (of == "ring")
        for face in IO:
            assert isinstance(outcome(IO[face].submit, self.registered), PoolClosed)
        self.held |= self.queued.keys()
        self.queued, self.batches, self.waiting = {}, [], 0
        if of == "ring":
            with pytest.raises(PoolClosed):
                self.pool.register(self.ring)
            self.ring = Ring(self.ring.entries)
        self.registered = RegisteredPool(self.pool, self.ring)

    @rule()
    def show(self):
        only_here(self.ring, "a Ring cannot be pickled or copied")
        only_here(self.registered, "a RegisteredPool cannot be pickled or copied")

    def compare(self):
        assert not self.registered.closed and not self.ring.closed
        assert self.registered.in_flight == IO["kernel"].in_flight(self.registered)
        assert self.registered.in_flight == len(self.queued) + len(self.batches)
        assert self.pool.available() == self.free()
        if self.pool.checked:
            out = self.pool.holders().keys()
            assert out >= self.held | self.queued.keys() and len(out) == 4 - self.free()

    def teardown(self):
        self.ring.close()
        os.close(self.file)
        self.pool.put_many(np.array(sorted(self.held | self.queued.keys()), np.int64))
        assert_whole(self.pool)


class Receiving(Machine):
    """A `RegisteredPool` over two sockets: what is received of each is what was sent, in order, and nothing is lost."""

    covers = (RegisteredPool, Ring)

    @initialize(capacity=st.integers(3, 8), entries=st.sampled_from([2, 8]))
    def start(self, capacity, entries):
        self.pool, self.ring = BufferPool(capacity, 16), Ring(entries)
        self.registered = self.pool.register(self.ring, receive=2)
        self.queue = BoundedQueue(capacity)
        pairs = [socket.socketpair() for _ in range(2)]
        self.ours = [ours for ours, _ in pairs]
        self.theirs = [theirs for _, theirs in pairs]
        self.sent, self.received = [b"", b""], [b"", b""]
        self.listening, self.ended, self.held = set(), set(), set()

    @rule(face=FACE, k=st.integers(0, 1))
    def listen(self, face, k):
        if k not in self.listening:
            free = self.pool.available()
            got = status(face, "receive", self.registered, self.ours[k].fileno())
            assert got == (0 if free else -errno.ENOBUFS)
            self.listening |= {k} if got == 0 else set()

    @rule(k=st.integers(0, 1), data=st.binary(min_size=1, max_size=40))
    def send(self, k, data):
        if k not in self.ended:
            self.theirs[k].sendall(data)
            self.sent[k] += data

    @rule(k=st.integers(0, 1))
    def end(self, k):
        self.theirs[k].shutdown(socket.SHUT_WR)
        self.ended.add(k)

    @rule(face=FACE)
    def complete(self, face):
        for _ in range(IO[face].complete(self.registered, self.queue, 1, 0.002)):
            index = self.queue.get(block=False)
            length, _, fd = IO[face].result(self.registered, index)
            k = [ours.fileno() for ours in self.ours].index(fd)
            self.held.add(index)
            if length > 0:
                self.received[k] += self.pool.value(index)[:length].tobytes()
            else:
                assert length == 0 and k in self.ended and self.received[k] == self.sent[k]
                self.listening.remove(k)
                # No more comes: from now on this is another pair.
                self.restart(k)

    def restart(self, k):
        self.ours[k].close()
        self.theirs[k].close()
        self.ours[k], self.theirs[k] = socket.socketpair()
        self.sent[k] = self.received[k] = b""
        self.ended.discard(k)

    @precondition(lambda self: self.held)
    @rule()
    def put(self):
        self.pool.put(self.held.pop())

    @rule(index=st.integers(0, 7))
    def put_what_is_not_ours(self, index):
        assume(index not in self.held)
        assert not self.pool.try_put(index)

    def compare(self):
        assert all(sent.startswith(got) for sent, got in zip(self.sent, self.received, strict=True))
        assert self.registered.in_flight == len(self.listening)
        out = self.pool.holders().keys()
        assert out >= self.held and len(out) == self.pool.capacity - self.pool.available()
        assert len(out) <= len(self.held) + len(self.listening) + 2  # 2 that were provided

    def teardown(self):
        for k in sorted(self.listening):
            self.end(k)
        while self.listening:
            while self.held:
                self.put()
            self.complete("python")
        self.ring.close()
        for each in self.ours + self.theirs:
            each.close()
        self.pool.put_many(np.array(sorted(self.held), np.int64))
        assert_whole(self.pool)
