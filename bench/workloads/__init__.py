"""The table of workloads: what each one does, the question it answers, its targets, and why those targets."""

from __future__ import annotations

from .cluster import CLUSTER
from .files import COPY, COPY_MEMORY, SCAN, SCAN_MEMORY
from .kernels import ALONE, BUFFERS, BULK, EMPTY, HOLD, TOGETHER, TRANSFER
from .processes import PROCESSES
from .python import (
    PYTHON_ALONE,
    PYTHON_BUFFERS,
    PYTHON_BULK,
    PYTHON_LEASES,
    PYTHON_TOGETHER,
    PYTHON_VALUES,
    PYTHON_WRITES,
)
from .queues import TO_ASYNCIO
from .sockets import SOCKETS
from .startup import FIRST_USE, STARTUP
from .streams import STREAMS
from .wait import WAIT, WAIT_HIGH, WAIT_IDLE

WORKLOADS = {
    workload.name: workload
    for workload in (
        *(ALONE, TOGETHER, TRANSFER, BULK, EMPTY, HOLD, BUFFERS),
        *(PYTHON_ALONE, PYTHON_TOGETHER, PYTHON_BULK, PYTHON_BUFFERS),
        *(PYTHON_VALUES, PYTHON_WRITES, PYTHON_LEASES),
        TO_ASYNCIO,
        *(STARTUP, FIRST_USE),
        *(WAIT, WAIT_HIGH, WAIT_IDLE),
        *(SCAN, SCAN_MEMORY),
        *STREAMS,
        *(COPY, COPY_MEMORY),
        *PROCESSES,
        *SOCKETS,
        *CLUSTER,
    )
}
