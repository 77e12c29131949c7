"""Workloads of sockets."""

from __future__ import annotations

from ..names import RECVMMSG, RECVMMSG_C, RECVMMSG_GRO, RECVMSG_INTO
from ..targets import Target
from .workload import Workload

UDP = Workload(
    "sockets",
    "Sockets, UDP receive",
    "Datagrams of 64 bytes wait in a socket on loopback; they are received, 64 at a time where the side can, with the "
    "addresses of their senders, and the first number in each is added up.",
    "How many packets a second does a kernel take in?",
    "million/s",
    (
        Target((RECVMMSG,), (RECVMMSG_C,), ">= 0.9", "Addresses become records, beside what Linux does anyway."),
        Target((RECVMMSG, RECVMMSG_GRO), (RECVMSG_INTO,), ">= 20", "A kernel calls no Python for a packet."),
    ),
)
SOCKETS = (UDP,)
