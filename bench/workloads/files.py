"""Workloads over files."""

from __future__ import annotations

from ..targets import Target
from .workload import Workload

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
