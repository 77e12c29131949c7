"""Locks that a fork cannot leave locked, and one between processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

with contextlib.suppress(ImportError):  # not on Windows
    import fcntl


def forks_wait_for(lock: Any) -> Any:
    """Return a reentrant lock, which no thread that exists only in the parent leaves locked in a forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def fork_safe_lock() -> threading.RLock:
    """Return a new lock that forks wait for."""
    lock: threading.RLock = forks_wait_for(threading.RLock())
    return lock


@contextlib.contextmanager
def folder_locked(folder: str) -> Iterator[None]:
    """Exclude all processes, and threads, that lock the same folder: flock(2). Nothing is left of it by who dies.

    It keeps no descriptor: a program may close all of them, and a forked child would share the lock of its parent.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
