"""Workloads of kernels over queues and pools."""

from __future__ import annotations

import statistics

from ..names import (
    BATCH,
    BUFFER,
    CHECKED,
    CROSSBEAM,
    FLOOR,
    HELD,
    ITEMS,
    MAGAZINE,
    MAGAZINE_256,
    MAGAZINE_ALONE,
    MEMPOOL,
    POOL,
    RING,
    ROOM,
    RTE_RING,
    STACK,
    STATS,
    VYUKOV,
    WAITING_CHECKED,
    WAITING_POOL,
    WAITING_RING,
)
from ..peers import PEERS
from ..targets import Choice, Target
from .workload import Workload

MPMC = tuple(peer.name for peer in PEERS if peer.mpmc and peer.name != CROSSBEAM)
BEST_QUEUE = Choice("best of the C and C++ queues", MPMC, min)
MEDIAN_QUEUE = Choice("median of the C and C++ queues", MPMC, statistics.median)

ALONE = Workload(
    "alone",
    "W1 alone",
    f"One thread gets one of {ITEMS} items and puts it back.",
    "What do a get and a put cost without contention?",
    "ns",
    (
        Target(
            (RING, POOL),
            (BEST_QUEUE, CROSSBEAM),
            "<= 1.0",
            "Code compiled by numba should match the best queue in C, C++ and Rust.",
        ),
        Target(
            (STATS,),
            (CHECKED,),
            "<= 3",
            "Two more locked instructions, and a third at times: it is for services that can spare them.",
        ),
        Target(
            (MAGAZINE,),
            (MEMPOOL,),
            "<= 0.3",
            "Both cache items per thread; ours is inlined into the kernel and aims at a third of the time.",
        ),
        Target(
            (MAGAZINE,),
            (STACK,),
            "<= 1.3",
            "A stack without atomics is the least a private cache can cost; letting others steal may add 30 %.",
        ),
        Target(
            (RING,),
            (VYUKOV,),
            "<= 1.1",
            "Vyukov's queue blocks when a thread stops half-way; being lock-free may cost 10 %.",
        ),
        Target(
            (POOL, WAITING_POOL),
            (FLOOR,),
            "<= 1.6",
            "A get and a put need a compare-and-swap each; all the rest may add 60 %.",
        ),
        Target(
            (CHECKED, WAITING_CHECKED),
            (FLOOR,),
            "<= 2.5",
            "Checking the owner adds a store and a third compare-and-swap.",
        ),
    ),
)
TOGETHER = Workload(
    "together",
    "W2 together",
    "The same on several threads at once, all on one pool.",
    "What does contention cost?",
    "ns",
    (
        Target((POOL,), (BEST_QUEUE, CROSSBEAM), "<= 1.0", "As in W1: contention should hurt it no more than others."),
        Target(
            (CHECKED,),
            (POOL,),
            "<= 1.5",
            "An owner word belongs to one buffer, which one thread has: it should add no contention.",
        ),
        Target(
            (RING,),
            (MEDIAN_QUEUE,),
            "<= 0.25",
            "Backing off after a conflict should make it four times as fast as a typical queue.",
        ),
        Target((RING,), (VYUKOV,), "< 1", "Under contention, being lock-free should cost nothing on the same atomics."),
        Target((MAGAZINE,), (MEMPOOL,), "<= 0.4", "Both serve nearly every call from the thread's own cache."),
        Target(
            (MAGAZINE_ALONE,),
            (MAGAZINE,),
            ">= 0.9",
            "Magazines share nothing on most calls: n threads should do nearly n times the work of one.",
            per_thread=True,
        ),
    ),
)
TRANSFER = Workload(
    "transfer",
    "W3 transfer",
    f"One thread puts items into a queue of {ROOM}, another gets them.",
    "How fast do items pass from thread to thread?",
    "ns",
    (
        Target(
            (RING, WAITING_RING),
            (BEST_QUEUE,),
            "<= 1.0",
            "This is what a queue is for: none in C or C++ should be faster, retrying or waiting.",
        ),
    ),
)
BULK = Workload(
    "bulk",
    "W4 bulk",
    f"One thread gets {BATCH} items with one call and puts them back with another.",
    "What does an item cost in bulk?",
    "ns",
    (
        Target(
            (POOL,),
            (RTE_RING,),
            "<= 1.1",
            "Both move a batch with one compare-and-swap.",
        ),
        Target(
            (CHECKED,),
            (RTE_RING,),
            "<= 6",
            "Each buffer has an owner word besides, to be looked at and written at both ends.",
        ),
        Target(
            (MAGAZINE, MAGAZINE_256),
            (MEMPOOL,),
            "<= 2",
            "Both copy the batch out of the thread's own cache and back; others may steal from ours alone.",
        ),
    ),
)
EMPTY = Workload(
    "empty",
    "W5 empty",
    "One thread tries to get an item from an empty pool.",
    "What does a failing get cost?",
    "ns",
    (
        Target((RING, POOL), (BEST_QUEUE,), "<= 1.2", "Finding nothing takes a few loads on either side."),
        Target((MAGAZINE,), (BEST_QUEUE,), "<= 60", "It must look into all other magazines, too, and agree with them."),
    ),
)
HOLD = Workload(
    "hold",
    "W6 hold",
    f"Each thread gets {HELD} items one by one, then puts them back.",
    "What if a thread holds many items at once?",
    "ns",
    (
        Target((POOL,), (BEST_QUEUE, CROSSBEAM), "<= 1.0", "As in W1: match the best queue."),
        Target(
            (MAGAZINE, MAGAZINE_256),
            (MEMPOOL,),
            "<= 1.0",
            f"rte_mempool's cache of 256 takes back all {HELD}; so does a magazine of the default size, 64.",
        ),
    ),
)
BUFFERS = Workload(
    "buffers",
    "W7 buffers",
    f"One thread gets a buffer, writes {BUFFER} bytes and passes it on; another reads it and puts it back.",
    "How fast do buffers go round between two threads?",
    "ns",
    (Target((POOL,), (BEST_QUEUE,), "<= 1.0", "The round trip should take no longer than with the best queue."),),
)
