"""What an iovec points at."""

import ctypes


def pointed_at(entries):
    """Return the bytes that an iovec points at."""
    return b"".join(ctypes.string_at(int(entry["base"]), int(entry["len"])) for entry in entries)
