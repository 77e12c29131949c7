"""The machines of waits."""

import faces
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    rule,
)

from iobuf_nb import (
    Backoff,
    SpinWait,
)

from .machine import FACE, Machine, on, only_here, outcome

# ---- pacing ----------------------------------------------------------------------------------------------------------


class Spinning(Machine):
    """A `SpinWait` is a count of turns."""

    covers = (SpinWait,)

    @initialize()
    def start(self):
        self.waiter, self.turns = SpinWait(), 0

    @rule(face=FACE)
    def once(self, face):
        on(face).once(self.waiter)
        self.turns += 1

    @rule(face=FACE)
    def reset(self, face):
        on(face).reset(self.waiter)
        self.turns = 0

    @rule()
    def show(self):
        only_here(self.waiter, "a SpinWait cannot be pickled or copied")

    def compare(self):
        assert faces.python.will_yield(self.waiter) == faces.kernel.will_yield(self.waiter) == (self.turns >= 8)


class Pacing(Machine):
    """A `Backoff` is a block, the sleeps of it that are over, and two limits."""

    covers = (Backoff,)
    SECONDS = st.sampled_from([1e-9, 1e-6, 3e-6, 1e-5])
    BAD = st.sampled_from([0, -1e-6, float("nan"), float("inf"), 2**34])

    @initialize(limits=st.tuples(SECONDS, SECONDS))
    def start(self, limits):
        self.base, self.max = sorted(limits)
        self.backoff = Backoff(self.base, self.max)
        self.block, self.slept = 1, 0

    @rule(face=FACE)
    def wait(self, face):
        on(face).sleep(self.backoff)
        self.slept += 1
        if self.slept == self.block:
            self.block, self.slept = self.block + 1, 0

    @rule(face=FACE)
    def reset(self, face):
        on(face).reset(self.backoff)
        self.block, self.slept = 1, 0

    @rule(face=FACE, base=SECONDS | BAD)
    def set_base(self, face, base):
        got = outcome(on(face).set_base, self.backoff, float(base))
        if 0 < base <= self.max:
            self.base = base
        else:
            assert isinstance(got, ValueError) and ("max" if base > 0 else "base") in str(got)

    @rule(face=FACE, max=SECONDS | BAD)
    def set_max(self, face, max):
        got = outcome(on(face).set_max, self.backoff, float(max))
        if self.base <= max <= 2**33:
            self.max = max
        else:
            assert isinstance(got, ValueError) and "max must be a number of seconds from base" in str(got)

    @rule(bad=st.sampled_from([None, True, "1", b"1", [], 1j]))
    def set_what_is_no_number(self, bad):
        for call in (self.backoff.set_base, self.backoff.set_max, Backoff):
            with pytest.raises(TypeError, match="must be a number of seconds"):
                call(bad)

    @rule()
    def show(self):
        only_here(self.backoff, "a Backoff cannot be pickled or copied")

    def compare(self):
        duration = min(self.block * self.base, self.max)
        for face in (faces.python, faces.kernel):
            block, *seconds = face.pace(self.backoff)
            assert block == self.block and seconds == pytest.approx([duration, self.base, self.max], rel=1e-3)
