"""The tree of a stream's tasks: one for each share, and above them those that merge the results of neighbours."""

from __future__ import annotations

import pickle
import uuid
from typing import Any

from distributed import Client, Future

from .plan import Task
from .tasks import Job, merge, run_share
from .travel import dumps
from .versions import own as own_versions

_FAN_IN = 32  # results that one task merges: more tasks cost more than the states it holds
_LARGE_JOB = 1 << 14  # bytes that each worker rather fetches once than with each task


def grown(client: Client, job: Job, tasks: list[Task], retries: int) -> tuple[Future, dict[Any, Task], list[Future]]:
    """Send all tasks; return the future of the whole, the tasks by their keys, and the futures of the shares.

    The cluster keeps the result of a share only as long as somebody has its future, or it is yet to be merged.
    """
    token = uuid.uuid4().hex
    sent: Any = pickle.dumps((own_versions(), dumps(job)))  # as bytes: what Dask finds in a dict costs it time
    if len(sent) > _LARGE_JOB:  # a task, so that it is made again if the worker that has it dies
        sent = client.submit(bytes, sent, key=f"job-{token}", priority=1)
    keys = [f"stream-{token}-{k}" for k in range(len(tasks))]
    level = shares = client.map(
        run_share, range(len(tasks)), [dumps(tuple(task)) for task in tasks],
        key=keys, pure=False, retries=retries or None, sent=sent,
    )  # fmt: skip
    try:
        height = 0
        while len(level) > 1:
            height += 1
            level = [
                # Before further shares: else the states of all shares would be there at once.
                client.submit(
                    merge, sent, *level[k : k + _FAN_IN],
                    key=f"merge-{token}-{height}-{k}", pure=False, priority=1,
                )
                for k in range(0, len(level), _FAN_IN)
            ]  # fmt: skip
    except BaseException:  # such as Ctrl-C, whose traceback would keep the futures
        client.cancel(shares, force=True)
        raise
    return level[0], dict(zip(keys, tasks, strict=True)), shares
