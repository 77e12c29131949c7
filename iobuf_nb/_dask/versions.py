"""Versions: a client and its workers must run the same code, or what travels between them may mean something else."""

from __future__ import annotations

import functools
import platform

import numba
import numpy as np

from .. import __version__


@functools.cache
def own() -> dict[str, str]:
    """Return the versions of this process: of iobuf_nb whole, of others without the last number."""
    found = {"Python": platform.python_version(), "numba": numba.__version__, "numpy": np.__version__}
    return {"iobuf_nb": __version__} | {name: ".".join(each.split(".")[:2]) for name, each in found.items()}


def require_same(wanted: dict[str, str], address: str) -> None:
    """Raise RuntimeError if a client that has the versions `wanted` cannot use this worker."""
    for name, version in own().items():
        if wanted.get(name) != version:
            raise RuntimeError(
                f"worker {address} has {name} {version}, and the client {wanted.get(name)}: install the same version "
                "on both"
            )
