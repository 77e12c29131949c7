"""Work-stealing deques of indices: one end for their owner, at the price of plain loads and stores, one for thieves.

The algorithm is that of Chase & Lev (SPAA 2005) in the memory model of Lê et al. (PPoPP 2013), with two changes:

- The owner's fence, three quarters of what a pop would cost, is left to the thief: the owner orders its accesses for
  the compiler alone (`light_fence`), and the thief makes every processor that runs a thread of this process pass a
  fence (`heavy_fence`: membarrier(2)). Where the system has none, owners do fence.
- Where the bottom is, is told by two words that the owner counts up, pushes and pops. A push is one store to a word
  that never returns to an earlier value: so whoever reads the same number of pushes twice knows that there was none in
  between, and emptiness can be told exactly (`seek`).

Invariants
    Deque positions top, top + 1 ... pushes - pops - 1 hold free indices, the newest last; position p lies in slot
    p mod DEQUE_CAPACITY. Only the owner writes PUSHES, POPS and slots. TOP only grows, by one, by compare-and-swap: the
    thread that raises it from t has taken position t. The owner takes a position by counting the pop *before* it looks
    at TOP, and needs TOP's compare-and-swap only for the position at the top, and only while there are thieves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import hot, kernel, out_of_line
from .._threads.fences import heavy_fence, light_fence
from .._threads.outcomes import EMPTY, TAKEN
from ..atomics import compare_and_swap, fence, fetch_add, load, store
from .queue import LINE_PAIR

MAX_DEQUES = 256
DEQUE_CAPACITY = 512  # indices in one of them, a power of two

# Word indices. First what all deques share, then the deques, each from its base on.
COUNT = 0  # how many have ever been used
OWNERS_FENCE = 1  # 1: there is no membarrier(2) here, and owners fence
FENCES_FAIL = 2  # 1: membarrier(2) has begun to fail, as under a new seccomp filter, and thieves find nothing any more
_FIRST = LINE_PAIR
PUSHES = 0
POPS = 1  # a pop that failed is taken back
OWNER = 2  # not used here: the thread that owns it, 0 if none does
TOP = LINE_PAIR
THIEVES = TOP + 1  # how many are at work
SLOTS = 2 * LINE_PAIR
_WORDS = SLOTS + DEQUE_CAPACITY
DEQUE_WORDS = _FIRST + MAX_DEQUES * _WORDS


@hot
def base_of(number):
    """Return where the words of a deque begin."""
    return _FIRST + number * _WORDS


@hot
def order_own(asymmetric):
    """Keep the owner's accesses before this from those after it, in the eyes of thieves that call `heavy_fence`."""
    if asymmetric:
        light_fence()
    else:
        fence()


@hot
def push(words, base, most, index):
    """As its owner, add an index, unless there are `most` in it: whether it was added."""
    pushes = load(words, base + PUSHES, "relaxed")
    bottom = pushes - load(words, base + POPS, "relaxed")
    if bottom - load(words, base + TOP) >= most:
        return False
    store(words, base + SLOTS + (bottom & (DEQUE_CAPACITY - 1)), index, "relaxed")
    store(words, base + PUSHES, pushes + 1)
    return True


@hot
def pop(words, base, asymmetric):
    """As its owner, take the newest index, or EMPTY."""
    pops = load(words, base + POPS, "relaxed")
    bottom = load(words, base + PUSHES, "relaxed") - pops - 1
    store(words, base + POPS, pops + 1, "relaxed")
    order_own(asymmetric)
    thieves = load(words, base + THIEVES)
    top = load(words, base + TOP)
    if bottom < top or (bottom == top and thieves):
        return _finish(words, base, pops, bottom, top)
    return load(words, base + SLOTS + (bottom & (DEQUE_CAPACITY - 1)), "relaxed")


@kernel
def _finish(words, base, pops, bottom, top):
    """Take the index at `top`, if `bottom` is there, against thieves; and give up a pop that found none."""
    out_of_line()
    index = max(EMPTY, _take_top(words, base, top)) if bottom == top else EMPTY
    # Not before: an index that was out of sight must not come back, or those who found nothing were wrong.
    store(words, base + POPS, pops)
    return index


