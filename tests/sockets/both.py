"""Functions of `sockets` and `events` from Python and from kernels, and pairs of sockets for them."""

import inspect
import itertools
import os
import socket
from contextlib import contextmanager

import numpy as np
import pytest
from numba import config, njit

from iobuf_nb import events, sockets

PYTHON_ONLY = {"address_of", "to_python", "controls_of"}

FUNCTIONS = {name: getattr(module, name) for module in (sockets, events) for name in module.__all__ if name.islower()}


def make_kernel(name):
    """Return a kernel that calls a function with all its arguments."""
    names = ", ".join(inspect.signature(FUNCTIONS[name]).parameters)
    return njit(eval(f"lambda {names}: function({names})", {"function": FUNCTIONS[name]}), nogil=True)


KERNELS = {name: make_kernel(name) for name in FUNCTIONS if name not in PYTHON_ONLY}
CALLS = {"python": FUNCTIONS, "kernel": KERNELS}


def call_on(kind, name, *arguments):
    """Call a function: what it returns, or -errno as kernels give it."""
    try:
        return CALLS[kind][name](*arguments)
    except OSError as error:
        assert kind == "python" or config.DISABLE_JIT
        return -error.errno


def new_address():
    return np.zeros(1, sockets.ADDRESS_DTYPE)[0]


def new_messages(n):
    return np.zeros(n, sockets.MESSAGE_DTYPE)


# ---- sockets ---------------------------------------------------------------------------------------------------------


KINDS = ["inet", "inet6", "unix", "abstract"]
_number = itertools.count()


def place(kind, folder):
    """Return the family and an address that is free."""
    if kind == "inet":
        return socket.AF_INET, ("127.0.0.1", 0)
    if kind == "inet6":
        return socket.AF_INET6, ("::1", 0)
    name = f"iobuf_nb-{os.getpid()}-{next(_number)}"
    return socket.AF_UNIX, b"\0" + name.encode() if kind == "abstract" else str(folder / name)


def bound(kind, folder, type_=socket.SOCK_DGRAM):
    """Return a socket that is bound."""
    family, address = place(kind, folder)
    made = socket.socket(family, type_)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        if kind != "inet6":
            raise
        pytest.skip(f"this system has no IPv6: {error}")
    return made


@contextmanager
def two(kind, folder):
    """Give two sockets for datagrams, both bound."""
    with bound(kind, folder) as one, bound(kind, folder) as other:
        yield one, other
