"""Streams and pools on a Dask cluster; needs the extra ``dask``: ``pip install 'iobuf-nb[dask]'``.

`stream` runs a kernel over files on all workers of a cluster, as `iobuf_nb.stream` does in one process. `PoolPlugin`
gives each worker process a pool, and `worker_pool` finds it in a task.

Examples
--------
>>> from distributed import Client
>>> from iobuf_nb.dask import PoolPlugin, worker_pool
>>> def task(number):
...     with worker_pool().lease() as buffer:
...         buffer[:] = number
...         return int(buffer.sum())
>>> with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
...     _ = client.register_plugin(PoolPlugin(4, 1024))
...     client.gather(client.map(task, range(4)))
[0, 1024, 2048, 3072]
"""

from ._dask.plugin import PoolPlugin, worker_pool
from ._dask.stream import stream

__all__ = ["PoolPlugin", "stream", "worker_pool"]
