"""Workloads of plain Python programs."""

from __future__ import annotations

from ..names import (
    BATCH,
    BUFFER,
    BY_HAND,
    BYTEARRAY,
    CHECKED,
    HELD,
    LEASE,
    PYTHON_VALUE,
    QUEUE,
    QUEUE_OF_BYTES,
    RING,
    SET_VALUE,
    SIMPLE_QUEUE,
    SIMPLE_QUEUE_OF_BYTES,
)
from ..targets import Target
from .workload import Workload

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
        Target(
            (CHECKED,),
            (SIMPLE_QUEUE_OF_BYTES,),
            "<= 1.1",
            "The fastest way without this library; finding the buffer of an index may cost 10 %.",
        ),
    ),
)
PYTHON_VALUES = Workload(
    "python",
    "Python values",
    f"One thread looks up {HELD} buffers of a checked pool in turn; the time of an empty loop is subtracted.",
    "What does it cost to find the buffer of an index?",
    "ns",
    (Target((PYTHON_VALUE,), (), "<= 30", "It should cost less than the get before it."),),
)
PYTHON_WRITES = Workload(
    "python",
    "Python writes",
    f"One thread copies {BUFFER} bytes into each of {HELD} buffers in turn, or of {HELD} bytearrays.",
    "What does checking add to copying?",
    "ns",
    (Target((SET_VALUE,), (BYTEARRAY,), "<= 1.5", "Checks of index and size may add half of a plain copy."),),
)
PYTHON_LEASES = Workload(
    "python",
    "Python leases",
    "One thread gets a buffer of a checked pool and puts it back, through a with block or by hand.",
    "What does a with block cost?",
    "ns",
    (Target((LEASE,), (BY_HAND,), "<= 1.5", "Safety after an error may add half; at more, users would do without."),),
)
