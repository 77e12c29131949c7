"""Turns by number: pieces are read and computed in any order, and take effect in the order of their source.

The word TURN holds twice the number of the piece whose turn it is, and 1 more once all workers are to end: both in one
word, so that a worker that parks on it misses neither. Numbers are claimed in order and each worker holds one at a
time, so the one with the lowest number never waits, and no turn is left out: every worker passes each turn that it
claims, or stops the crew. STOP says the same to workers that do not wait; one that sees it late does a piece more.
"""

from __future__ import annotations

from .._jit.compile import kernel
from .._threads.gil import LOOK_NS
from .._threads.parking import ALL_WAITERS, SPIN_TURNS, park, spin, wake
from ..atomics import fetch_add, fetch_or, load, store
from .pieces import STOP, TURN


@kernel
def wait_for_turn(words, number):
    """Wait until it is the turn of piece `number`; False if the workers are to end."""
    tries = 0
    while True:
        # V2 acquires from V1: what the pieces before have done is seen. Mutant: "a turn is taken by a relaxed load"
        current = load(words, TURN, "acquire")
        if current == 2 * number:
            return True
        if current & 1:
            return False
        if tries < SPIN_TURNS:
            spin(tries)
            tries += 1
        else:  # parked only while the word is unchanged. Mutant: "a worker parks on what TURN has become"
            park(words, TURN, current, LOOK_NS, False)


@kernel
def pass_turn(words):
    """Let the piece after the one whose turn it is have its turn."""
    # V1 releases to V2. Mutants: "a turn is passed by a relaxed access", "a turn is passed by a plain store",
    # "a passed turn wakes nobody", "a passed turn wakes only one", "a turn is passed after the others are woken"
    fetch_add(words, TURN, 2, "release")
    wake(words, TURN, ALL_WAITERS, False)


@kernel
def skip_turn(words, number):
    """Wait for the turn of piece `number`, and pass it, unless the workers are to end."""
    # Mutants: "a turn is skipped before it has come", "a skipped turn is not passed"
    if wait_for_turn(words, number):
        pass_turn(words)


@kernel
def stop_turns(words):
    """Make all workers end, also those that wait for their turn."""
    store(words, STOP, 1, "relaxed")
    # Mutants: "a stop does not change the word that workers park on", "a stop wakes nobody"
    fetch_or(words, TURN, 1, "relaxed")
    wake(words, TURN, ALL_WAITERS, False)
