"""Make a file for the One Billion Row Challenge: ``python bench/measurements.py ROWS FILE``.

Lines are ``name;-12.3``, of 413 invented stations; the same rows and seed make the same file.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

STATIONS = 413
_SYLLABLES = [
    *("al", "bra", "cor", "den", "esk", "fjö", "gal", "hav", "ith", "jär", "kel", "lo", "mün"),
    *("nor", "o", "pra", "qui", "ros", "sé", "tam", "ul", "var", "wes", "xi", "yor", "zan"),
]
_LAST = *[""] * 12, " Bay", " Head", " Port", "-on-Sea", " Junction"
_ROWS = 1 << 20  # made at once


def names(random: np.random.Generator) -> list[bytes]:
    """Return the stations, in an order of no meaning."""
    found: dict[str, None] = {}
    while len(found) < STATIONS:
        name = "".join(random.choice(_SYLLABLES, random.integers(1, 5))).capitalize() + random.choice(_LAST)
        if len(name) >= 3:
            found[name] = None
    return [name.encode() for name in found]


def padded(texts: list[bytes]) -> NDArray[np.uint8]:
    """Return texts as rows of bytes, with zeros after each."""
    return np.array(texts).view(np.uint8).reshape(len(texts), -1)


def write(path: str, rows: int, seed: int = 0) -> None:
    """Write a file of so many rows."""
    random = np.random.default_rng(seed)
    stations = padded([name + b";" for name in names(random)])
    temperatures = padded([b"%s%d.%d\n" % (b"-" if t < 0 else b"", *divmod(abs(t), 10)) for t in range(-999, 1000)])
    means = random.uniform(-250, 350, STATIONS)
    with open(path, "wb") as file:
        for first in range(0, rows, _ROWS):
            station = random.integers(0, STATIONS, min(_ROWS, rows - first))
            tenths = np.clip(np.rint(random.normal(means[station], 100)), -999, 999).astype(np.int64)
            lines = np.hstack([stations[station], temperatures[tenths + 999]])
            file.write(lines[lines != 0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.file, given.rows, given.seed)
