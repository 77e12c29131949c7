"""Queues and pools in C, C++ and Rust to compare with, built by the system's compilers from installed packages."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..names import CROSSBEAM, MEMPOOL, RECVMMSG_C, RTE_RING, STACK

FOLDER = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iobuf_nb-bench"
COMPILERS = {".c": ["gcc", "-std=gnu11"], ".cpp": ["g++", "-std=gnu++17"], ".rs": ["rustc", "--edition=2018"]}
FLAGS = ["-O3", "-march=native", "-flto", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror=return-type"]
RUST_FLAGS = ["-Copt-level=3", "-Ctarget-cpu=native", "-Ccodegen-units=1"]
REGISTRY = Path("/usr/share/cargo/registry")  # where Debian installs the sources of crates
CRATES = "cfg-if", "crossbeam-utils", "crossbeam-queue"  # each after those that it needs

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
        made_of = repr((self.commands(Path()), platform.node(), source.read_bytes(), (FOLDER / "work.h").read_bytes()))
        path = CACHE / f"{source.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                result = Path(folder) / path.name
                for command in self.commands(result):
                    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)  # errors name no folder
                    if run.returncode != 0:
                        errors = [line for line in run.stderr.splitlines() if "error" in line] or ["no reason given"]
                        hint = f" (apt-get install {self.package})" if self.package else ""
                        raise Missing(f"not built{hint}: {errors[0]}")
                result.rename(path)
        return path

    def commands(self, result: Path) -> list[list[str]]:
        """Return what compiles it, one after the other, into a file."""
        compiler = COMPILERS[Path(self.source).suffix]
        if shutil.which(compiler[0]) is None:
            raise Missing(f"there is no {compiler[0]} (apt-get install {'rustc' if compiler[0] == 'rustc' else 'g++'})")
        if compiler[0] == "rustc":
            return self.commands_of_rust([*compiler, *RUST_FLAGS], result)
        before, after = (self.configured("--cflags"), self.configured("--libs")) if self.module else ([], [])
        return [[*compiler, *before, *FLAGS, self.source, *after, "-o", str(result)]]

    def commands_of_rust(self, compiler: list[str], result: Path) -> list[list[str]]:
        """Return what compiles the crates beside the file, and then the peer with them: cargo is not needed."""
        found, known = [], [f"-L{result.parent}"]
        options = ["--crate-type=rlib", '--cfg=feature="std"', '--cfg=feature="alloc"', "--cap-lints=allow"]
        for crate in CRATES:
            name, root = crate.replace("-", "_"), max(REGISTRY.glob(f"{crate}-[0-9]*/src/lib.rs"), default=None)
            if root is None:
                raise Missing(f"no {crate} (apt-get install {self.package})")
            library = str(result.parent / f"lib{name}.rlib")
            found.append([*compiler, *known, *options, f"--crate-name={name}", str(root), "-o", library])
            known.append(f"--extern={name}={library}")
        return [*found, [*compiler, *known, "-Clto=fat", "--crate-type=cdylib", self.source, "-o", str(result)]]

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
    Peer(CROSSBEAM, "crossbeam.rs", "librust-crossbeam-queue-dev"),
    Peer(RTE_RING, "rte_ring.c", "libdpdk-dev", module="libdpdk"),
    Peer(MEMPOOL, "rte_mempool.c", "libdpdk-dev", module="libdpdk", mpmc=False, passes=False),
    Peer("std::mutex stack", "mutex.cpp", mpmc=False),
    Peer(STACK, "stack.cpp", mpmc=False, threads=1),
]
RECEIVER = Peer(RECVMMSG_C, "recvmmsg.c", mpmc=False, trial="import ctypes, sys; ctypes.CDLL(sys.argv[1])")


def versions() -> dict[str, str]:
    """Return the versions of the installed Debian packages that peers are built with, and of the rustc that is used."""
    packages = sorted({"g++", *(peer.package for peer in PEERS if peer.package)})
    command = ["dpkg-query", "--show", "--showformat", "${binary:Package} ${Version}\n", *packages]
    try:
        run = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return {}
    found = [line.partition(" ") for line in run.stdout.splitlines()]
    with suppress(OSError):
        run = subprocess.run(["rustc", "--version"], capture_output=True, text=True)
        found += [line.partition(" ") for line in run.stdout.splitlines()]
    return {name.split(":")[0]: version for name, _, version in found}
