"""The machine of vectors."""

import copy
import ctypes
import functools
import os
import pickle

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)

from iobuf_nb import (
    IOVEC_DTYPE,
    BufferPool,
    IoVec,
    iovec_from_buffers,
    syscalls,
)

from .machine import FACE, Machine, on, outcome

# ---- iovecs ----------------------------------------------------------------------------------------------------------


class Iovecs(Machine):
    """An `IoVec` is a list of pieces of memory; its slices share the entries, its copies do not.

    A piece is [which memory, where in it, how long]. Every iovec must gather the bytes that its pieces name.
    """

    covers = (IoVec,)

    @initialize()
    def start(self):
        self.pool = BufferPool(4, 16)
        self.pool.fill(functools.partial(os.urandom, 16))
        self.memories = {
            "bytearray": bytearray(os.urandom(40)),
            "bytes": os.urandom(20),
            "pool": self.pool._buffers.reshape(-1),
        }
        self.iovecs, self.models, self.unfit = [], [], []

    def add(self, iovec, pieces, unfit):
        assert isinstance(iovec, IoVec) and iovec.shape == (len(pieces),)
        self.iovecs.append(iovec)
        self.models.append(pieces)
        self.unfit.append(unfit)

    def overlap(self, pieces):
        used = [{(name, byte) for byte in range(first, first + length)} for name, first, length in pieces if length]
        return sum(map(len, used)) != len(set().union(*used))

    @rule(
        pieces=st.lists(
            st.tuples(st.sampled_from(["bytearray", "bytes"]), st.integers(0, 9), st.integers(0, 11)), max_size=4
        ),
        writable=st.booleans(),
    )
    def make(self, pieces, writable):
        buffers = [memoryview(self.memories[name])[first : first + length] for name, first, length in pieces]
        unfit = any(name == "bytes" for name, _, _ in pieces) or self.overlap(pieces)
        got = outcome(iovec_from_buffers, buffers, writable=writable)
        if unfit and writable:
            assert isinstance(got, ValueError) and "writable memory" in str(got)
        else:
            self.add(got, [list(piece) for piece in pieces], unfit)

    @rule(
        indices=st.lists(st.integers(-1, 4), max_size=4), lengths=st.none() | st.lists(st.integers(-1, 17), max_size=4)
    )
    def make_over_a_pool(self, indices, lengths):
        got = outcome(self.pool.iovec, indices, lengths)
        error = self.error(indices, lengths)
        if error:
            assert type(got) in error
        else:
            pieces = [["pool", 16 * k, 16 if lengths is None else lengths[i]] for i, k in enumerate(indices)]
            self.add(got, pieces, self.overlap(pieces))

    def error(self, indices, lengths):
        """Return the errors that pointing at these buffers may end with; none if it can be done."""
        return [IndexError] * any(not 0 <= k < 4 for k in indices) + [ValueError] * (
            lengths is not None and (len(lengths) != len(indices) or any(not 0 <= n <= 16 for n in lengths))
        )

    @precondition(lambda self: self.iovecs)
    @rule(data=st.data(), part=st.slices(4), copies=st.booleans())
    def take_a_part(self, data, part, copies):
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        made = self.iovecs[k][part]
        pieces = self.models[k][part]
        self.add(made.copy() if copies else made, copy.deepcopy(pieces) if copies else pieces, self.unfit[k])

    @precondition(lambda self: self.iovecs)
    @rule(data=st.data(), face=FACE, n=st.integers(-1, 45))
    def advance(self, data, face, n):
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        iovec, pieces = self.iovecs[k], self.models[k]
        got = outcome(on(face).advance, iovec, n)
        if not iovec.flags.c_contiguous:
            assert "contiguous" in str(got)
        elif not 0 <= n <= sum(length for _, _, length in pieces):
            assert isinstance(got, ValueError) and "n must be" in str(got)
        else:
            for piece in pieces:
                step = min(n, piece[2])
                piece[1] += step
                piece[2] -= step
                n -= step
            assert got == next((i for i, piece in enumerate(pieces) if piece[2]), len(pieces))

    @precondition(lambda self: self.iovecs)
    @rule(
        data=st.data(),
        face=FACE,
        indices=st.lists(st.integers(-1, 4), max_size=4),
        lengths=st.none() | st.lists(st.integers(-1, 17), max_size=4),
    )
    def point_at_a_pool(self, data, face, indices, lengths):
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        iovec, pieces = self.iovecs[k], self.models[k]
        arguments = [None if each is None else np.array(each, np.int64) for each in (indices, lengths)]
        got = outcome(on(face).point, iovec, self.pool, *arguments)
        error = self.error(indices, lengths) + [ValueError] * (len(indices) > len(iovec))
        if not iovec.flags.c_contiguous:
            assert "contiguous" in str(got)
        elif error:
            assert type(got) in error
        else:
            assert got == (16 * len(indices) if lengths is None else sum(lengths))
            for i, index in enumerate(indices):
                pieces[i][:] = "pool", 16 * index, 16 if lengths is None else lengths[i]

    @precondition(lambda self: self.iovecs)
    @rule(data=st.data(), face=FACE)
    def go_through_a_pipe(self, data, face):
        """Writing gathers the bytes, and reading back scatters the same ones, where that is allowed."""
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        iovec, expected = self.iovecs[k], self.bytes_of(self.models[k])
        if not iovec.flags.c_contiguous:
            for call in (lambda: syscalls.writev(1, iovec), lambda: on(face).address_and_length(iovec)):
                assert "contiguous" in str(outcome(call))
            return
        assert on(face).address_and_length(iovec) == ((iovec.ctypes.data, len(iovec)) if len(iovec) else (0, 0))
        reader, writer = os.pipe()
        try:
            assert syscalls.writev(writer, iovec) == len(expected)
            if self.unfit[k]:
                with pytest.raises(ValueError, match="an iovec to be read into must be over writable memory"):
                    syscalls.readv(reader, iovec)
            elif expected:
                assert syscalls.readv(reader, iovec) == len(expected)
        finally:
            os.close(reader)
            os.close(writer)

    @precondition(lambda self: self.iovecs)
    @rule()
    def drop(self):
        for column in (self.iovecs, self.models, self.unfit):
            column.pop()

    @precondition(lambda self: self.iovecs)
    @rule()
    def pickle_one(self):
        with pytest.raises(TypeError, match="an IoVec cannot be pickled"):
            pickle.dumps(self.iovecs[-1])

    def bytes_of(self, pieces):
        return b"".join(bytes(self.memories[name][first : first + length]) for name, first, length in pieces)

    def compare(self):
        for iovec, pieces in zip(self.iovecs, self.models, strict=True):
            found = [ctypes.string_at(int(entry["base"]), int(entry["len"])) for entry in iovec]
            assert b"".join(found) == self.bytes_of(pieces)
            assert iovec["len"].tolist() == [length for _, _, length in pieces] and iovec.dtype == IOVEC_DTYPE

    def teardown(self):
        if any(name == "bytearray" for pieces in self.models for name, _, _ in pieces):
            with pytest.raises(BufferError):
                self.memories["bytearray"].clear()
