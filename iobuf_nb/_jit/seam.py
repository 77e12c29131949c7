"""The seam: where a model checker takes the place of other threads, the clock and the processor.

With the JIT off, interpreted code asks `hook`, if it is set, for the result of everything that other threads or time
decide, and for nothing else:

- accesses to shared words: ``hook(operation, words, i, order, *operands)``, by `atomics`, `park` and `wake`;
- operations without a word: ``hook(operation, None, -1, order, *operands)``, for ``fence``, ``light_fence``,
  ``heavy_fence`` (False if it failed), ``pause`` (a spin), ``now`` (nanoseconds) and ``thread_id``.

The rooms below the Python objects access shared words, the clock, spins and thread identity in no other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

hook: Callable[..., Any] | None = None
