"""The One Billion Row Challenge on `iobuf_nb.stream`: ``python bench/one_billion_rows.py FILE``.

Each line of the file is ``name;-12.3``. It prints the least, mean and greatest measurement of each station.
`measurements` beside this file makes such files.
"""

from __future__ import annotations

import sys

from numba import njit

from iobuf_nb import stream
from iobuf_nb.text import ByteTable, find_byte, parse_decimal

COLUMNS = {"low": "min", "high": "max", "total": "sum", "count": "sum"}
LOW, HIGH, TOTAL, COUNT = range(4)
SEMICOLON = ord(";")


@njit(nogil=True, cache=True)
def tally(buffer, n, offset, table):
    rows = table.rows
    i = 0
    while i < n:
        end = find_byte(buffer, SEMICOLON, i, n)
        tenths, after = parse_decimal(buffer, end + 1, n, 1)
        if end < 0 or after < 0:
            raise ValueError("each line must be name;-12.3")
        slot = table.slot(buffer, i, end)
        rows[slot, LOW] = min(rows[slot, LOW], tenths)
        rows[slot, HIGH] = max(rows[slot, HIGH], tenths)
        rows[slot, TOTAL] += tenths
        rows[slot, COUNT] += 1
        i = after + 1


def main(path: str) -> None:
    table = stream(path, tally, state=ByteTable(COLUMNS), combine=ByteTable.merge, delimiter=b"\n").state
    shown = []
    for name, row in sorted(table.items()):
        low, high, total, count = row.tolist()
        shown.append(f"{name.decode()}={low / 10:.1f}/{total / count / 10:.1f}/{high / 10:.1f}")
    print("{" + ", ".join(shown) + "}")


if __name__ == "__main__":
    main(sys.argv[1])
