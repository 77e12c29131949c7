"""Every case passes, in every state: no order of accesses breaks the library."""

import pytest

from . import cases, coroutines, crews, depots, forks, magazines, owners, processes, queues, scheduler, streams, times

PROGRAMS = (cases, queues, depots, magazines, owners, coroutines, times, forks, streams, crews)
ALL = [*(case for programs in PROGRAMS for case in (*programs.CASES, *programs.LARGE)), *processes.CASES]
BOUNDED = [
    case
    for case in (*ALL, *processes.LARGE)
    if "preemptions" in case.of_every_day().options or case.walk is not scheduler.explore
]


def run(case, record_property):
    outcome = case.run()
    for name, count in (("programs", 1), ("states", outcome.states), ("steps", outcome.steps)):
        record_property(name, count)
    if outcome.bound:
        record_property("figure", f"in part: {case.name}: {outcome.states:,} states, {outcome.bound}")
    assert outcome.states + outcome.steps > 8


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_no_schedule_breaks_it(case, record_property):
    run(case.of_every_day(), record_property)


@pytest.mark.long
@pytest.mark.parametrize("case", processes.LARGE, ids=lambda case: case.name)
def test_nor_that_of_larger_ones(case, record_property):
    run(case, record_property)


@pytest.mark.long
@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: case.name)
def test_nor_does_one_of_many_more_that_are_left_out_above(case, record_property):
    run(case.unbounded(2_000_000), record_property)
