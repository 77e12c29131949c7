"""The methods of a RegisteredPool, called from Python or from kernels."""

import functools

import pytest
from numba import config, njit


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


def drain(queue):
    return [queue.get(block=False) for _ in range(queue.was_size())]


def fails(io, code, call, *arguments):
    """Whether a call fails with an -errno: returned in a kernel, raised in Python."""
    if io.name == "kernel" and not config.DISABLE_JIT:
        return call(*arguments) == -code
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno == code


#: Begins a script, after PRELUDE.
IMPORTS = "from iobuf_nb.uring import RegisteredPool, Ring\n"
