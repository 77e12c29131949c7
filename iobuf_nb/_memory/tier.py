"""The eight buffer sizes: powers of four from 16 bytes to 256 KiB."""

from __future__ import annotations

from enum import IntEnum

from numba import types
from numba.extending import overload_attribute

from .._jit import check


class Tier(IntEnum):
    """A buffer size in bytes; each tier is four times the previous one.

    In kernels a tier is a constant: ``Tier.SMALL.size``, ``Tier.SMALL.value`` and comparisons work there.

    Examples
    --------
    >>> Tier.SMALL.size
    1024
    >>> Tier.for_size(1500)
    <Tier.MEDIUM: 4096>
    """

    PICO = 16  #: flags, tiny metadata
    NANO = 64  #: small headers, tokens; one cache line
    MICRO = 256  #: protocol headers
    SMALL = 1024  #: small messages
    MEDIUM = 4096  #: I/O of one page
    LARGE = 16384  #: large transfers
    HUGE = 65536  #: the largest UDP datagram
    GIANT = 262144  #: bulk I/O

    @property
    def size(self) -> int:
        """Bytes of one buffer."""
        return int(self)

    @classmethod
    def for_size(cls, n: int) -> Tier:
        """Return the smallest tier whose buffers hold `n` bytes.

        Parameters
        ----------
        n : int
            Bytes, from 1 to 262144 (GIANT).

        Raises
        ------
        TypeError, ValueError
            `n` is not an integer, or out of its range.
        """
        n = check.integer("n", n, 1, cls.GIANT)
        return next(tier for tier in cls if n <= tier)


@overload_attribute(types.IntEnumMember, "size")
def _size(member):
    return (lambda member: member.value) if member.instance_class is Tier else None
