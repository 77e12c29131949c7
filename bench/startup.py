"""The start of a new process: the import, and the first use of a pool, with and without a cache of compiled code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .names import (
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
from .table import Settings, Table
from .workloads.startup import FIRST_USE, STARTUP

ROOT = Path(__file__).parents[1]

NUMBA = """
import resource

def used():
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

start = used()
import numba
"""
PACKAGE = f"""{NUMBA}
start = used()
from iobuf_nb import BufferPool, Tier
"""
POOL = f"""{PACKAGE}
pool = BufferPool(1024, Tier.SMALL)
"""
GET_PUT = f"""{POOL}
pool.put(pool.get())
"""
KERNEL = """
@numba.njit(nogil=True, cache=True)
def {name}(pool):
    index = pool.get()
    pool.value(index)[0] = 1
    pool.put(index)
"""
RESULT = """
print(used() - start)
"""
SCRIPTS = {  # each prints its CPU seconds
    "import_numba": f"{NUMBA}{RESULT}",
    "import_package": f"{PACKAGE}{RESULT}",
    "add": f"""{NUMBA}
start = used()

@numba.njit
def add(a, b):
    return a + b

add(1, 2)
{RESULT}""",
    "pool": f"{GET_PUT}{RESULT}",
    "kernel": f"{POOL}{KERNEL.format(name='work')}work(pool)\n{RESULT}",
    "new_kernel": f"{GET_PUT}start = used()\n{KERNEL.format(name='other')}other(pool)\n{RESULT}",
    "magazine": f"{POOL}magazine = pool.magazine()\nmagazine.put(magazine.get())\n{RESULT}",
    "scan": """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "iobuf_nb", "scan", __file__], stdout=subprocess.DEVNULL, check=True)
print(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]))
""",
    "warm": "import sys\nfrom iobuf_nb.__main__ import main\nsys.exit(main(['warm']))",
}


class Process(NamedTuple):
    """A new process: its script, and those that earlier processes ran with the same cache."""

    script: str
    earlier: tuple[str, ...] = ()


CACHED = {
    "import numba": Process("import_numba"),
    IMPORT: Process("import_package"),
    KERNEL_CACHED: Process("kernel", ("kernel",)),
    FIRST_GET_PUT: Process("pool", ("pool",)),
    KERNEL_NEW: Process("new_kernel", ("pool", "kernel")),
}
FIRST = {
    "first @njit function": Process("add"),
    FIRST_POOL: Process("pool"),
    FIRST_KERNEL: Process("kernel", ("pool",)),
    FIRST_MAGAZINE: Process("magazine", ("pool",)),
    FIRST_SCAN: Process("scan"),
}
WARMED = {
    warmed(name): FIRST[name]._replace(earlier=("warm",))
    for name in (FIRST_POOL, FIRST_KERNEL, FIRST_MAGAZINE, FIRST_SCAN)
}


def execute(script: str, folder: Path, cache: Path) -> str:
    """Run a script of `folder` in a new process, and return what it prints."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "",  # as for most users: a package is compiled to bytecode once
    }
    command = [sys.executable, f"{script}.py"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return run.stdout


def filled(folder: Path, earlier: tuple[str, ...]) -> Path:
    """Return the cache that these scripts leave, each run once in all."""
    cache = folder / f"cache of {', '.join(earlier)}"
    if not cache.exists():
        cache.mkdir()
        for script in earlier:
            execute(script, folder, cache)
    return cache


def seconds(process: Process, folder: Path) -> float:
    """Return the CPU seconds of a process; it gets a copy of the cache, so that it leaves nothing to the next one."""
    with tempfile.TemporaryDirectory(dir=folder) as copy:
        shutil.copytree(filled(folder, process.earlier), copy, dirs_exist_ok=True)
        return float(execute(process.script, folder, Path(copy)))


def run(settings: Settings) -> list[Table]:
    """Measure in new processes, each with a cache of its own."""
    cached, first, warm = Table(STARTUP), Table(FIRST_USE), WARMED
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name, text in SCRIPTS.items():
            (folder / f"{name}.py").write_text(text)

        def cases(processes: dict[str, Process]) -> dict[str, Callable[[], float]]:
            return {name: partial(seconds, process, folder) for name, process in processes.items()}

        try:
            filled(folder, ("warm",))
        except subprocess.CalledProcessError as error:
            warm = {}
            first.missing.append(f"first use after python -m iobuf_nb warm: {error.stderr.splitlines()[-1]}")
        cached.measure(cases(CACHED), 3 if settings.quick else 11, settings.seed)
        # It takes seconds to compile; files were read before, so there is nothing to warm up.
        first.measure(cases(FIRST | warm), 1 if settings.quick else 5, settings.seed, warm_up=False)
    return [cached, first]
