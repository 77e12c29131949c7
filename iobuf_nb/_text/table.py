"""Tables of byte keys: open addressing over rows of four words, and the rows of values in the order of their keys.

A row of the index is all that a search needs of a key of up to 16 bytes: its first two words, its length and its slot,
and where the key is among the bytes of all keys. They are kept one after the other, each after its length, so the index
can be made anew from them when it grows. All memory is mapped at once, for as many keys as there may ever be, and takes
room as it is used: nothing moves, and kernels hold no address that could become stale.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from .._jit.compile import hot, kernel, out_of_line, tiny
from .._jit.faces import compiled_as
from .._jit.handle import WORD_POINTER, HandleType
from .._jit.instructions import times, wrap
from .._memory.borrowed import lend
from .words import left, lent, load_byte, load_i64, right

#: Words of a table, and those of a row of its index.
COUNT, BITS, USED, REFUSED, WORDS = range(5)
FIRST, SECOND, ENTRY, KEY, ENTRY_WORDS = range(5)

MOST_KEYS = 2**31
LONGEST_KEY = 2**30
FIRST_BITS = 12  #: of the number of rows that an index has at first: few of them used, few keys beside their place
_SLOT = 2**32 - 1  # the low half of a word
# Odd words with the first 64 bits of two fractions: of the golden ratio (Knuth, volume 3, 6.4), and of the root of 3.
_MIX, _MIX_AGAIN = wrap(0x9E3779B97F4A7C15), wrap(0xBB67AE8584CAA73B)


class TableType(HandleType):
    """What tables of all dtypes have in common inside kernels."""

    def __init__(self, name: str = "table of keys", *members: tuple[str, types.Type]) -> None:
        own = [("_words", WORD_POINTER), ("_index", WORD_POINTER), ("_key_bytes", WORD_POINTER)]
        others = [("_values", WORD_POINTER), *((each, types.int64) for each in ("width", "capacity", "_room"))]
        super().__init__(name, [*own, *others, *members])

    @property
    def core(self) -> HandleType:
        """The type without the dtype."""
        return TABLE


class ByteTableType(TableType):
    """The numba type of `ByteTable`."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(f"ByteTable of {dtype}", ("_memory_info", types.int64))


TABLE = TableType()
byte_table_type = functools.cache(ByteTableType)


