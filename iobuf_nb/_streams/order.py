"""Turns by number: pieces are read and computed in any order, and take effect in the order of their source.

The word TURN holds the number of the piece whose turn it is; STOP is 1 once all workers are to end. Numbers are claimed
in order and each worker holds one at a time, so the one with the lowest number never waits, and no turn is left out:
every worker passes each turn that it claims, or stops the crew.
"""

from __future__ import annotations

from .._jit.compile import kernel
from .._threads.gil import LOOK_NS
from .._threads.parking import ALL_WAITERS, SPIN_TURNS, park, spin, wake
from ..atomics import load, store
from .pieces import STOP, TURN


@kernel
def wait_for_turn(words, number):
    """Wait until it is the turn of piece `number`; False if the workers are to end."""
    tries = 0
    while True:
        # T2 acquires from T1: what the pieces before have done is seen. Mutant: "a turn is taken by a relaxed load"
        current = load(words, TURN, "acquire")
        if current == number:
            return True
        if load(words, STOP):
            return False
        if tries < SPIN_TURNS:
            spin(tries)
            tries += 1
        else:  # parked only while the word is unchanged, so that a turn passed meanwhile is not missed
            park(words, TURN, current, LOOK_NS)


@kernel
def pass_turn(words, number):
    """Let the piece after `number` have its turn."""
    # T1 releases to T2. Mutant: "a turn is passed by a relaxed store"
    store(words, TURN, number + 1, "release")
    wake(words, TURN, ALL_WAITERS)


@kernel
def skip_turn(words, number):
    """Wait for the turn of piece `number`, and pass it, unless the workers are to end."""
    if wait_for_turn(words, number):
        pass_turn(words, number)


@kernel
def stop_turns(words):
    """Make all workers end, also those that wait for their turn."""
    store(words, STOP, 1)
    wake(words, TURN, ALL_WAITERS)
