"""Many words at once: relaxed loads and stores of words side by side, by vector instructions.

LLVM makes no vectors of atomic accesses, so in kernels these are plain loops, which acquire, release and seq_cst
accesses keep in their place like any others. They are a little weaker than relaxed accesses:

- LLVM leaves open what is read of a word that another thread stores at the same time (Language Reference, "Memory
  Model for Concurrent Operations"). So call `load_many` only where something later, such as a compare-and-swap, tells
  whether another thread may have stored, and do not use the values then.
- A vector is wider than what processors promise to move at once: eight aligned bytes on x86-64 (Intel SDM, volume 3,
  "Guaranteed Atomic Operations"), each element of eight bytes on AArch64. None is known to divide such an element.

With the JIT off they are made word by word, so that the model checker sees each.
"""

from __future__ import annotations

from typing import Any

from .._jit.faces import compiled_as
from ..atomics import load, store


def _load_many(words, i, out, begin, n):
    for k in range(n):
        out[begin + k] = words[i + k]


def _store_many(words, i, items, begin, n):
    for k in range(n):
        words[i + k] = items[begin + k]


@compiled_as(_load_many)
def load_many(words: Any, i: int, out: Any, begin: int, n: int) -> None:
    """Load words[i : i + n] into out[begin : begin + n]."""
    for k in range(n):
        out[begin + k] = load(words, i + k, "relaxed")


@compiled_as(_store_many)
def store_many(words: Any, i: int, items: Any, begin: int, n: int) -> None:
    """Store items[begin : begin + n] in words[i : i + n]."""
    for k in range(n):
        store(words, i + k, items[begin + k], "relaxed")
