"""The cluster on which both sides run: two processes of one thread each, on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

WORKERS = 2  # and so many threads where a side has no cluster

PACKAGES = {"distributed": "all", "pandas": "dask.dataframe"}  # and what needs each


def missing(package: str) -> list[str]:
    """Return why what needs a package is not measured, or an empty list if it is there."""
    if importlib.util.find_spec(package):
        return []
    return [f"{PACKAGES[package]}: there is no {package} (pip install 'iobuf-nb[bench]')"]


def versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    return {name: importlib.metadata.version(name) for name in PACKAGES if not missing(name)}


@contextmanager
def new_workers(count: int) -> Iterator[Any]:
    """Yield a client of a new cluster of `count` processes."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def two_workers() -> Any:
    """Return a context with the client that is open already, or one of two new workers: parts of a run share them."""
    from distributed import default_client

    try:
        return nullcontext(default_client())
    except ValueError:  # there is none
        return new_workers(WORKERS)
