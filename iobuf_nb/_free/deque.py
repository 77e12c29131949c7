"""Work-stealing deques of indices: one end for the owner, at the price of plain loads and stores, one for thieves.

The algorithm is that of Chase & Lev (SPAA 2005) in the memory model of Lê et al. (PPoPP 2013), with two changes:

- The owner's fence, three quarters of the cost of a pop, is left to the thief: the owner orders its accesses for the
  compiler only (`light_fence`), and the thief makes every processor that runs a thread of this process pass a fence
  (`heavy_fence`: membarrier(2)). Where the system has none, owners do fence.
- The bottom is the difference of two counters of the owner, pushes and pops: a push is one store to a word that never
  returns to an earlier value.

Emptiness
    Whether all deques are empty is kept in a word, EMPTINESS, for a fence in each search that finds nothing would cost
    it a hundred times as much as all the rest:

    - 0: nothing is known;
    - odd: it is suspected. A search is about to make all processors pass a fence, and then to look into all deques;
    - even: it is proven. The search found nothing, and nobody has pushed since.

    An owner that has pushed looks at the word before its put returns, and sets it to 0. It orders the two for the
    compiler only. A push that a search does not see is one whose owner has not passed the fence after it; so the look
    comes after the fence, too, and sees what the search wrote before the fence.
    Each suspicion is a new number, so that no search proves what another one has suspected since.

Invariants
    Deque positions top, top + 1 ... pushes - pops - 1 hold free indices, the newest last; position p lies in slot
    p mod DEQUE_CAPACITY. Only the owner writes PUSHES, POPS and slots. TOP only grows, by one, by compare-and-swap: the
    thread that raises it from t has taken position t. The owner takes a position by counting the pop *before* it looks
    at TOP, and needs TOP's compare-and-swap only for the position at the top, and only while there are thieves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import hot, kernel, out_of_line, tiny
from .._threads.copies import load_many, store_many
from .._threads.fences import heavy_fence, light_fence
from .._threads.outcomes import EMPTY, TAKEN
from ..atomics import compare_and_swap, fence, fetch_add, load, store
from .queue import LINE_PAIR

MAX_DEQUES = 256
DEQUE_CAPACITY = 512  # indices in one of them, a power of two

# Word indices. First what all deques share, then the deques, each from its base on.
COUNT = 0  # deques that have ever been used
OWNERS_FENCE = 1  # 1: there is no membarrier(2) here, and owners fence
FENCES_FAIL = 2  # 1: membarrier(2) has begun to fail, as under a new seccomp filter, and stealing has ended
EMPTINESS = 3  # 0, or what is suspected or proven
SUSPICIONS = 4  # twice their number
_FIRST = LINE_PAIR
PUSHES = 0
POPS = 1  # a pop that failed is uncounted
OWNER = 2  # for `_pools.magazine`: the thread that owns it, 0 for none
TOP = LINE_PAIR
THIEVES = TOP + 1  # threads that are stealing
SLOTS = 2 * LINE_PAIR
_WORDS = SLOTS + DEQUE_CAPACITY
DEQUE_WORDS = _FIRST + MAX_DEQUES * _WORDS


@tiny
def base_of(number):
    """Return where the words of a deque begin."""
    return _FIRST + number * _WORDS


@tiny
def order_own(asymmetric):
    """Order the owner's accesses before this against those after it, for thieves that call `fence_all`."""
    if asymmetric:
        light_fence()
    else:
        # D4 is ordered with T3. Mutant: "an owner does not fence though thieves cannot"
        fence()


@hot
def push(words, base, most, index):
    """As the owner, add an index unless there are `most`; return whether it was added."""
    pushes = load(words, base + PUSHES, "relaxed")
    bottom = pushes - load(words, base + POPS, "relaxed")
    # D1 acquires from T5: thieves of positions below TOP have read their slots, which this may overwrite.
    if bottom - load(words, base + TOP) >= most:
        return False
    store(words, base + SLOTS + (bottom & (DEQUE_CAPACITY - 1)), index, "relaxed")
    # D2 releases to T4: the slot first. Mutants: "a push is counted with a relaxed store",
    # "a push is counted before its slot is written"
    store(words, base + PUSHES, pushes + 1)
    return True


@hot
def pop(words, base, asymmetric):
    """As the owner, take the newest index, or EMPTY."""
    pops = load(words, base + POPS, "relaxed")
    bottom = load(words, base + PUSHES, "relaxed") - pops - 1
    store(words, base + POPS, pops + 1, "relaxed")
    # D3 is ordered with T3: the count of pops before the looks at THIEVES and TOP.
    order_own(asymmetric)
    # D5 acquires from T1, T6, before D6. Mutants: "an owner reads the top before it checks for thieves",
    # "an owner does not check for thieves"
    thieves = load(words, base + THIEVES)
    top = load(words, base + TOP)  # D6 acquires from T5
    # Below the top there is nothing left; at the top, only thieves at work can compete for the index.
    if bottom < top or (bottom == top and thieves):
        return _finish(words, base, pops, bottom, top)
    # No thief can reach this position: those that come later see the pop, and those at work take the top at most.
    return load(words, base + SLOTS + (bottom & (DEQUE_CAPACITY - 1)), "relaxed")


