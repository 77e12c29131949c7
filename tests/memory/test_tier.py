"""The eight sizes."""

import pytest
from numba import njit

from iobuf_nb import BufferPool, Tier


def test_are_powers_of_four():
    assert [tier.size for tier in Tier] == [16 * 4**k for k in range(8)]
    assert [tier.name for tier in Tier] == ["PICO", "NANO", "MICRO", "SMALL", "MEDIUM", "LARGE", "HUGE", "GIANT"]


@pytest.mark.parametrize("tier", Tier)
def test_for_size_is_the_smallest_that_fits(tier):
    assert Tier.for_size(tier.size) is tier
    assert Tier.for_size(tier.size - 1) is tier
    if tier is not Tier.GIANT:
        assert Tier.for_size(tier.size + 1) == 4 * tier


@pytest.mark.parametrize("tier", Tier)
def test_every_tier_makes_a_pool(tier):
    pool = BufferPool(3, tier)
    with pool.lease() as buffer:
        assert buffer.nbytes == tier.size


def test_work_in_kernels():
    @njit
    def sizes(tier):
        return Tier.SMALL.size, Tier.HUGE.value, tier.size, tier == Tier.NANO

    assert sizes(Tier.NANO) == (1024, 65536, 64, True)
