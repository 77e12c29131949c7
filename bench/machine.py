"""What a figure depends on: processor, system, versions, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path

import llvmlite
import numba
import numpy as np

import iobuf_nb


def processor() -> str:
    """Return the processor's name as Linux knows it, or else the name of its architecture."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """Return the facts about this machine that a result records."""
    commit, command = "", ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(FileNotFoundError):  # there is no git
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
        "iobuf_nb": f"{iobuf_nb.__version__} ({commit or 'no commit'})",
    }
