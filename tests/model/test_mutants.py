"""Every deliberate bug is caught; so is the ring of the Go package."""

import json
import re
from pathlib import Path

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


#: Which case catches a bug, by the last search for it: rows of a table.
ROWS = json.loads(Path(__file__).parents[1].joinpath("results.json").read_text())
ROWS = [row for told in ROWS.values() for row in told["sentences"] if row.startswith("|")]
KNOWN = dict(re.fullmatch(r"\| (.*?) \| (.*) \|", row.replace(r"\|", "|")).groups() for row in ROWS)

EVERY_BUG = pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.bug)


@EVERY_BUG
def test_a_bug_is_caught(mutant):
    cases = sorted(mutant.among, key=lambda case: case.name != KNOWN.get(mutant.bug))
    print(*mutant.caught(case.of_every_day() for case in cases), sep=": ")


@pytest.mark.long
@EVERY_BUG
def test_which_case_is_the_first_to_catch_it(mutant, record_property):
    case, complaint = mutant.caught(mutant.among)
    print(case, complaint, sep=": ")
    record_property("figure", "| {} | {} |".format(mutant.bug, case.replace("|", r"\|")))
