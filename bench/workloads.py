"""The table of workloads: what each one does, the question it answers, its targets, and why those targets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .names import (
    BATCH,
    BUFFER,
    CHECKED,
    FLOOR,
    HELD,
    ITEMS,
    MAGAZINE,
    MAGAZINE_256,
    MAGAZINE_ALONE,
    MEMPOOL,
    POOL,
    QUEUE,
    QUEUE_OF_BYTES,
    RING,
    ROOM,
    RTE_RING,
    SIMPLE_QUEUE,
    SIMPLE_QUEUE_OF_BYTES,
    STACK,
    VYUKOV,
    WAITING_CHECKED,
    WAITING_POOL,
    WAITING_RING,
)
from .peers import PEERS
from .targets import Choice, Target


@dataclass(frozen=True)
class Workload:
    """A row of the table; its group is the word that selects it on the command line."""

    group: str
    name: str
    does: str
    question: str
    unit: str
    targets: tuple[Target, ...] = ()


MPMC = tuple(peer.name for peer in PEERS if peer.mpmc)
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
            (RING, POOL), (BEST_QUEUE,), "<= 1.0", "Code compiled by numba should match the best queue in C or C++."
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
            "<= 1.5",
            "rte_ring moves a batch with one compare-and-swap; a pool may take half as much again.",
        ),
        Target(
            (MAGAZINE, MAGAZINE_256),
            (MEMPOOL,),
            "<= 1.0",
            "Both copy the batch out of the thread's own cache and back.",
        ),
    ),
)
EMPTY = Workload(
    "empty",
    "W5 empty",
    "One thread tries to get an item from an empty pool.",
    "What does a failing get cost?",
    "ns",
    (Target((RING, POOL), (BEST_QUEUE,), "<= 1.2", "Finding nothing takes a few loads on either side."),),
)
HOLD = Workload(
    "hold",
    "W6 hold",
    f"Each thread gets {HELD} items one by one, then puts them back.",
    "What if more items are held than a magazine of 32 can take back?",
    "ns",
    (
        Target((POOL,), (BEST_QUEUE,), "<= 1.0", "As in W1: match the best queue."),
        Target(
            (MAGAZINE, MAGAZINE_256),
            (MEMPOOL,),
            "<= 1.0",
            f"rte_mempool's cache of 256 takes back all {HELD}; a magazine of 256 does too, the default one does not.",
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

PYTHON_ALONE = Workload(
    "python",
    "Python alone",
    "W1 from Python.",
    "What do a get and a put cost a Python program?",
    "ns",
    (
        Target((CHECKED, RING), (SIMPLE_QUEUE,), "<= 1.0", "The standard library's fastest queue, written in C."),
        Target((CHECKED, RING), (QUEUE,), "<= 0.05", "The usual queue, written in Python: C should take a twentieth."),
    ),
)
PYTHON_TOGETHER = Workload(
    "python",
    "Python together",
    "W2 from Python, on two threads.",
    "Does that hold when two threads share the GIL?",
    "ns",
    (
        Target((CHECKED,), (SIMPLE_QUEUE,), "<= 1.0", "As on one thread."),
        Target((CHECKED,), (QUEUE,), "<= 0.05", "As on one thread."),
    ),
)
PYTHON_BULK = Workload(
    "python",
    "Python bulk",
    "W4 from Python; a queue without bulk calls takes its items one by one.",
    "What do bulk calls save a Python program?",
    "ns",
    (Target((CHECKED,), (SIMPLE_QUEUE,), "<= 1.0", f"One call for {BATCH} items should beat {BATCH} calls."),),
)
PYTHON_BUFFERS = Workload(
    "python",
    "Python buffers",
    "W7 from Python; queues of the standard library recycle bytearrays instead.",
    "How fast do buffers go round between Python threads?",
    "ns",
    (
        Target(
            (CHECKED,),
            (QUEUE_OF_BYTES,),
            "<= 0.3",
            "The usual way; nearly a third of its time goes into writing and reading the bytes.",
        ),
        Target((CHECKED,), (SIMPLE_QUEUE_OF_BYTES,), "<= 1.0", "The fastest way without this library."),
    ),
)

STARTUP = Workload(
    "startup",
    "Startup",
    "A new process imports the package and uses a pool; an earlier one has filled numba's cache.",
    "How long does a new process take to its first get?",
    "s",
    (
        Target(
            ("first kernel over a pool", "first get and put from Python"),
            (),
            "<= 0.3",
            "A script should start without a noticeable pause.",
        ),
    ),
)
WAIT = Workload(
    "wait",
    "Wait",
    "From a put to the return of the parked get that it wakes in another thread.",
    "How fast does a parked thread wake up?",
    "us",
    (
        Target(
            ("BufferPool",),
            ("threading.Condition", QUEUE, SIMPLE_QUEUE),
            "<= 1.0",
            "A futex should wake a thread no later than the standard library's locks.",
        ),
        Target(
            ("BufferPool",),
            ("Backoff only",),
            "<= 1.0",
            "Backoff only sleeps and tries again, as the Go package does; parking should be faster.",
        ),
    ),
)
WAIT_HIGH = Workload(
    "wait", "Wait, 99 %", "The same wake-ups, 99th percentile.", "How slow are the slowest wake-ups?", "us"
)
WAIT_IDLE = Workload(
    "wait", "Wait, idle", "A get stays parked for a second.", "What does waiting cost the processor?", "% of a core"
)
SCAN = Workload(
    "scan",
    "Scan",
    "Count the bytes of a file of 2 GiB (quick: 256 MiB) in the page cache.",
    "Is the pipeline faster than a plain loop?",
    "GB/s",
    (
        Target(
            ("scan",),
            ("np.memmap, one thread", "readinto, one thread"),
            ">= 1.0",
            "On all processors it should be no slower than one thread with the same kernel.",
        ),
    ),
)
SCAN_MEMORY = Workload(
    "scan",
    "Scan, memory",
    "The growth of resident memory during a scan; its pool has 256 KiB for each processor.",
    "Does a scan need more memory than its pool?",
    "MiB",
)
STREAM = Workload(
    "stream",
    "Stream",
    "Sum, extremes and histogram of 4 GiB (quick: 256 MiB) of float32 in the page cache, on all processors.",
    "Is stream as fast as threads written by hand?",
    "GB/s",
    (
        Target(
            ("stream",),
            ("np.memmap by chunks", "np.memmap by parts", "np.fromfile", "pyarrow.memory_map"),
            ">= 1.0",
            "With the same kernel and threads, reading through a pool should be no slower.",
        ),
    ),
)
STREAM_DISK = Workload(
    "stream",
    "Stream, disk",
    "The same file from the disk, through a kernel that does next to nothing.",
    "Does stream keep the disk busy?",
    "GB/s",
    (
        Target(("stream",), ("dd",), ">= 0.9", "dd does nothing but read, so the disk is the limit; 10 % for noise."),
        Target(("stream, direct",), ("dd, direct",), ">= 0.9", "The same past the page cache."),
    ),
)
STREAM_MEMORY = Workload(
    "stream",
    "Stream, memory",
    "The growth of resident memory during a stream; its pool has 256 KiB for each processor.",
    "Does a stream need more memory than its pool?",
    "MiB",
)
COPY = Workload(
    "copy",
    "Copy",
    "Copy a file of 2 GiB (quick: 256 MiB) from the page cache to the disk.",
    "Is copy as fast as cp, making the same promise?",
    "GB/s",
    (
        Target(
            ("copy, no sync", "copy, verified, no sync"),
            ("cp",),
            ">= 0.9",
            "None of them waits for the disk; 10 % for noise and for verifying.",
        ),
        Target(
            ("copy", "copy, verified"),
            ("cp and sync",),
            ">= 0.9",
            "All of them return when the data is on the disk.",
        ),
        Target(
            ("copy, verified",),
            ("cp",),
            ">= 0.9",
            "Ideally a copy that is verified and synced costs no more than cp.",
        ),
    ),
)
COPY_MEMORY = Workload(
    "copy",
    "Copy, memory",
    "The same in /dev/shm.",
    "Is it as fast where there is no disk to wait for?",
    "GB/s",
    (
        Target(
            ("copy", "copy, verified"), ("cp",), ">= 0.9", "There is nothing to sync here, so the measure is cp itself."
        ),
    ),
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        *(ALONE, TOGETHER, TRANSFER, BULK, EMPTY, HOLD, BUFFERS),
        *(PYTHON_ALONE, PYTHON_TOGETHER, PYTHON_BULK, PYTHON_BUFFERS),
        STARTUP,
        *(WAIT, WAIT_HIGH, WAIT_IDLE),
        *(SCAN, SCAN_MEMORY),
        *(STREAM, STREAM_DISK, STREAM_MEMORY),
        *(COPY, COPY_MEMORY),
    )
}