@intrinsic
def _as_bytes(typingctx: Any, words: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(words), codegen


@compiled_as(lambda table: lent(carray(_as_bytes(table._key_bytes), table._room)))
def _keys(table: Any) -> Any:
    """Return the bytes of all keys, each after its length."""
    return table._key_bytes


@intrinsic
def _values_of(typingctx: Any, table: Any) -> Any:
    result = types.CPointer(table.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        words = context.data_model_manager[table].get(builder, args[0], "_values")
        return builder.bitcast(words, context.get_value_type(result))

    return result(table), codegen


def rows_in_kernel(table):
    """Return the rows of values, and the spare one after them."""
    return lend(carray(_values_of(table), (table.capacity + 1, table.width)), table._memory_info)


@tiny
def _begins(word, n):
    """Return the first `n` bytes of a word, and zeros; n may be less than 0, or more than 8."""
    half = 4 * (8 - min(max(n, 0), 8))  # shifted twice, without a branch: no shift is by 64 bits
    return word & right(right(-1, half), half)


@kernel
def _words_at_the_end(b, start, end):
    """Return the words of a key of less than 16 bytes, and read nothing else."""
    out_of_line()
    first, second = 0, 0
    for k in range(end - start):
        if k < 8:
            first |= left(load_byte(b, start + k), 8 * k)
        else:
            second |= left(load_byte(b, start + k), 8 * (k - 8))
    return first, second


@hot
def _hashed(b, start, end):
    """Return the first two words of a key, and its hash."""
    length = end - start
    if start + 16 <= len(b):
        first, second = _begins(load_i64(b, start), length), _begins(load_i64(b, start + 8), length - 8)
    else:
        first, second = _words_at_the_end(b, start, end)
    code = times(first ^ length, _MIX)
    code = times(code ^ right(code, 32) ^ second, _MIX_AGAIN)
    if length > 16:
        for i in range(start + 16, end - 8, 8):
            code = times(code ^ right(code, 32) ^ load_i64(b, i), _MIX)
        code = times(code ^ right(code, 32) ^ load_i64(b, end - 8), _MIX_AGAIN)
    return first, second, code


@hot
def _same(b, start, keys, other, length):
    """Return whether two keys of more than 16 bytes are the same, if their first 16 are."""
    for k in range(16, length - 8, 8):
        if load_i64(b, start + k) != load_i64(keys, other + k):
            return False
    return load_i64(b, start + length - 8) == load_i64(keys, other + length - 8)


@hot
def _find(table, b, start, end, first, second, code):
    """Return the slot of a key, or -1."""
    bits, length = table._words[BITS], end - start
    place = right(code, 64 - bits)
    while True:
        row = ENTRY_WORDS * place
        entry = table._index[row + ENTRY]
        differ = (table._index[row + FIRST] ^ first) | (table._index[row + SECOND] ^ second)
        if (differ | ((entry >> 32) ^ (length + 1))) == 0:
            if length <= 16 or _same(b, start, _keys(table), table._index[row + KEY], length):
                return entry & _SLOT
        elif entry == 0:
            return -1
        place = (place + 1) & (left(1, bits) - 1)


@hot
def _enter(table, slot, at, length, first, second, code):
    """Write a row of the index where the search for a key ends that is not there."""
    bits = table._words[BITS]
    place = right(code, 64 - bits)
    while table._index[ENTRY_WORDS * place + ENTRY] != 0:
        place = (place + 1) & (left(1, bits) - 1)
    row = ENTRY_WORDS * place
    table._index[row + FIRST] = first
    table._index[row + SECOND] = second
    table._index[row + ENTRY] = ((length + 1) << 32) | slot
    table._index[row + KEY] = at


@kernel
def rebuild(table, bits):
    """Make the index anew, of ``2**bits`` rows."""
    out_of_line()
    keys, at = _keys(table), 0
    for word in range(ENTRY_WORDS << max(bits, table._words[BITS])):
        table._index[word] = 0
    table._words[BITS] = bits
    for slot in range(table._words[COUNT]):
        length, at = load_i64(keys, at), at + 8
        first, second, code = _hashed(keys, at, at + length)
        _enter(table, slot, at, length, first, second, code)
        at += (length + 7) & -8


@kernel
def _insert(table, b, start, end, first, second, code):
    """Add a key that is not there, with a row of values as they are at first; return its slot, or -1."""
    out_of_line()
    words, slot, length = table._words, table._words[COUNT], end - start
    at = words[USED] + 8
    used = at + ((length + 7) & -8)
    lengths_to_come = 8 * (table.capacity - slot - 1)
    if slot == table.capacity or used + lengths_to_come > table._room or not 0 <= length <= LONGEST_KEY:
        words[REFUSED] += 1
        return -1
    keys = _keys(table)
    for k in range(8):
        keys[at - 8 + k] = (length >> 8 * k) & 0xFF
    for k in range(length):
        keys[at + k] = b[start + k]
    words[COUNT], words[USED] = slot + 1, used
    for k in range(table.width):  # the values at first are after the spare row
        table._values[slot * table.width + k] = table._values[(table.capacity + 1) * table.width + k]
    if 2 * (slot + 1) > left(1, words[BITS]):
        rebuild(table, words[BITS] + 1)
    else:
        _enter(table, slot, at, length, first, second, code)
    return slot


@hot
def _find_key(table, b, start, end):
    first, second, code = _hashed(b, start, end)
    return _find(table, b, start, end, first, second, code)


@hot
def _slot_of_key(table, b, start, end):
    first, second, code = _hashed(b, start, end)
    slot = _find(table, b, start, end, first, second, code)
    return slot if slot >= 0 else _insert(table, b, start, end, first, second, code)


@hot
def find(table, b, start, end):
    """Return the slot of a key, or -1."""
    return _find_key(table, lent(b), start, end)


@hot
def slot_of(table, b, start, end):
    """Return the slot of a key, which is added if it is not there; -1 if it cannot be."""
    return _slot_of_key(table, lent(b), start, end)


@kernel
def slots_of(table, other, slots):
    """Write the slot of each key of another table, in their order; stop at one that cannot be added."""
    keys, at = _keys(other), 0
    for k in range(len(slots)):
        length, at = load_i64(keys, at), at + 8
        slots[k] = _slot_of_key(table, keys, at, at + length)
        if slots[k] < 0:
            break
        at += (length + 7) & -8