@hot
def _take_top(words, base, top):
    """Take the index at `top`, or TAKEN if another thread was quicker."""
    index = load(words, base + SLOTS + (top & (DEQUE_CAPACITY - 1)), "relaxed")
    return index if compare_and_swap(words, base + TOP, top, top + 1, "seq_cst") else TAKEN


@kernel
def push_many(words, base, most, indices, n):
    """As its owner, add the first `n` of `indices`, or as many as there is room for: how many."""
    pushes = load(words, base + PUSHES, "relaxed")
    bottom = pushes - load(words, base + POPS, "relaxed")
    n = min(n, most - (bottom - load(words, base + TOP)))
    if n <= 0:
        return 0
    for k in range(n):
        store(words, base + SLOTS + ((bottom + k) & (DEQUE_CAPACITY - 1)), indices[k], "relaxed")
    store(words, base + PUSHES, pushes + n)
    return n


@kernel
def pop_many(words, base, asymmetric, out, n):
    """As its owner, take the newest `n` indices, or as many as there are, into the front of `out`: how many."""
    pops = load(words, base + POPS, "relaxed")
    end = load(words, base + PUSHES, "relaxed") - pops
    n = min(n, end - load(words, base + TOP))
    if n <= 0:
        return 0
    store(words, base + POPS, pops + n, "relaxed")
    order_own(asymmetric)
    thieves = load(words, base + THIEVES)
    top = load(words, base + TOP)
    begin = max(end - n, top + (thieves > 0))  # thieves at work can still take the one at the top, and no other
    for position in range(begin, end):
        out[position - begin] = load(words, base + SLOTS + (position & (DEQUE_CAPACITY - 1)), "relaxed")
    taken = max(end - begin, 0)
    index = EMPTY
    if top >= end - n:
        if thieves and top < end:
            index = _take_top(words, base, top)
        # As in pop: only now.
        store(words, base + POPS, pops + taken)
    if index < 0:
        return taken
    out[taken] = index
    return taken + 1


@hot
def held(words, base):
    """Return how many indices a deque held a moment ago."""
    return max(load(words, base + PUSHES) - load(words, base + POPS) - load(words, base + TOP), 0)


@kernel
def fence_all(words):
    """Pass the side of the fence that thieves have: whether it was passed, and no index may be taken otherwise."""
    passed = heavy_fence() or load(words, OWNERS_FENCE) != 0
    if not passed:
        store(words, FENCES_FAIL, 1)
    return passed


@kernel
def steal(words, base):
    """Take the oldest index of a deque, as anybody may: EMPTY if it held none, TAKEN if another thread was quicker."""
    index = EMPTY
    fetch_add(words, base + THIEVES, 1, "seq_cst")
    top = load(words, base + TOP)
    # Either the owner sees that there are thieves, and no less than `top`, or this sees what the owner has popped.
    if fence_all(words) and load(words, base + PUSHES) - load(words, base + POPS) > top:
        index = _take_top(words, base, top)
    fetch_add(words, base + THIEVES, -1, "seq_cst")
    return index


def mend(words: NDArray[np.int64]) -> None:
    """End what threads were in the middle of when they vanished, in a forked child."""
    for base in map(base_of, range(int(words[COUNT]))):
        words[base + THIEVES] = 0
        # A pop that found nothing has not been taken back yet.
        words[base + POPS] = min(words[base + POPS], words[base + PUSHES] - words[base + TOP])


def indices(words: NDArray[np.int64]) -> list[int]:
    """Return what all deques hold, while nothing moves."""
    found: list[int] = []
    for base in map(base_of, range(int(words[COUNT]))):
        positions = np.arange(words[base + TOP], words[base + PUSHES] - words[base + POPS])
        found += words[base + SLOTS + (positions & (DEQUE_CAPACITY - 1))].tolist()
    return found
