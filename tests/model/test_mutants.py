"""Every deliberate bug is caught; so is the ring of the Go package."""

import pytest

from . import cases, go_ring, mutants, scheduler
from .specs import Spec, fifo


def test_the_go_ring_hands_out_twice():
    def program():
        ring = go_ring.GoRing(2)
        code = {"G": cases.get(ring), "P": cases.put_back(ring)}
        return [ring.words], cases.written(("GP", "GPGPGP"), code)

    with pytest.raises(scheduler.Violation, match="no order explains"):
        scheduler.explore(program, Spec((0, 1), fifo(2)))


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.bug)
def test_a_bug_is_caught(mutant, record_property):
    case, complaint = mutant.caught()
    print(case, complaint, sep=": ")
    record_property("figure", "| {} | {} |".format(mutant.bug, case.replace("|", r"\|")))
