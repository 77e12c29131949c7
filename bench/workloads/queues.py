"""Workloads of queues in coroutines."""

from __future__ import annotations

from ..names import ASYNCIO_QUEUE, ASYNCIO_QUEUE_BATCHES, BATCH, QUEUE_TO_ASYNCIO, ROOM
from ..targets import Target
from .workload import Workload

TO_ASYNCIO = Workload(
    "queues",
    "Queue to asyncio",
    f"A thread puts items, {BATCH} at a time into a `BoundedQueue` of {ROOM}, or hands each, or so many at a time, to "
    "`call_soon_threadsafe` for an unbounded `asyncio.Queue`; a coroutine gets them, in bulk where it can.",
    "How fast do items get from a thread to a coroutine?",
    "us",
    (
        Target(
            (QUEUE_TO_ASYNCIO,),
            (ASYNCIO_QUEUE,),
            "<= 0.2",
            "The usual way calls into the event loop for each item: five times as many should get through in bulk.",
        ),
        Target(
            (QUEUE_TO_ASYNCIO,),
            (ASYNCIO_QUEUE_BATCHES,),
            "<= 1.0",
            "Batches by hand spare most of those calls; a bounded queue should keep up with them.",
        ),
    ),
)
