"""What all machines share."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import faces
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
)

FACE = st.sampled_from(["python", "kernel"])


NO_INDEX = st.sampled_from([None, 1.0, "1", b"1", [], object()])


ELSEWHERE = ThreadPoolExecutor(1)  # a second thread


def on(face):
    return getattr(faces, face)


def outcome(function, *arguments, **named):
    """Return what a call returns, or the error that it raises, without the frames that would keep its objects alive."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return error.with_traceback(None)


def only_here(thing, message):
    """It shows itself, and it can be neither pickled nor copied."""
    assert type(thing).__name__ in repr(thing)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=message):
            leave(thing)


class Machine(RuleBasedStateMachine):
    """What all machines share: they count the states in which object and model have been compared."""

    covers = ()
    states = 0

    @invariant()
    def agrees(self):
        type(self).states += 1
        self.compare()
