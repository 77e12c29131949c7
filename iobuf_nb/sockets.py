"""Sockets: the same functions in Python and in kernels, over addresses and messages as records.

All functions follow the rules of `syscalls`:

- In a kernel they return a count or a descriptor, or -errno; in Python an error is raised as an `OSError`. Invalid
  arguments raise TypeError or ValueError in Python before anything is done; in kernels their types are checked when the
  kernel is compiled. With the JIT off (``NUMBA_DISABLE_JIT``) kernels are Python, and errors are raised there too.
- They block as their manual pages say, without the GIL. A call interrupted by a signal is repeated after Python's
  handlers have run, unless a handler raises. They are thread-safe, as the system calls are.
- `fd` is a file descriptor; in Python also a socket. Sockets are made, bound and given to kernels in Python:
  ``kernel(server.fileno())``. The object must be kept as long as the kernel uses the descriptor.

An `address` is an entry of an array of `ADDRESS_DTYPE`: ``addresses = np.zeros(n, ADDRESS_DTYPE)``, and
``addresses[k]``. Kernels read its fields, compare it (`same_address`), count by its bytes (`text.ByteTable`), and send
to it; `address_of` and `to_python` translate. The fields are `family` (such as AF_INET, 0 for none), `port`, `scope`
(the interface of a link-local IPv6 address), and `host`, of which `length` bytes are used: 4 of IPv4, 16 of IPv6, or a
path. The others are 0. In a kernel an entry does not keep its array alive, and numba frees an array that the kernel
made after the last use of its name: make arrays of addresses and messages in Python.

Messages are an array of `MESSAGE_DTYPE`, allocated once: `recvmmsg` and `sendmmsg` take one for each buffer, and the
buffers by their indices in a pool. The fields are `length` in bytes; `flags`, such as MSG_TRUNC; `time_ns`, when it
came, with SO_TIMESTAMPNS; `segment`, the bytes of each datagram in it, with UDP_GRO; `control`, of which
`control_length` bytes are used; and `address`. No memory is kept by Linux after a call. Descriptors that came along
over a UNIX socket (SCM_RIGHTS) are open, and the caller's to close; all but `recvmsg` and `recvmmsg` refuse them.

Datagrams that are longer than the buffer are never cut in silence: `recvfrom` and `recvmsg` return -EMSGSIZE (in Python
`OSError`), and `recvmmsg` sets MSG_TRUNC in the message's `flags`.

Constants have the names and the values of Linux: AF_INET, AF_INET6, AF_UNIX; IPPROTO_TCP, TCP_NODELAY; MSG_CTRUNC,
MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_WAITFORONE; SHUT_RD, SHUT_WR, SHUT_RDWR;
SOCK_NONBLOCK; SOL_SOCKET, SO_BUSY_POLL, SO_ERROR, SO_KEEPALIVE, SO_RCVBUF, SO_RCVBUFFORCE, SO_REUSEADDR, SO_REUSEPORT,
SO_SNDBUF, SO_TIMESTAMPNS; SOL_UDP, UDP_GRO, UDP_SEGMENT. Others may be passed as numbers.

Linux only.
"""

from __future__ import annotations

import socket as _socket

from ._sockets.addresses import (
    ADDRESS_DTYPE,
    AF_INET,
    AF_INET6,
    AF_UNIX,
    address_of,
    same_address,
    to_python,
)
from ._sockets.connections import accept, close, connect, getsockopt, setsockopt, shutdown
from ._sockets.exchange import recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto
from ._sockets.messages import (
    MESSAGE_DTYPE,
    MSG_DONTWAIT,
    MSG_TRUNC,
    MSG_WAITFORONE,
    SO_TIMESTAMPNS,
    SOL_SOCKET,
    SOL_UDP,
    UDP_GRO,
    add_control,
    controls_of,
    find_control,
)

# As plain integers, which numba takes on every Python; those that the `socket` module lacks are Linux's.
MSG_PEEK, MSG_CTRUNC, MSG_WAITALL, MSG_NOSIGNAL = 0x02, 0x08, 0x100, 0x4000
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2
SOCK_NONBLOCK = int(getattr(_socket, "SOCK_NONBLOCK", 0o4000))
IPPROTO_TCP, TCP_NODELAY, UDP_SEGMENT = 6, 1, 103
SO_REUSEADDR, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE = 2, 4, 7, 8, 9
SO_REUSEPORT, SO_RCVBUFFORCE, SO_BUSY_POLL = 15, 33, 46

__all__ = [
    "ADDRESS_DTYPE",
    "AF_INET",
    "AF_INET6",
    "AF_UNIX",
    "IPPROTO_TCP",
    "MESSAGE_DTYPE",
    "MSG_CTRUNC",
    "MSG_DONTWAIT",
    "MSG_NOSIGNAL",
    "MSG_PEEK",
    "MSG_TRUNC",
    "MSG_WAITALL",
    "MSG_WAITFORONE",
    "SHUT_RD",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_NONBLOCK",
    "SOL_SOCKET",
    "SOL_UDP",
    "SO_BUSY_POLL",
    "SO_ERROR",
    "SO_KEEPALIVE",
    "SO_RCVBUF",
    "SO_RCVBUFFORCE",
    "SO_REUSEADDR",
    "SO_REUSEPORT",
    "SO_SNDBUF",
    "SO_TIMESTAMPNS",
    "TCP_NODELAY",
    "UDP_GRO",
    "UDP_SEGMENT",
    "accept",
    "add_control",
    "address_of",
    "close",
    "connect",
    "controls_of",
    "find_control",
    "getsockopt",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "same_address",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "to_python",
]