@kernel
def _finish(words, base, pops, bottom, top):
    """Take the index at `top`, if `bottom` is there, against thieves; uncount the pop in any case."""
    out_of_line()
    index = max(EMPTY, _take_top(words, base, top)) if bottom == top else EMPTY
    # D7 releases to T4. Not before: an index that was out of sight must not come back, or an EMPTY was wrong.
    # Mutant: "a pop is uncounted before the race for the top"
    store(words, base + POPS, pops)
    return index


@hot
def _take_top(words, base, top):
    """Take the index at `top`, or TAKEN if another thread was faster."""
    index = load(words, base + SLOTS + (top & (DEQUE_CAPACITY - 1)), "relaxed")
    # T5 releases to D1, D6, T2, T4: the slot has been read. One of all that try succeeds, for TOP only grows.
    # Mutants: "a thief takes without a compare-and-swap", "a thief reads its slot after it has won it"
    return index if compare_and_swap(words, base + TOP, top, top + 1, "seq_cst") else TAKEN


@hot
def push_many(words, base, most, indices, n):
    """As the owner, add the first `n` of `indices`, or as many as there is room for; return how many."""
    pushes = load(words, base + PUSHES, "relaxed")
    bottom = pushes - load(words, base + POPS, "relaxed")
    # D1 acquires from T5
    n = min(n, most - (bottom - load(words, base + TOP)))
    if n <= 0:
        return 0
    slot = bottom & (DEQUE_CAPACITY - 1)
    before_the_end = min(n, DEQUE_CAPACITY - slot)
    store_many(words, base + SLOTS + slot, indices, 0, before_the_end)
    store_many(words, base + SLOTS, indices, before_the_end, n - before_the_end)
    store(words, base + PUSHES, pushes + n)  # D2 releases to T4
    return n


@hot
def pop_many(words, base, asymmetric, out, n):
    """As the owner, take the newest `n` indices, or as many as there are, into the front of `out`; return how many."""
    pops = load(words, base + POPS, "relaxed")
    end = load(words, base + PUSHES, "relaxed") - pops
    # D6 acquires from T5
    n = min(n, end - load(words, base + TOP))
    if n <= 0:
        return 0
    store(words, base + POPS, pops + n, "relaxed")
    order_own(asymmetric)  # D3 is ordered with T3
    thieves = load(words, base + THIEVES)  # D5 acquires from T1, T6
    top = load(words, base + TOP)  # D6 acquires from T5
    # Thieves at work can still take the index at the top, but no other.
    # Mutant: "a bulk pop takes what thieves may take"
    begin = max(end - n, top + (thieves > 0))
    taken = max(end - begin, 0)
    slot = begin & (DEQUE_CAPACITY - 1)
    before_the_end = min(taken, DEQUE_CAPACITY - slot)
    load_many(words, base + SLOTS + slot, out, 0, before_the_end)
    load_many(words, base + SLOTS, out, before_the_end, taken - before_the_end)
    index = EMPTY
    if top >= end - n:
        if thieves and top < end:
            index = _take_top(words, base, top)
        # D7 releases to T4. Mutant: "a bulk pop counts what thieves took from it"
        store(words, base + POPS, pops + taken)
    if index < 0:
        return taken
    out[taken] = index
    return taken + 1


@tiny
def held(words, base):
    """Return how many indices a deque held a moment ago."""
    # T4 acquires from D2, D7, T5: a snapshot, exact at rest.
    return max(load(words, base + PUSHES) - load(words, base + POPS) - load(words, base + TOP), 0)


@kernel
def fence_all(words):
    """Pass the thieves' side of the fence; return False if that failed, and then no index may be taken."""
    # T3 is ordered with D3, D4. Mutants: "a thief fences for itself alone", "a thief leaves the fence out"
    # T10 acquires from T9: the first magazine says that owners fence.
    passed = heavy_fence() or load(words, OWNERS_FENCE) != 0
    if not passed:
        store(words, FENCES_FAIL, 1)  # T7 releases to T8 of `free_list`
    return passed


@kernel
def steal(words, base):
    """Take the oldest index of a deque: EMPTY if it held none, TAKEN if another thread was faster. Any thread may."""
    index = EMPTY
    # T1 releases to D5. Mutant: "a thief does not count itself in"
    fetch_add(words, base + THIEVES, 1, "seq_cst")
    top = load(words, base + TOP)  # T2 acquires from T5
    # T4 acquires from D2, D7, after T3: the owner sees this thief, and at least `top`, or this sees the owner's pop.
    if fence_all(words) and load(words, base + PUSHES) - load(words, base + POPS) > top:
        index = _take_top(words, base, top)
    fetch_add(words, base + THIEVES, -1, "seq_cst")  # T6 releases to D5
    return index


def mend(words: NDArray[np.int64]) -> None:
    """In a forked child, finish what the parent's other threads were in the middle of."""
    for base in map(base_of, range(int(words[COUNT]))):
        words[base + THIEVES] = 0
        # A pop that found nothing has not been uncounted yet.
        words[base + POPS] = min(words[base + POPS], words[base + PUSHES] - words[base + TOP])


def indices(words: NDArray[np.int64]) -> list[int]:
    """Return the indices that all deques hold, at rest."""
    found: list[int] = []
    for base in map(base_of, range(int(words[COUNT]))):
        positions = np.arange(words[base + TOP], words[base + PUSHES] - words[base + POPS])
        found += words[base + SLOTS + (positions & (DEQUE_CAPACITY - 1))].tolist()
    return found
