"""What is installed: versions, the compiler and where its code is cached, numba's threads, C methods, extras."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from importlib.util import find_spec

import llvmlite
import numba
import numpy as np
from numba import config
from numba.core.registry import cpu_target

from .._jit import c_methods
from .._jit.cache import BASELINE, READY_MADE, builds, place_to_write
from .._jit.compile import FINGERPRINT, INTERPRETED
from .finding import Figure, Finding, note, ok, problem

# What pyproject.toml says.
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
OLDEST_NUMBA = (0, 61)
EXTRAS = {
    "compression": ("zstandard", "isal", "lz4"),
    "dask": ("distributed",),
    "notebooks": ("ipykernel", "ipywidgets", "matplotlib"),
    "progress": ("tqdm",),
    "remote": ("fsspec",),
    "uring": ("liburing",),
}


def python() -> Finding:
    """Examine the version of Python, and whether it has the GIL."""
    version = sys.version_info[:2]
    gil = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
    found = f"{platform.python_implementation()} {platform.python_version()}, {'with' if gil else 'without'} the GIL"
    figures: dict[str, Figure] = {"version": platform.python_version(), "gil": gil}
    if version < OLDEST_PYTHON:
        return problem(found, "It is too old.", f"Python {_dotted(OLDEST_PYTHON)} or newer", **figures)
    if version > NEWEST_PYTHON or sys.implementation.name != "cpython":
        tested = f"CPython {_dotted(OLDEST_PYTHON)} to {_dotted(NEWEST_PYTHON)}"
        return note(found, f"This library is tested with {tested}.", f"{tested}, if anything fails", **figures)
    return ok(found, **figures)


def packages() -> Finding:
    """Examine the versions of what this library is built on."""
    versions: dict[str, Figure] = {
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
    }
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if tuple(map(int, numba.__version__.split(".")[:2])) < OLDEST_NUMBA:
        return problem(found, "numba is too old.", f"pip install 'numba>={_dotted(OLDEST_NUMBA)}'", **versions)
    return ok(found, **versions)


def jit() -> Finding:
    """Examine whether kernels are compiled, and for which processor."""
    if INTERPRETED:
        return problem(
            "the JIT is off (NUMBA_DISABLE_JIT)",
            "Kernels run as plain Python, hundreds of times slower.",
            "unset NUMBA_DISABLE_JIT",
            processor=None,
        )
    triple, processor, _ = cpu_target.target_context.codegen().magic_tuple()
    chosen = ", as NUMBA_CPU_NAME says" if config.CPU_NAME else ""
    return ok(f"kernels are compiled for {processor} ({triple}){chosen}", processor=processor)


def cache() -> Finding:
    """Examine where compiled code is loaded from, and saved; before anything is compiled."""
    if INTERPRETED:
        return ok("not used: the JIT is off", entries=0, folders=[], ready_made=False, writable=None)
    found = builds(FINGERPRINT, cpu_target.target_context)
    entries = sum(found.values())
    ready_made = any(READY_MADE in folder for folder in found)
    loaded = " and ".join(f"{count} entries in {folder}" for folder, count in found.items()) or "cold: no entries"
    if ready_made:
        loaded += f" (of the wheel, for {BASELINE})"
    figures: dict[str, Figure] = {"entries": entries, "folders": list(found), "ready_made": ready_made}
    elsewhere = "export NUMBA_CACHE_DIR=FOLDER, of a folder that only you can write to"
    try:
        place = place_to_write()
    except OSError as error:
        if entries:
            means = "What is cached is used. What is missing is compiled by every process."
            return note(f"{loaded}; {error}", means, elsewhere, writable=None, **figures)
        means = "Every process compiles all that it uses, which takes seconds, and there are no C methods."
        remedy = f"{elsewhere}; in an image, run `python -m iobuf_nb warm` when it is built"
        return problem(f"{loaded}; {error}", means, remedy, writable=None, **figures)
    figures["writable"] = place
    loaded += f"; new ones go to {place}"
    if config.CACHE_DIR and os.path.dirname(place) != os.path.abspath(config.CACHE_DIR):
        means = f"NUMBA_CACHE_DIR={config.CACHE_DIR} is not used: it cannot be written, or others can write to it."
        return note(loaded, means, elsewhere, **figures)
    if not entries:
        means = "The first use of each part of the library is compiled, once, which takes seconds."
        return note(loaded, means, "python -m iobuf_nb warm", **figures)
    return ok(loaded, **figures)


def threading_layer() -> Finding:
    """Examine which of numba's threading layers runs ``prange``."""
    try:
        threads = numba.get_num_threads()  # the first such call also chooses the layer
        layer = numba.threading_layer()
    except (ValueError, ImportError) as error:
        means = "Kernels with parallel=True do not run; those of this library do."
        remedy = "unset NUMBA_THREADING_LAYER, or pip install tbb"
        return note(f"none: {_first_line(error)}", means, remedy, layer=None, threads=None)
    found = f"{layer}, {threads} threads"
    if layer == "workqueue":
        means = "A process in which two threads run kernels with parallel=True at once is aborted."
        return note(found, means, "pip install tbb, or one such thread at a time", layer=layer, threads=threads)
    return ok(found, layer=layer, threads=threads)


def own_c_methods() -> Finding:
    """Examine whether short methods are C functions; after objects of this library were used."""
    if c_methods.WHY_NOT is None and any(method.compiled for method in c_methods.METHODS):
        return ok("in use: short methods are C functions, called from Python in some 20 ns", active=True)
    return note(
        f"not in use: {c_methods.WHY_NOT or 'no method was called'}",
        "Calls from Python take microseconds instead of some 20 ns."
        + ("" if INTERPRETED else " Kernels are as fast as ever."),
        "a folder for compiled code that can be written, CPython with the GIL, and the JIT",
        active=False,
    )


def extras() -> Finding:
    """Examine which optional packages are there."""
    missing = {
        extra: [name for name in names if not find_spec(name)]
        for extra, names in EXTRAS.items()
        if not all(map(find_spec, names))
    }
    there = [extra for extra in EXTRAS if extra not in missing]
    figures: dict[str, Figure] = {"installed": there, "missing": list(missing)}
    found = f"installed: {', '.join(there) or 'none'}"
    if not missing:
        return ok(found, **figures)
    names = ", ".join(f"{extra} ({', '.join(packages)})" for extra, packages in missing.items())
    means = f"Missing: {names}. What needs them says so."
    return note(found, means, f"pip install 'iobuf-nb[{','.join(missing)}]', for what you use", **figures)


def complaints(caught: list[warnings.WarningMessage]) -> Finding:
    """Examine what warnings were given meanwhile."""
    told = [_first_line(warning.message) for warning in caught]
    if not told:
        return ok("none", warnings=told)
    means = "Every process that does the same is warned, too."
    return note("; ".join(told), means, "what the warnings say", warnings=told)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0]
