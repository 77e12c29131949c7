"""SpinWait and Backoff keep one pace, whoever calls them."""

import time

import pytest
from numba import njit
from support import EVERY_WAY

from iobuf_nb import Backoff, SpinWait, pause
from iobuf_nb.text import ByteTable


def wait(backoff):
    backoff.wait()


@EVERY_WAY
def test_block_n_is_n_sleeps_of_n_times_base(jit):
    def step(backoff):
        seen = (backoff.block, backoff.duration)
        backoff.wait()
        return seen

    backoff, step = Backoff(base=1e-5, max=3.5e-5), jit(step)
    seen = [step(backoff) for _ in range(15)]
    blocks = [n for n in range(1, 6) for _ in range(n)]
    assert [block for block, _ in seen] == blocks
    assert [duration for _, duration in seen] == [pytest.approx(min(n * 1e-5, 3.5e-5)) for n in blocks]
    jit(lambda backoff: backoff.reset())(backoff)
    assert step(backoff) == (1, pytest.approx(1e-5))


@EVERY_WAY
def test_made_and_used_in_one_place(jit):
    def use():
        backoff = Backoff(1e-6, max=2e-6)
        for _ in range(4):
            backoff.wait()
        again = Backoff()
        waiter = SpinWait()
        turns = 0
        while not waiter.will_yield:
            waiter.once()
            turns += 1
        waiter.once()
        waiter.reset()
        return backoff.block, backoff.base, backoff.max, again.base, again.max, turns, waiter.will_yield

    assert jit(use)() == (3, 1e-6, 2e-6, 500e-6, 0.1, 8, False)


@EVERY_WAY
def test_sleeps_are_as_long_as_they_say_and_jitter(jit):
    backoff, wait_once = Backoff(base=0.004, max=0.004), jit(wait)
    wait_once(Backoff(1e-6))
    lengths = []
    for _ in range(40):
        start = time.perf_counter()
        wait_once(backoff)
        lengths.append(time.perf_counter() - start)
    assert 0.004 * 0.875 <= min(lengths) < 0.006  # others may have been kept waiting for a processor
    assert max(lengths) - min(lengths) > 0.0002


@pytest.mark.compiled
def test_python_and_kernels_share_one_state():
    backoff = Backoff(1e-6)
    njit(wait)(backoff)
    assert backoff.block == 2
    backoff.wait()
    backoff.wait()
    assert njit(lambda backoff: backoff.block)(backoff) == 3


@pytest.mark.compiled
@pytest.mark.parametrize("make", [lambda: SpinWait(), lambda: Backoff()])
def test_what_a_kernel_made_cannot_leave_it(make):
    with pytest.raises(RuntimeError, match="lives in its stack frame"):
        njit(make)()


@EVERY_WAY
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Backoff(0.0).block, "base must be a number of seconds > 0"),
        (lambda: Backoff(-1.0).block, "base must be a number of seconds > 0"),
        (lambda: Backoff(float("nan")).block, "base must be a number of seconds > 0"),
        (lambda: Backoff(1.0, 0.5).block, "max must be a number of seconds from base"),
        (lambda: Backoff(1.0, float("inf")).block, "max must be a number of seconds from base"),
        (lambda: Backoff(1.0, 2.0).set_base(3.0), "max must be a number of seconds from base"),
        (lambda: Backoff(1.0, 2.0).set_max(0.5), "max must be a number of seconds from base"),
        (lambda: Backoff(1e-9, 1e-9).set_max(0.0), "max must be a number of seconds from base"),
        (lambda: Backoff(1e-9, 1e-9).set_max(float("nan")), "max must be a number of seconds from base"),
    ],
)
def test_refuses_limits(jit, call, message):
    with pytest.raises(ValueError, match=message):
        jit(call)()


@pytest.mark.parametrize("bad", ["1", None, True])
def test_refuses_what_is_no_number(bad):
    with pytest.raises(TypeError, match="base must be a number of seconds > 0, not"):
        Backoff(bad)
    backoff = Backoff()
    with pytest.raises(TypeError, match="max must be a number of seconds from base"):
        backoff.set_max(bad)
    assert (backoff.base, backoff.max) == (500e-6, 0.1)


@EVERY_WAY
def test_pause_takes_a_count(jit):
    assert jit(lambda: pause())() is None
    assert jit(lambda: pause(1000))() is None


@pytest.mark.parametrize("bad, error", [(-1, ValueError), ("1", TypeError), (1.5, TypeError)])
def test_pause_refuses_other_counts(bad, error):
    with pytest.raises(error, match="n must be an integer from 0"):
        pause(bad)


def test_they_show_themselves():
    spin, backoff = SpinWait(), Backoff(1e-6, 0.25)
    assert (repr(spin), repr(backoff)) == ("SpinWait(will_yield=False)", "Backoff(base=1e-06, max=0.25, block=1)")
    for each in SpinWait, Backoff, ByteTable:
        assert repr(each.__new__(each)) == f"<{each.__name__}, not made>"
    backoff.wait()
    for _ in range(8):
        spin.once()
    assert (repr(spin), repr(backoff)) == ("SpinWait(will_yield=True)", "Backoff(base=1e-06, max=0.25, block=2)")


@EVERY_WAY
@pytest.mark.parametrize("seconds", [1e-10, 0.1276, 1 / 3])
def test_a_limit_that_was_given_can_be_given_again(jit, seconds):
    def give(seconds):
        backoff = Backoff(seconds, max=seconds)
        backoff.set_base(seconds)
        backoff.set_max(seconds)
        backoff.set_base(backoff.max)
        backoff.set_max(backoff.base)
        return backoff.base, backoff.max

    read = max(round(seconds, 9), 1e-9)
    assert jit(give)(seconds) == (read, read)
