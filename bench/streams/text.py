"""Files of text, as long as one likes: lines of a name and a number, the same some millions again and again."""

from __future__ import annotations

import functools

import numpy as np

LINES = 1_000_000


@functools.cache
def text() -> bytes:
    """Return LINES different lines, such as ``station 17;-3.4``."""
    generator = np.random.default_rng(0)
    names, values = generator.integers(0, 500, LINES), generator.integers(-999, 1000, LINES) / 10
    return "".join(f"station {name};{value}\n" for name, value in zip(names, values, strict=True)).encode()


def write_text(path: str, size: int) -> tuple[int, int]:
    """Write about `size` bytes of whole lines to a file; return how many bytes and lines it has."""
    block = text()
    times, rest = divmod(size, len(block))
    last = block[: block.rfind(b"\n", 0, rest) + 1]
    with open(path, "wb") as file:
        for _ in range(times):
            file.write(block)
        file.write(last)
    return times * len(block) + len(last), times * LINES + last.count(b"\n")
