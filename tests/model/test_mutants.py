"""Every deliberate bug is caught, and tests/README.md says by what; so is the ring of the Go package."""

from pathlib import Path

import cases
import go_ring
import mutants
import pytest
import scheduler
from specs import Spec, fifo


def test_the_go_ring_hands_out_twice():
    def program():
        ring = go_ring.GoRing(2)
        code = {"G": cases.get(ring), "P": cases.put_back(ring)}
        return [ring.words], cases.written(("GP", "GPGPGP"), code)

    with pytest.raises(scheduler.Violation, match="no order explains"):
        scheduler.explore(program, Spec((0, 1), fifo(2)))


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.bug)
def test_a_bug_is_caught(mutant):
    print(*mutant.caught(), sep=": ")


def test_the_table_of_bugs_is_up_to_date():
    assert Path(__file__).parents[1].joinpath("README.md").read_text() == f"{mutants.README}{mutants.table()}\n"
