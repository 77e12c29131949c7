"""Queues and pools in C and C++ to compare with, built by the system's compiler from installed packages."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..names import MEMPOOL, RECVMMSG_C, RTE_RING, STACK

FOLDER = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iobuf_nb-bench"
COMPILERS = {".c": ["gcc", "-std=gnu11"], ".cpp": ["g++", "-std=gnu++17"]}
FLAGS = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror=return-type"]

TRIAL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.pairs.restype = ctypes.c_double
assert library.pairs(ctypes.c_int64(100), 1) >= 0, "items were lost"
"""


class Missing(Exception):
    """Why a peer cannot be measured here."""


@dataclass(frozen=True)
class Peer:
    """A queue or pool: its source file, the Debian package it needs, and what it can do."""

    name: str
    source: str
    package: str = ""
    module: str = ""  # of pkg-config
    mpmc: bool = True  # a queue for any number of threads, in the order of putting
    threads: int = 256  # at most
    passes: bool = True  # accepts items that did not come from it
    trial: str = TRIAL  # a script that shows that it runs

    @cached_property
    def missing(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        try:  # in a process of its own, because it may abort
            trial = [sys.executable, "-c", self.trial, str(self.build())]
            subprocess.run(trial, check=True, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return "a trial run did not end"
        except subprocess.CalledProcessError as failure:
            last = failure.stderr.strip().splitlines()[-1:] or [f"exit status {failure.returncode}"]
            return f"a trial run failed: {last[0]}"
        except Missing as reason:
            return str(reason)
        return ""

    @cached_property
    def library(self) -> ctypes.CDLL:
        """The loaded library."""
        return ctypes.CDLL(str(self.build()))

    def build(self) -> Path:
        """Compile it, unless it was compiled before from the same sources by the same command."""
        source = FOLDER / self.source
        compiler = COMPILERS[source.suffix]
        if shutil.which(compiler[0]) is None:
            raise Missing(f"there is no {compiler[0]} (apt-get install g++)")
        before, after = (self.configured("--cflags"), self.configured("--libs")) if self.module else ([], [])
        command = [*compiler, *before, *FLAGS, self.source, *after]
        made_of = repr((command, platform.node(), source.read_bytes(), (FOLDER / "work.h").read_bytes()))
        path = CACHE / f"{source.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                result = Path(folder) / path.name
                compiled = [*command, "-o", str(result)]
                run = subprocess.run(compiled, cwd=FOLDER, capture_output=True, text=True)  # errors name no folder
                if run.returncode != 0:
                    errors = [line for line in run.stderr.splitlines() if "error" in line] or ["no reason given"]
                    hint = f" (apt-get install {self.package})" if self.package else ""
                    raise Missing(f"not built{hint}: {errors[0]}")
                result.rename(path)
        return path

    def configured(self, option: str) -> list[str]:
        """Return the module's compiler flags from pkg-config."""
        try:
            run = subprocess.run(["pkg-config", option, self.module], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError):
            raise Missing(f"no {self.module} (apt-get install pkg-config {self.package})") from None
        return run.stdout.split()

    def run(self, workload: str, n: int, threads: int) -> float:
        """Return the nanoseconds that `workload` took for each of its rounds."""
        function = getattr(self.library, workload)
        function.restype = ctypes.c_double
        nanoseconds = function(ctypes.c_int64(n), threads)
        assert nanoseconds >= 0, f"{self.name} lost items or bytes"
        return nanoseconds

    def contents(self, n: int) -> list[int]:
        """Return all items that a new pool of `n` hands out."""
        out = (ctypes.c_int64 * n)()
        return list(out[: self.library.contents(ctypes.c_int64(n), out)])


PEERS = [
    Peer("boost::lockfree::queue", "boost.cpp", "libboost-dev"),
    Peer("moodycamel", "moodycamel.cpp", "libconcurrentqueue-dev"),
    Peer("ck_ring", "ck.c", "libck-dev"),
    Peer(RTE_RING, "rte_ring.c", "libdpdk-dev", module="libdpdk"),
    Peer(MEMPOOL, "rte_mempool.c", "libdpdk-dev", module="libdpdk", mpmc=False, passes=False),
    Peer("std::mutex stack", "mutex.cpp", mpmc=False),
    Peer(STACK, "stack.cpp", mpmc=False, threads=1),
]
RECEIVER = Peer(RECVMMSG_C, "recvmmsg.c", mpmc=False, trial="import ctypes, sys; ctypes.CDLL(sys.argv[1])")


def versions() -> dict[str, str]:
    """Return the versions of the installed Debian packages that peers are built with."""
    packages = sorted({"g++", *(peer.package for peer in PEERS if peer.package)})
    command = ["dpkg-query", "--show", "--showformat", "${binary:Package} ${Version}\n", *packages]
    try:
        run = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return {}
    return {
        name.split(":")[0]: version for name, _, version in (line.partition(" ") for line in run.stdout.splitlines())
    }
