"""Locks that a fork cannot leave locked."""

from __future__ import annotations

import os
import threading
from typing import Any


def forks_wait_for(lock: Any) -> Any:
    """Return a reentrant lock, which no thread that exists only in the parent leaves locked in a forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def fork_safe_lock() -> threading.RLock:
    """Return a new lock that forks wait for."""
    lock: threading.RLock = forks_wait_for(threading.RLock())
    return lock
