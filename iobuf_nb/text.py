r"""Text as bytes, for kernels and for Python: loads, searches, numbers, fields, and tables of keys.

Every function takes the bytes it reads from as an array `b` (one-dimensional, contiguous, uint8), with a range of it
where it does not read a fixed number of bytes, and allocates nothing. It is the same in both:

- in a kernel it is compiled into the kernel. Nothing is checked, and nothing raises: what cannot be found or read has
  the index -1. Only the loads may read beyond the range they are given.
- in Python `b` may be any bytes-like object. Arguments are checked, and the GIL is held; a call takes two
  microseconds or so.
- with ``NUMBA_DISABLE_JIT=1`` it is interpreted.

All functions are thread-safe; one thread at a time may use a `ByteTable`.

Examples
--------
>>> import tempfile
>>> from numba import njit
>>> from iobuf_nb import stream, text
>>> @njit
... def add(buffer, n, offset, table):
...     i = 0
...     while i < n:
...         comma = text.find_byte(buffer, 44, i, n)
...         cents, end = text.parse_decimal(buffer, comma + 1, n, 2)
...         if comma < 0 or end < 0:
...             raise ValueError("each line must be name,12.34")
...         table.rows[table.slot(buffer, i, comma), 0] += cents
...         i = end + 1
>>> with tempfile.NamedTemporaryFile() as file:
...     _ = file.write(b"tea,2.50\ncake,3.75\ntea,2.70\n")
...     file.flush()
...     table = text.ByteTable({"cents": "sum"})
...     result = stream(file.name, add, state=table, combine=text.ByteTable.merge, delimiter=b"\n")
>>> [(name, row.tolist()) for name, row in result.state.items()]
[(b'tea', [520]), (b'cake', [375])]
"""

from ._text.byte_table import ByteTable
from ._text.numbers import parse_decimal, parse_float, parse_int
from ._text.search import count_byte, find_any, find_byte, rfind_byte, split_fields, trim
from ._text.words import load_f64, load_i64, load_u16, load_u32, load_u64

__all__ = [
    "ByteTable",
    "count_byte",
    "find_any",
    "find_byte",
    "load_f64",
    "load_i64",
    "load_u16",
    "load_u32",
    "load_u64",
    "parse_decimal",
    "parse_float",
    "parse_int",
    "rfind_byte",
    "split_fields",
    "trim",
]
