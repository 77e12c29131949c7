"""Workloads of processes that share pools and channels."""

from __future__ import annotations

from ..names import (
    AFTER_KILL,
    ATTACH,
    CHANNEL,
    CHANNEL_IN_KERNELS,
    CHECKED,
    FASTER_FIFO,
    ICEORYX2,
    MP_QUEUE,
    NEVER_WAITED,
    PIPE,
    PIPE_BOTH_WAYS,
    PYZMQ,
    SHARED,
)
from ..targets import Choice, Target
from .workload import Workload

PEERS = MP_QUEUE, PIPE, PIPE_BOTH_WAYS, FASTER_FIFO, PYZMQ, ICEORYX2
BEST_PEER = Choice("best peer, from Python", PEERS, max)

PROCESS_PAIRS = Workload(
    "processes",
    "Processes, alone",
    "One thread gets and puts in a kernel, in a pool that processes share and in one that they do not.",
    "What does sharing cost who does not use it?",
    "ns",
    (Target((SHARED,), (CHECKED,), "<= 1.1", "One should not have to choose between speed and sharing."),),
)
PROCESS_KILLED = Workload(
    "processes",
    "Processes, after a kill",
    "The same in two shared pools; in one of them a process was killed while it was parked in a get.",
    "What does a waiter leave behind that is killed?",
    "ns",
    (Target((AFTER_KILL,), (NEVER_WAITED,), "<= 1.05", "Nothing may stay raised that makes puts look for waiters."),),
)
ONE_WAY = Workload(
    "processes",
    "Processes, 64 KiB one way",
    "A process copies messages of 64 KiB into what it sends; another adds up all of each message that comes.",
    "How fast do large messages go from one process to another?",
    "GB/s",
    (
        Target((CHANNEL,), (MP_QUEUE,), ">= 6", "It pickles, and copies through a pipe, in two threads."),
        Target((CHANNEL,), (PIPE, PYZMQ), ">= 2", "They copy into Linux and out of it."),
        Target((CHANNEL,), (PIPE_BOTH_WAYS, FASTER_FIFO), ">= 1.5", "They copy twice, too, the latter without Linux."),
        Target((CHANNEL,), (ICEORYX2,), ">= 1.0", "It hands memory on without a copy, as we do."),
        Target((CHANNEL_IN_KERNELS,), (MP_QUEUE,), ">= 25", "In kernels only the copy and the sum are left."),
        Target((CHANNEL_IN_KERNELS,), (BEST_PEER,), ">= 3", "What kernels are for."),
    ),
)
ONE_WAY_SMALL = Workload(
    "processes",
    "Processes, 4 KiB one way",
    "The same with messages of 4 KiB.",
    "And where the calls count more than the copies?",
    "GB/s",
    (Target((CHANNEL_IN_KERNELS,), (BEST_PEER,), ">= 10", "A kernel calls no Python for a message."),),
)
ROUND_TRIP_TARGETS = (
    Target((CHANNEL,), (PIPE_BOTH_WAYS,), "<= 1.0", "A futex should wake a process no later than a pipe does."),
    Target((CHANNEL,), (ICEORYX2,), "<= 0.5", "It wakes by a socket."),
)
ROUND_TRIP = Workload(
    "processes",
    "Processes, round trip",
    "A message of 64 bytes to another process, which copies it out, and the same back, from Python: the median.",
    "How long does a process wait for an answer?",
    "us",
    ROUND_TRIP_TARGETS,
)
ROUND_TRIP_APART = Workload(
    "processes",
    "Processes, round trip apart",
    "The same, where each process has a processor of its own.",
    "And where both run at once?",
    "us",
    ROUND_TRIP_TARGETS,
)
PROCESS_START = Workload(
    "processes",
    "Processes, attach",
    "A new process unpickles a shared pool and gets a buffer; earlier ones have filled the cache of compiled code.",
    "How long does a worker take until it works, once it has imported the package?",
    "CPU s",
    (Target((ATTACH,), (), "<= 0.5", "A pool of workers should start without a noticeable pause."),),
)
PROCESSES = PROCESS_PAIRS, PROCESS_KILLED, ONE_WAY, ONE_WAY_SMALL, ROUND_TRIP, ROUND_TRIP_APART, PROCESS_START
