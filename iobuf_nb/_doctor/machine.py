"""The machine, as far as this process may use it: processors, cache lines, pages, memory that can be locked."""

from __future__ import annotations

import mmap
import os
import platform
from pathlib import Path

from .._memory.aligned import CACHE_LINE_SIZE, aligned_mem
from .._streams.progress import processors
from .finding import Finding, note, ok

CGROUPS = "/sys/fs/cgroup"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
RESERVED = "/proc/sys/vm/nr_hugepages"
_ENOUGH_LOCKED = 1 << 20


def own_processors() -> Finding:
    """Examine how many processors this process may use, and whether a quota allows less of their time."""
    usable, all_of_them, quota = processors(), os.cpu_count() or 1, cpu_quota()
    found = f"{usable} of {all_of_them}" + ("" if quota is None else f"; the quota of its cgroup is {quota:g}")
    figures = {"usable": usable, "all": all_of_them, "quota": quota}
    if quota is not None and quota < usable:
        return note(
            found,
            "Streams have a worker for each processor. All stop when the quota is used up.",
            f"stream(..., workers={max(int(quota), 1)}), or a larger quota: docker run --cpus={usable}",
            **figures,
        )
    return ok(found, **figures)


def cpu_quota() -> float | None:
    """Return how many processors' time the cgroups of this process allow, or None if they do not limit it."""
    quotas = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        # In a container that has a namespace of its own, the cgroup itself is what is mounted.
        for folder in (Path(path), *Path(path).parents):
            if not controllers:  # version 2
                limit, _, period = _read(f"{CGROUPS}/{folder}/cpu.max").partition(" ")
            elif "cpu" in controllers.split(","):
                limit, period = (_read(f"{CGROUPS}/cpu/{folder}/cpu.cfs_{what}_us") for what in ("quota", "period"))
            else:
                break
            if limit.isdigit():  # not "max" or -1
                quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def cache_line() -> Finding:
    """Examine whether the cache lines of the processor are as long as this library assumes."""
    try:
        bytes_ = os.sysconf("SC_LEVEL1_DCACHE_LINESIZE")  # 0 or -1 if the C library does not know
    except (AttributeError, ValueError):
        bytes_ = 0
    figures = {"assumed": CACHE_LINE_SIZE, "bytes": bytes_ if bytes_ > 0 else None}
    if bytes_ <= 0:
        return ok(f"{CACHE_LINE_SIZE} bytes assumed; the system does not say", **figures)
    found = f"{bytes_} bytes, and {CACHE_LINE_SIZE} assumed"
    if bytes_ > CACHE_LINE_SIZE:
        means = "Words that different threads write may share a line: slower, never wrong."
        return note(found, means, f"report it, and the processor: {platform.machine()}", **figures)
    return ok(found, **figures)


def pages() -> Finding:
    """Examine the size of pages, and whether there are huge ones."""
    mode = _read(HUGE_PAGES)
    chosen = mode.partition("[")[2].partition("]")[0]
    reserved = _read(RESERVED)
    found = f"{mmap.PAGESIZE} bytes; transparent huge pages: {chosen or 'none'}"
    if reserved.isdigit() and int(reserved):
        found += f"; {reserved} reserved huge pages (hugetlb), which this library does not use"
    figures = {"bytes": mmap.PAGESIZE, "transparent": chosen or None}
    try:
        aligned_mem(mmap.PAGESIZE, huge_pages=True)
    except OSError as error:
        means = "Pools with huge_pages=True cannot be made."
        remedy = "leave huge_pages out, or use a Linux with transparent huge pages (CONFIG_TRANSPARENT_HUGEPAGE)"
        return note(f"{found}; {error.strerror or error}", means, remedy, **figures)
    if chosen == "never":
        means = "huge_pages=True has no effect. Large pools take longer to be touched first."
        return note(found, means, f"echo madvise | sudo tee {HUGE_PAGES}", **figures)
    return ok(found, **figures)


def memlock() -> Finding:
    """Examine whether memory can be locked."""
    try:
        import resource
    except ImportError:
        return note("this system has no such limit", "Whether memory can be locked is not known.", "none needed")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"limit of {soft} bytes"
    figures = {"soft": None if soft == resource.RLIM_INFINITY else soft}
    figures["hard"] = None if hard == resource.RLIM_INFINITY else hard
    try:
        aligned_mem(_ENOUGH_LOCKED, lock=True)
    except OSError as error:
        return note(
            f"{limit}: {error.strerror}",
            "Pools with lock=True, or registered with io_uring, cannot be made, or only small ones.",
            "ulimit -l unlimited, or docker run --ulimit memlock=-1, or LimitMEMLOCK=infinity for systemd",
            **figures,
        )
    return ok(f"{limit}; {_ENOUGH_LOCKED} bytes could be locked", **figures)


def _read(path: str) -> str:
    """Return what a small file of the system says, or nothing."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
