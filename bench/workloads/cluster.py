"""Workloads on a Dask cluster."""

from __future__ import annotations

from ..names import (
    DASK_ARRAY,
    DASK_BAG,
    DASK_DATAFRAME,
    DASK_MAP,
    FIRST_TASK,
    FIRST_TASK_CPU,
    ON_CLUSTER,
    STREAMED,
)
from ..targets import Target
from .workload import Workload

CLUSTER_ARRAYS = Workload(
    "cluster",
    "Cluster, arrays",
    "Sum and histogram of 4 GiB of float32 in 64 files (quick: 256 MiB) in the page cache, on a local cluster of two "
    "processes with one thread each.",
    "Are kernels on a cluster faster than its arrays, and what does the cluster cost?",
    "GB/s",
    (
        Target((ON_CLUSTER,), (DASK_ARRAY,), ">= 3", "One pass of a kernel, in place of numpy's over arrays."),
        Target((ON_CLUSTER,), (STREAMED,), ">= 0.8", "The local stream has two threads: tasks may cost a fifth."),
    ),
)
CLUSTER_LINES = Workload(
    "cluster",
    "Cluster, lines",
    "Count the lines of 2 GiB of text in 16 files (quick: 64 MiB), likewise.",
    "And than its bags?",
    "GB/s",
    (Target((ON_CLUSTER,), (DASK_BAG,), ">= 5", "No Python for a line."),),
)
CLUSTER_GROUPS = Workload(
    "cluster",
    "Cluster, groups",
    "How often each of 500 names comes in the lines ``name;value`` of the same text, and the sum of its values.",
    "And than its tables?",
    "GB/s",
    (Target((ON_CLUSTER,), (DASK_DATAFRAME,), ">= 1.5", "No column is made of what is added up at once."),),
)
CLUSTER_TASKS = Workload(
    "cluster",
    "Cluster, tasks",
    "1000 tasks of 4 KiB (quick: 200) through a kernel that does next to nothing, with their merging, and as many "
    "calls of an empty function by Dask; the time for each.",
    "What does a task of a stream cost over one of Dask's?",
    "us",
    (Target((ON_CLUSTER,), (DASK_MAP,), "<= 1.2", "Dask's own share should be most of it."),),
)
CLUSTER_FIRST = Workload(
    "cluster",
    "Cluster, first task",
    "Count the lines of a small file on a new worker, with its imports; earlier ones have filled the cache of compiled "
    "code. Seconds from call to result, and of the worker's processor.",
    "How long does a worker take until it works?",
    "s",
    (
        Target(
            (FIRST_TASK, FIRST_TASK_CPU), (), "<= 1.0", "Clusters grow and shrink: a new worker should help at once."
        ),
    ),
)
CLUSTER = CLUSTER_ARRAYS, CLUSTER_LINES, CLUSTER_GROUPS, CLUSTER_TASKS, CLUSTER_FIRST
