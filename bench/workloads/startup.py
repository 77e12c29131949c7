"""Workloads of new processes."""

from __future__ import annotations

from ..names import (
    FIRST_GET_PUT,
    FIRST_KERNEL,
    FIRST_MAGAZINE,
    FIRST_POOL,
    FIRST_SCAN,
    IMPORT,
    KERNEL_CACHED,
    KERNEL_NEW,
    warmed,
)
from ..targets import Target
from .workload import Workload

STARTUP = Workload(
    "startup",
    "Startup",
    "A new process that has imported numba imports the package and uses a pool; earlier ones have filled the cache of "
    "compiled code. A new kernel is one that they have not compiled; it is counted alone.",
    "How long does a new process take to its first get?",
    "CPU s",
    (
        Target((IMPORT,), (), "<= 0.06", "An import compiles nothing."),
        Target(
            (KERNEL_CACHED, FIRST_GET_PUT),
            (),
            "<= 0.3",
            "A script should start without a noticeable pause.",
        ),
        Target((KERNEL_NEW,), (), "<= 0.3", "Only the kernel itself is left to compile, as fast as any of numba's."),
    ),
)
FIRST_USE = Workload(
    "startup",
    "First use",
    "The same with an empty cache; for a kernel or magazine over a pool, one that holds the pool; warmed: one that "
    "`python -m iobuf_nb warm` filled. A scan is a whole process.",
    "How long does a new user wait for the compiler?",
    "CPU s",
    (
        Target((FIRST_POOL,), (), "<= 2.5", "The first two lines of every program: a pause, not a wait."),
        Target((FIRST_KERNEL,), (), "<= 1.5", "Only what kernels have and Python does not is left to compile."),
        Target((FIRST_MAGAZINE,), (), "<= 2.0", "It adds deques and stealing to what a pool has compiled."),
        Target((FIRST_SCAN,), (), "<= 5", "The first command of many users, imports and threads included."),
        Target(
            tuple(map(warmed, (FIRST_POOL, FIRST_KERNEL, FIRST_MAGAZINE, FIRST_SCAN))),
            (),
            "<= 0.5",
            "With ready-made code there is nothing to compile, but for the user's own kernel.",
        ),
    ),
)
