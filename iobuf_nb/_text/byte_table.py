"""`ByteTable`: a table of byte keys as an object, the same in Python and in kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import from_dtype
from numpy.typing import DTypeLike, NDArray

from .._jit import check
from .._jit.faces import is_in_kernels, kernel_face, kernel_overload
from .._jit.handle import Handle, unmade
from .._memory.aligned import MAX_BYTES, aligned_mem
from .._memory.borrowed import memory_info
from .table import (
    BITS,
    COUNT,
    ENTRY_WORDS,
    FIRST_BITS,
    MOST_KEYS,
    REFUSED,
    USED,
    WORDS,
    ByteTableType,
    TableType,
    byte_table_type,
    find,
    rebuild,
    rows_in_kernel,
    slot_of,
    slots_of,
)
from .words import in_range

_REDUCTIONS = {"sum": np.add, "min": np.minimum, "max": np.maximum}


@kernel_face(TableType)
class _Table(Handle):
    """The methods that are compiled once for tables of all dtypes."""

    __slots__ = ()

    @is_in_kernels(slot_of)
    def slot(self, b: Any, start: int, end: int) -> int:
        """Return the slot of the key ``b[start:end]``, which is added if it is not there.

        Parameters
        ----------
        b : uint8 array, 1-D, C-contiguous; from Python any bytes-like object
        start, end : int
            The range in bytes. Kernels do not check it: 0 <= start <= end <= len(b) must hold.

        Returns
        -------
        int
            Keys get 0, 1, 2 and so on, in the order in which they come; -1 if the table is full.

        Raises
        ------
        TypeError, ValueError
            From Python, for invalid arguments.

        Examples
        --------
        >>> table = ByteTable({"count": "sum"})
        >>> table.slot(b"one two one", 0, 3), table.slot(b"one two one", 4, 7), table.slot(b"one two one", 8, 11)
        (0, 1, 0)
        """
        return int(slot_of(self._core, *in_range(b, start, end)))

    @is_in_kernels(find)
    def find(self, b: Any, start: int, end: int) -> int:
        """Return the slot of the key ``b[start:end]``, or -1 if it is not there; arguments and errors as in `slot`.

        Examples
        --------
        >>> table = ByteTable({"count": "sum"})
        >>> table.slot(b"one", 0, 3), table.find(b"one", 0, 3), table.find(b"two", 0, 3)
        (0, 0, -1)
        """
        return int(find(self._core, *in_range(b, start, end)))


@kernel_face(ByteTableType)
class ByteTable(_Table):
    r"""A hash table from byte keys to rows of numbers, the same in Python and in kernels; a state for `stream`.

    Each key has a slot, and each slot a row of `rows`. One thread at a time may use a table: workers of a stream have
    one each, and `merge` combines them.

    Parameters
    ----------
    columns : dict of str
        The columns of a row, and how `merge` makes one value of two: "sum", "min" or "max". The row of a new key has 0
        in columns of sums, and in others the number that any other replaces.
    dtype : {int64, float64}
        Of all columns.
    capacity : int
        The most keys, from 1 to 2**31. Memory is reserved for them, and takes room as keys come.
    key_bytes : int, optional
        The most bytes of all keys together, each counted up to a multiple of 8; by default 32 times `capacity`.

    Attributes
    ----------
    rows : array of shape (capacity + 1, len(columns))
        The values by slot; in kernels too. The last row is spare: ``rows[-1]``, so that what belongs to no slot may be
        written to.
    columns : dict of str
        As given.
    width, capacity : int
        The number of columns; as given. Readable in kernels.
    refused : int
        How many calls of `slot` returned -1 because the table was full.

    Raises
    ------
    TypeError, ValueError, MemoryError
        An argument has the wrong type or is out of range; the system cannot provide the memory.

    Notes
    -----
    A kernel need not look for -1: what it adds to row -1 goes to the spare row, and `items` and `merge` raise an error
    afterwards. Keys are compared byte by byte, may be empty, and have at most 2**30 bytes.

    The hash is no secret: keys can be made up that are slow to find.

    Examples
    --------
    >>> from numba import njit
    >>> @njit
    ... def measure(table, b, start, end, value):
    ...     slot = table.slot(b, start, end)
    ...     table.rows[slot, 0] = max(table.rows[slot, 0], value)
    ...     table.rows[slot, 1] += 1
    >>> table = ByteTable({"highest": "max", "count": "sum"})
    >>> measure(table, np.frombuffer(b"Oslo", np.uint8), 0, 4, -3)
    >>> table, table.rows[table.find(b"Oslo", 0, 4)].tolist()
    (ByteTable({'highest': 'max', 'count': 'sum'}, dtype=int64, 1 of 1048576 keys), [-3, 1])
    """

    __slots__ = (
        *("_index", "_key_bytes", "_memory", "_memory_info", "_room", "_rows", "_values", "_words"),
        *("capacity", "columns", "width"),
    )

    def __init__(
        self,
        columns: Mapping[str, str],
        *,
        dtype: DTypeLike = np.int64,
        capacity: int = 2**20,
        key_bytes: int | None = None,
    ) -> None:
        allowed = "columns must be a dict of names to 'sum', 'min' or 'max'"
        if not isinstance(columns, Mapping):
            raise TypeError(f"{allowed}, not {columns!r:.60}")
        if not columns or any(each not in [*_REDUCTIONS] for each in columns.values()):
            raise ValueError(f"{allowed}, at least one, not {columns!r:.60}")
        kind = None
        with contextlib.suppress(TypeError, ValueError):  # numpy knows no such dtype
            kind = np.dtype(dtype) if isinstance(dtype, (str, type, np.dtype)) else None
        if kind is None or kind not in (np.int64, np.float64):
            raise ValueError(f"dtype must be int64 or float64, not {dtype!r}")
        self.columns = dict(columns)
        self.width = len(self.columns)
        self.capacity = check.integer("capacity", capacity, 1, MOST_KEYS)
        room = 32 * self.capacity if key_bytes is None else check.integer("key_bytes", key_bytes, 0, MAX_BYTES)
        self._room = room + 8 * self.capacity
        most_bits = max(FIRST_BITS, (2 * self.capacity - 1).bit_length())
        self._words = np.zeros(WORDS, np.int64)
        self._words[BITS] = FIRST_BITS
        self._index = aligned_mem(8 * ENTRY_WORDS << most_bits).view(np.int64)
        self._key_bytes = aligned_mem(self._room)
        self._values = aligned_mem(8 * self.width * (self.capacity + 2)).view(np.int64)
        rows = self._values.view(kind).reshape(-1, self.width)
        limits: Any = np.iinfo(kind) if kind.kind == "i" else _Infinities
        rows[-1] = [{"sum": 0, "min": limits.max, "max": limits.min}[each] for each in self.columns.values()]
        self._rows = rows[:-1]
        self._memory, self._memory_info = memory_info(self._values)
        self._describe(byte_table_type(from_dtype(kind)))

    @property
    @is_in_kernels(rows_in_kernel)
    def rows(self) -> NDArray[Any]:
        """The values by slot, and the spare row."""
        return self._rows

    @property
    def refused(self) -> int:
        """How many calls of `slot` returned -1 because the table was full."""
        return int(self._words[REFUSED])

    def __len__(self) -> int:
        return int(self._words[COUNT])

    def __repr__(self) -> str:
        return unmade(self, "ByteTable") or (
            f"ByteTable({self.columns}, dtype={self._rows.dtype}, {len(self)} of {self.capacity} keys)"
        )

    def keys(self) -> list[bytes]:
        """Return the keys in the order of their slots."""
        found, at = [], 0
        for _ in range(len(self)):
            begin = at + 8
            end = begin + int(self._key_bytes[at:begin].view(np.int64)[0])
            found.append(self._key_bytes[begin:end].tobytes())
            at = end + -end % 8
        return found

    def items(self) -> list[tuple[bytes, NDArray[Any]]]:
        """Return each key with a copy of its row, in the order of their slots; ``dict(table.items())`` makes a dict.

        Raises
        ------
        ValueError
            The table was full when further keys came. `keys` and `rows` have those that were there before.
        """
        self._require_all()
        return [*zip(self.keys(), self._rows[: len(self)].copy(), strict=True)]

    def copy(self) -> ByteTable:
        """Return a table with the same keys, slots and rows."""
        return _with_parts(*self._parts())

    def _parts(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the arguments that make such a table, and what is used of its memory."""
        key_bytes = self._room - 8 * self.capacity
        options = {
            "columns": self.columns,
            "dtype": self._rows.dtype,
            "capacity": self.capacity,
            "key_bytes": key_bytes,
        }
        used = {
            "_words": WORDS,
            "_index": ENTRY_WORDS << int(self._words[BITS]),
            "_key_bytes": int(self._words[USED]),
            "_rows": len(self),
        }
        return options, {name: getattr(self, name)[:n] for name, n in used.items()}

    def __reduce__(self) -> Any:
        return _with_parts, self._parts()

    def __deepcopy__(self, memo: Any) -> ByteTable:
        return self.copy()

    def merge(self, other: ByteTable) -> ByteTable:
        """Add the keys and values of another table to this one, and return this; ``combine=ByteTable.merge``.

        Raises
        ------
        TypeError, ValueError
            `other` is not a ByteTable of the same columns and dtype; one of the two was full when further keys came, or
            this one cannot hold the keys of both. Nothing has changed.

        Examples
        --------
        >>> one, two = ByteTable({"count": "sum"}), ByteTable({"count": "sum"})
        >>> for table in (one, two):
        ...     table.rows[table.slot(b"key", 0, 3)] += 1
        >>> one.merge(two).items()
        [(b'key', array([2]))]
        """
        if not isinstance(other, ByteTable):
            raise TypeError(f"other must be a ByteTable, not {other!r:.60}")
        if [*other.columns.items()] != [*self.columns.items()] or other._rows.dtype != self._rows.dtype:
            raise ValueError(f"other must have the columns and the dtype of {self!r}, not be {other!r}")
        self._require_all()
        other._require_all()
        before, slots = self._words.copy(), np.zeros(len(other), np.int64)
        slots_of(self._core, other._core, slots)
        if self.refused:
            self._words[[COUNT, USED, REFUSED]] = before[[COUNT, USED, REFUSED]]
            rebuild(self._core, int(self._words[BITS]))
            raise ValueError(
                f"the capacity ({self.capacity}) and the key_bytes of the table that others are merged into must be "
                f"enough for the keys of all: {self!r} cannot hold those of {other!r}"
            )
        for k, reduction in enumerate(self.columns.values()):
            self._rows[slots, k] = _REDUCTIONS[reduction](self._rows[slots, k], other._rows[: len(other), k])
        return self

    def _require_all(self) -> None:
        if self.refused:
            raise ValueError(
                f"capacity ({self.capacity}) and key_bytes must be enough for all keys: {self!r} was full, and refused "
                f"{self.refused} calls of slot"
            )


def _with_parts(options: dict[str, Any], parts: dict[str, NDArray[Any]]) -> ByteTable:
    """Return a table with this content: a copy, or one that was pickled."""
    table = ByteTable(**options)
    for name, part in parts.items():
        getattr(table, name)[: len(part)] = part
    return table


class _Infinities:
    min, max = -np.inf, np.inf


@kernel_overload(len)
def _len(table: Any) -> Any:
    return (lambda table: table._words[COUNT]) if isinstance(table, TableType) else None
