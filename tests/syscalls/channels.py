"""System calls from Python and from kernels, and pipes and sockets for them."""

import fcntl
import os
import socket
from contextlib import contextmanager

import numpy as np
from numba import config, njit

from iobuf_nb import iovec_from_buffers, syscalls

NAMES = [name for name in syscalls.__all__ if name != "poll_in"]


BASE = {name: name.removesuffix("_full") for name in NAMES}


AT_OFFSET = {name for name in NAMES if BASE[name] in ("pread", "pwrite", "preadv", "pwritev")}


VECTOR = {name for name in NAMES if BASE[name].endswith("v") and BASE[name] != "recv"}


READS = [name for name in NAMES if name.startswith(("read", "recv"))]


WRITES = [name for name in NAMES if name.startswith(("write", "send"))]


def make_kernel(name):
    function = getattr(syscalls, name)
    if name in AT_OFFSET:
        return njit(lambda fd, memory, last: function(fd, memory, last), nogil=True)
    return njit(lambda fd, memory: function(fd, memory), nogil=True)


KERNELS = {name: make_kernel(name) for name in NAMES}


CALLS = {"python": vars(syscalls), "kernel": KERNELS}


def call_on(kind, name, *arguments):
    """Make a system call: a count, or -errno as kernels give it."""
    try:
        return CALLS[kind][name](*arguments)
    except OSError as error:
        assert kind == "python" or config.DISABLE_JIT
        return -error.errno


def content(n):
    return np.random.default_rng(n).integers(0, 256, n, np.uint8)


# ---- pipes and sockets -----------------------------------------------------------------------------------------------


@contextmanager
def channel(kind, size=4096):
    """Give the reading and the writing end of a channel that holds little, and what closes them."""
    if kind == "pipe":
        reader, writer = os.pipe()
        assert fcntl.fcntl(writer, 1031, size) == size  # F_SETPIPE_SZ
    elif kind == "unix":
        ends = socket.socketpair()
        ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        reader, writer = (end.detach() for end in ends)
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            connection = socket.create_connection(server.getsockname())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            reader, writer = server.accept()[0].detach(), connection.detach()
    ends = {reader, writer}

    def close(fd):
        ends.remove(fd)
        os.close(fd)

    try:
        yield reader, writer, close
    finally:
        for fd in ends:
            os.close(fd)


def on_channels(names):
    cases = [(kind, name) for kind in ("pipe", "unix", "tcp") for name in names]
    return [(kind, name) for kind, name in cases if kind != "pipe" or not name.startswith(("recv", "send"))]


# ---- arguments -------------------------------------------------------------------------------------------------------


def arguments_of(name, buffer):
    """Return what follows the descriptor."""
    return (iovec_from_buffers([buffer]) if name in VECTOR else buffer, *([0] if name in AT_OFFSET else []))
