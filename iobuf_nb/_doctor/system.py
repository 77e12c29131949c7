"""What the operating system offers for waiting, rings, sharing and mapping, asked as the library itself asks for it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sys
import tempfile

import numpy as np

from .._jit.compile import INTERPRETED, kernel
from .._memory import segment
from .._memory.tier import Tier
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._threads.fences import register_heavy_fence
from .._threads.libc import FUTEX, MEMBARRIER
from .._threads.parking import wake
from .._uring.liburing import sysctl_disabled
from .finding import Finding, note, ok, problem

_SMALL_SHM = 256 << 20  # Docker's containers have 64 MiB
_LARGER_SHM = "mount -o remount,size=1g /dev/shm, or docker run --shm-size=1g, or in Kubernetes an emptyDir in Memory"


@kernel
def _woken(words):
    return wake(words, 0, 1, False)


def futex() -> Finding:
    """Examine whether threads can sleep until they are woken."""
    if FUTEX < 0:
        where = f"{platform.system()} on {platform.machine()}"
        means = "Threads that wait look again every millisecond, so they wake up late."
        return note(f"not known for {where}", means, "Linux on x86-64, ARM64 or RISC-V", works=False)
    if INTERPRETED:
        return ok("not tried: the JIT is off", works=None)
    woken = int(_woken(np.zeros(1, np.int64)))
    if woken != 0:
        means = "Threads that wait never sleep, and are not woken."
        return problem(f"futex(2) is refused{_by_filter()}", means, _allow("futex"), works=False)
    return ok("futex(2) works", works=True)


def membarrier() -> Finding:
    """Examine whether fences can be asymmetric."""
    means = "Magazines take a full fence for each put: some nanoseconds more. All else is the same."
    if MEMBARRIER < 0:
        return note("membarrier(2) is not known for this system", means, "none needed", works=False)
    if not register_heavy_fence():
        found = f"membarrier(2) is missing or refused{_by_filter()}"
        return note(found, means, f"Linux 4.14 or newer, or {_allow('membarrier')}", works=False)
    return ok("membarrier(2) works: magazines use asymmetric fences", works=True)


def io_uring() -> Finding:
    """Examine whether a pool can be registered with a ring."""
    from ..uring import Ring

    disabled = sysctl_disabled()
    means = "Ring, pool.register() and engine='uring' raise this error. All else reads without io_uring."
    figures = {"sysctl_io_uring_disabled": int(disabled)}
    try:
        with Ring(1) as ring, BufferPool(1, Tier.MEDIUM) as pool:
            pool.register(ring)
    except ImportError as error:
        return note(str(error), means, "pip install 'iobuf-nb[uring]'", works=False, **figures)
    except OSError as error:
        remedy = _allow("io_uring_setup, io_uring_enter and io_uring_register")
        if error.errno == errno.ENOMEM:
            remedy = "ulimit -l unlimited, or docker run --ulimit memlock=-1"
        elif error.errno == errno.EINVAL or sys.platform != "linux":
            remedy = "Linux 6.0 or newer"
        elif disabled != "0" and error.errno != errno.ENOSYS:
            remedy = "sysctl kernel.io_uring_disabled=0"
        return note(str(error.strerror or error), means, remedy, works=False, **figures)
    return ok("works: a pool was registered with a ring", works=True, **figures)


def shared_memory() -> Finding:
    """Examine whether pools and queues can be shared under a name, and how much room there is for them."""
    folder = segment.FOLDER
    try:
        with BoundedQueue(1, shared=True, name=f"doctor.{os.getpid()}.{os.urandom(4).hex()}"):
            about = os.statvfs(folder)
    except NotImplementedError as error:
        return note(str(error), "Pools and queues serve one process.", "Linux", bytes=None, free=None)
    except (OSError, MemoryError) as error:
        means = "Pools and queues with a name cannot be made. Without one, shared=True works."
        return problem(str(error), means, f"mount -t tmpfs tmpfs /dev/shm, or {_LARGER_SHM}", bytes=None, free=None)
    figures = {"bytes": about.f_blocks * about.f_frsize, "free": about.f_bavail * about.f_frsize}
    found = f"{folder} has {figures['free']:,} of {figures['bytes']:,} bytes free"
    if figures["bytes"] and figures["free"] < _SMALL_SHM:
        means = "Pools and queues with a name are limited to that; those without are not."
        return note(found, means, _LARGER_SHM, **figures)
    return ok(found, **figures)


def memfd() -> Finding:
    """Examine whether pools and queues can be shared without a name."""
    try:
        BoundedQueue(1, shared=True).close()
    except NotImplementedError as error:
        return note(str(error), "Pools and queues serve one process.", "Linux", works=False)
    except (OSError, MemoryError) as error:
        means = "Pools and queues with shared=True, and `collect` of streams, do not work."
        return problem(str(error), means, _allow("memfd_create"), works=False)
    return ok("memfd_create(2) works: pools can be shared without a name", works=True)


def leases() -> Finding:
    """Examine whether files can be mapped safely, at the place of temporary files."""
    folder = "the folder of temporary files"
    try:
        folder = tempfile.gettempdir()  # raises where there is none
        with tempfile.NamedTemporaryFile(dir=folder) as writer, open(writer.name, "rb") as file:
            writer.file.close()  # a read lease is refused while anybody can write
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except (OSError, AttributeError) as error:  # F_SETLEASE exists on Linux alone
        return note(
            f"no read leases in {folder}: {error}",
            "Large files are read, and not mapped, which may be slower; engine='mmap' reads them, too.",
            "files of your own on a local file system, or sysctl fs.leases-enable=1; set TMPDIR to try elsewhere",
            works=False,
        )
    return ok(f"files in {folder} can be leased (F_SETLEASE), and so be mapped", works=True)


def _by_filter() -> str:
    """Return what to add where this process is under a seccomp filter."""
    try:
        with open("/proc/self/status") as file:
            return ", and a seccomp filter is active" if "\nSeccomp:\t2" in file.read() else ""
    except OSError:
        return ""


def _allow(calls: str) -> str:
    return f"allow {calls} in the seccomp profile: docker run --security-opt seccomp=PROFILE"
