"""Every case passes, in every state: no order of accesses breaks the library."""

import cases
import magazines
import pytest

ALL = [*cases.CASES, *cases.LARGE, *magazines.CASES, *magazines.LARGE]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_no_schedule_breaks_it(case):
    outcome = case.run()
    print(f"{case.name}: {outcome}")
    assert outcome.states > 20
