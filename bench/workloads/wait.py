"""Workloads of waiting threads."""

from __future__ import annotations

from ..names import QUEUE, SIMPLE_QUEUE
from ..targets import Target
from .workload import Workload

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
