"""Text: what each helper finds and reads, in Python and in kernels, which never touch the page after their array."""

import contextlib
import copy
import ctypes
import locale
import math
import mmap
import pickle
import re
import struct
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import config, njit
from numba.core.errors import TypingError
from support import PACKAGE, python, said

from iobuf_nb import stream, text
from iobuf_nb._jit.instructions import times, wrap
from iobuf_nb._text.table import _MIX, _hashed
from iobuf_nb.text import ByteTable

BENCH = PACKAGE.parent / "bench"
PAGE = mmap.PAGESIZE
MEMORY = mmap.mmap(-1, 2 * PAGE)
LAST_PAGE = np.frombuffer(MEMORY, np.uint8, PAGE)
assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(LAST_PAGE.ctypes.data + PAGE), PAGE, 0) == 0


def at_the_end(data):
    """Return data as an array, after which nothing can be read."""
    array = LAST_PAGE[PAGE - len(data) :]
    array[:] = np.frombuffer(data, np.uint8)
    return array


def in_the_middle(data):
    """Return data as the array before 64 bytes of the same kind."""
    return np.frombuffer(bytes(data) + bytes(data[:64]).ljust(64, b"7"), np.uint8)[: len(data)]


def add(table, slot, k, value):
    table.rows[slot, k] += value


class Kernels:
    """The functions of the module, each called by a kernel."""

    find_byte = njit(lambda b, byte, start, end: text.find_byte(b, byte, start, end))
    rfind_byte = njit(lambda b, byte, start, end: text.rfind_byte(b, byte, start, end))
    find_any = njit(lambda b, wanted, start, end: text.find_any(b, wanted, start, end))
    count_byte = njit(lambda b, byte, start, end: text.count_byte(b, byte, start, end))
    trim = njit(lambda b, start, end: text.trim(b, start, end))
    split_fields = njit(lambda b, start, end, byte, bounds: text.split_fields(b, start, end, byte, bounds))
    parse_int = njit(lambda b, start, end: text.parse_int(b, start, end))
    parse_decimal = njit(lambda b, start, end, digits: text.parse_decimal(b, start, end, digits))
    parse_float = njit(lambda b, start, end: text.parse_float(b, start, end))
    load_u64 = njit(lambda b, i: text.load_u64(b, i))
    load_u32 = njit(lambda b, i: text.load_u32(b, i))
    load_u16 = njit(lambda b, i: text.load_u16(b, i))
    load_i64 = njit(lambda b, i: text.load_i64(b, i))
    load_f64 = njit(lambda b, i: text.load_f64(b, i))
    slot = njit(lambda table, b, start, end: table.slot(b, start, end))
    find = njit(lambda table, b, start, end: table.find(b, start, end))
    length = njit(lambda table: len(table))
    add = njit(add)


class Python:
    slot, find, length = ByteTable.slot, ByteTable.find, len
    add = add


for _name in text.__all__:
    setattr(Python, _name, staticmethod(getattr(text, _name)))

FACES = pytest.mark.parametrize("face", [Python, Kernels], ids=["python", "kernel"])
PLACES = pytest.mark.parametrize("place", [at_the_end, in_the_middle])


@st.composite
def ranges(draw, alphabet=b"ab;\n "):
    """Data, and a range of them."""
    middle = draw(st.lists(st.sampled_from(alphabet), max_size=40).map(bytes))
    before, after = (bytes([draw(st.sampled_from(alphabet))]) * draw(st.integers(0, 70)) for _ in range(2))
    data = before + middle + after
    start = draw(st.integers(0, len(data)))
    return data, start, draw(st.integers(start, len(data)))


# ---- loads -----------------------------------------------------------------------------------------------------------

LOADS = {"load_u64": "<Q", "load_u32": "<I", "load_u16": "<H", "load_i64": "<q", "load_f64": "<d"}


@FACES
@pytest.mark.parametrize("name", LOADS)
def test_loads_at_any_address(face, name):
    data = bytes(range(240, 256)) + bytes(range(17))
    array, size = at_the_end(data), struct.calcsize(LOADS[name])
    for i in range(len(data) - size + 1):
        (expected,) = struct.unpack_from(LOADS[name], data, i)
        assert struct.pack("<d", getattr(face, name)(array, i)) == struct.pack("<d", expected)


@pytest.mark.compiled
def test_python_loads_only_what_is_there():
    for i in (-1, 1):
        with pytest.raises(IndexError, match=f"i of text.load_u64 must leave 8 bytes, from 0 to 0, not {i}"):
            text.load_u64(bytes(8), i)
    with pytest.raises(TypeError, match="i of text.load_u16 must be an integer, not 0.5"):
        text.load_u16(bytes(8), 0.5)


@pytest.mark.skipif(not config.DISABLE_JIT, reason="about kernels that are interpreted")
def test_interpreted_kernels_load_zeros_past_the_end():
    assert text.load_u32(b"\1\2\3", 1) == 0x0302
    with pytest.raises(IndexError, match="must leave 4 bytes"):
        text.load_u32(b"\1\2\3", 4)


# ---- searches --------------------------------------------------------------------------------------------------------


@FACES
@PLACES
@given(ranges())
@example((b"x" * 31 + b";" + b"x" * 32 + b";", 0, 65))
@example((b";" * 80, 40, 40))
@example((b";" * 40 + b"x" * 9 + b";" * 40, 41, 49))
@settings(deadline=None)
def test_searches(face, place, given):
    data, start, end = given
    b = place(data)
    assert face.find_byte(b, 59, start, end) == data.find(b";", start, end)
    assert face.rfind_byte(b, 59, start, end) == data.rfind(b";", start, end)
    assert face.count_byte(b, 59, start, end) == data.count(b";", start, end)
    first = [i for i in range(start, end) if data[i] in b";\n"]
    assert face.find_any(b, np.frombuffer(b";\n", np.uint8), start, end) == (first[0] if first else -1)
    begin, stop = face.trim(b, start, end)
    assert data[begin:stop] == data[start:end].strip() and start <= begin <= stop <= end


@FACES
@PLACES
@given(ranges(), st.integers(0, 5))
@settings(deadline=None)
def test_fields(face, place, given, room):
    data, start, end = given
    bounds = np.full((room, 2), -7)
    fields = data[start:end].split(b";")
    assert face.split_fields(place(data), start, end, 59, bounds) == len(fields)
    assert [data[begin:stop] for begin, stop in bounds[: len(fields)]] == fields[:room]


def test_all_white_space_is_trimmed():
    every = bytes(range(256))
    for byte in every:
        assert text.trim(bytes([byte]), 0, 1) == ((1, 1) if bytes([byte]).isspace() else (0, 1))


def test_none_of_no_bytes_is_found():
    assert text.find_any(b"abc", b"", 0, 3) == -1


def test_a_kernel_finds_any_of_a_constant():
    kernel = njit(lambda b: text.find_any(b, b":=", 0, len(b)))
    assert kernel(np.frombuffer(b"key = value", np.uint8)) == 4


# ---- numbers ---------------------------------------------------------------------------------------------------------

NUMBERS = st.from_regex(rb"\A[+-]?[0-9]{0,22}(\.[0-9]{0,12})?[;e.x+-]?[0-9]{0,2}\Z")


def decimal_of(data, digits):
    """Return what parse_decimal should, by other means."""
    point = rb"(?:\.[0-9]{0,%d})?" % digits if digits else b""
    found = re.match(rb"[+-]?(?=\.?[0-9])[0-9]*" + point, data) if digits else re.match(rb"[+-]?[0-9]+", data)
    value = int(Decimal(found[0].decode()).scaleb(digits)) if found else 0
    return (value, found.end()) if found and -(2**63) <= value < 2**63 else (0, -1)


@FACES
@PLACES
@given(NUMBERS, st.binary(max_size=9), st.integers(0, 12))
@example(b"-9223372036854775808", b"", 0)
@example(b"9223372036854775807", b"", 0)
@example(b"9223372036854775808", b"", 0)
@example(b"-9223372036854775809", b"", 0)
@example(b"-1234567", b"", 0)
@example(b"1234567", b"8", 0)
@example(b"12345.6", b"7", 1)
@example(b"12345678", b"", 0)
@example(b"5.", b"", 1)
@example(b".5", b"", 1)
@example(b"-", b"", 1)
@example(b"", b"1", 1)
@settings(deadline=None)
def test_decimals(face, place, data, after, digits):
    b = place(data + after)
    assert face.parse_decimal(b, 0, len(data), digits) == decimal_of(data, digits)
    assert face.parse_int(b, 0, len(data)) == decimal_of(data, 0)


@FACES
@PLACES
@given(st.integers(-9999, 9999), st.integers(0, 5), st.integers(0, 30))
@settings(deadline=None)
def test_short_decimals_wherever_they_are(face, place, number, digits, before):
    data = f"{Decimal(number).scaleb(-digits):f}".encode()
    b = place(b"5" * before + data + b"\n")
    assert face.parse_decimal(b, before, len(b), digits) == (number, before + len(data))


def same(a, b):
    return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))


def float_of(data):
    number = rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:infinity|inf|nan))"
    found = re.match(number, data)
    return (float(found[0]), found.end()) if found else (math.nan, -1)


FLOATS = st.one_of(
    st.floats().map(lambda value: repr(value).encode()),
    st.floats(width=32).map(lambda value: f"{value:.6g}".encode()),
    st.from_regex(rb"\A[+-]?[0-9]{0,25}(\.[0-9]{0,25})?([eE][+-]?[0-9]{0,3})?[x;.]?\Z"),
    st.sampled_from([b"inf", b"-Infinity", b"NaN", b"+nan", b"infinit", b"in", b"-", b"", b"e5", b".", b"1e", b"0x10"]),
)


@FACES
@PLACES
@given(FLOATS, st.binary(max_size=3))
@example(b"9007199254740993", b"")
@example(b"9007199254740993e1", b"")
@example(b"9007199254740992e22", b"")
@example(b"2.2250738585072011e-308", b"")
@example(b"4.9e-324", b"")
@example(b"1.7976931348623159e308", b"")
@example(b"1e99999999999999999999", b"")
@example(b"0." + b"0" * 400 + b"1e401", b"")
@example(b"-0.0", b"")
@settings(deadline=None)
def test_floats(face, place, data, after):
    value, stop = face.parse_float(place(data + after), 0, len(data))
    expected, end = float_of(data)
    assert same(value, expected) and stop == end


def test_the_point_is_none_of_the_locale():
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8"):
            with contextlib.suppress(locale.Error):
                locale.setlocale(locale.LC_NUMERIC, name)
        if locale.localeconv()["decimal_point"] == ".":
            pytest.skip("this system has no locale with another point")
        assert text.parse_float(b"1.5000000000000000000001", 0, 24) == (1.5, 24)
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def test_floats_of_halves_are_rounded_to_even():
    for k in range(1, 60):
        exact = Decimal(2**53 + k) + Decimal("0.5") * (k % 2)
        data = f"{exact}{'0' * k}1".encode()
        assert text.parse_float(data, 0, len(data)) == (float(data), len(data))


# ---- bad input -------------------------------------------------------------------------------------------------------

BAD = [
    (lambda: text.find_byte(b"abc", 256, 0, 3), ValueError, "byte must be an integer from 0 to 255, not 256"),
    (lambda: text.find_byte(b"abc", b"a", 0, 3), TypeError, "byte must be an integer from 0 to 255, not b'a'"),
    (lambda: text.count_byte(b"abc", 1, 0, 4), ValueError, "end must be an integer from 0 to 3, not 4"),
    (lambda: text.rfind_byte(b"abc", 1, 3, 2), ValueError, "start must be an integer from 0 to 2, not 3"),
    (lambda: text.trim(b"abc", -1, 2), ValueError, "start must be an integer from 0 to 2, not -1"),
    (lambda: text.trim("abc", 0, 2), TypeError, "b must be a uint8 array or bytes-like, not 'abc'"),
    (lambda: text.trim(5, 0, 2), TypeError, "b must be a uint8 array or bytes-like, not 5"),
    (lambda: text.parse_int(np.zeros(3), 0, 2), TypeError, "b must be a one-dimensional contiguous uint8 array, not"),
    (lambda: text.parse_float(np.zeros(9, "u1")[::2], 0, 2), ValueError, "contiguous uint8 array, not"),
    (lambda: text.parse_decimal(b"1", 0, 1, 19), ValueError, "digits must be an integer from 0 to 18, not 19"),
    (lambda: text.split_fields(b"1", 0, 1, 44, np.zeros(4)), TypeError, r"int64 array of shape \(n, 2\), not"),
    (lambda: text.split_fields(b"1", 0, 1, 44, [[0, 0]]), TypeError, r"bounds must be an int64 array of shape"),
    (lambda: ByteTable(["count"]), TypeError, r"columns must be a dict of names to 'sum', 'min' or 'max', not \['c"),
    (lambda: ByteTable({}), ValueError, "at least one, not {}"),
    (lambda: ByteTable({"a": "mean"}), ValueError, "columns must be a dict .* not {'a': 'mean'}"),
    (lambda: ByteTable({"a": ["sum"]}), ValueError, r"columns must be a dict .* not {'a': \['sum'\]}"),
    (lambda: ByteTable({"a": "sum"}, dtype="f4"), ValueError, "dtype must be int64 or float64, not 'f4'"),
    (lambda: ByteTable({"a": "sum"}, dtype=8), ValueError, "dtype must be int64 or float64, not 8"),
    (lambda: ByteTable({"a": "sum"}, dtype="f9"), ValueError, "dtype must be int64 or float64, not 'f9'"),
    (
        lambda: ByteTable({"a": "sum"}, capacity=0),
        ValueError,
        "capacity must be an integer from 1 to 2147483648",
    ),
    (lambda: ByteTable({"a": "sum"}, key_bytes=-1), ValueError, "key_bytes must be an integer from 0 to"),
    (lambda: ByteTable({"a": "sum"}).slot(b"a", 0, 2), ValueError, "end must be an integer from 0 to 1, not 2"),
    (lambda: ByteTable({"a": "sum"}).merge({}), TypeError, "other must be a ByteTable, not {}"),
    (lambda: ByteTable({"a": "sum"}).merge(ByteTable({"b": "sum"})), ValueError, "the columns and the dtype of"),
]


@pytest.mark.parametrize("call, error, sentence", BAD)
def test_refuses(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


def test_fields_are_not_written_to_an_array_to_read():
    bounds = np.zeros((2, 2), np.int64)
    bounds.flags.writeable = False
    with pytest.raises(ValueError, match="bounds must be writable"):
        text.split_fields(b"1", 0, 1, 44, bounds)


@pytest.mark.compiled
@pytest.mark.parametrize("b", [np.zeros(9), np.zeros((2, 2), np.uint8), np.zeros(9, np.uint8)[::2]])
@pytest.mark.parametrize("function", [lambda b: text.load_u64(b, 0), lambda b: text.parse_int(b, 0, 1)])
def test_kernels_refuse_what_is_no_array_of_bytes(function, b):
    with pytest.raises(TypingError, match="b must be a one-dimensional contiguous uint8 array"):
        njit(function)(b)


# ---- tables ----------------------------------------------------------------------------------------------------------

COLUMNS = {"total": "sum", "low": "min", "high": "max"}
LENGTHS = 0, 1, 7, 8, 9, 15, 16, 17, 24, 100
KEYS = st.builds(
    lambda length, change, byte: (bytes(change) + bytes([byte]) + bytes(100))[:length],
    st.sampled_from(LENGTHS),
    st.integers(0, 0) | st.integers(6, 9) | st.integers(14, 17),
    st.integers(0, 2),
)


def counted(face, keys, place=at_the_end, **options):
    """Return a table of how often each key comes."""
    table = ByteTable({"count": "sum"}, **options)
    for key in keys:
        face.add(table, face.slot(table, place(key), 0, len(key)), 0, 1)
    return table


@FACES
@PLACES
@given(st.lists(KEYS))
@settings(deadline=None)
def test_a_table_is_like_a_dict(face, place, keys):
    table = counted(face, keys, place, capacity=200)
    expected = {key: keys.count(key) for key in keys}
    assert table.keys() == list(expected) and face.length(table) == len(table) == len(expected)
    assert {key: row.tolist() for key, row in table.items()} == {key: [n] for key, n in expected.items()}
    for slot, key in enumerate(expected):
        assert face.find(table, place(key + b"!"), 0, len(key)) == slot
    assert face.find(table, place(b"no such key"), 0, 11) == -1 and len(table) == len(expected)


@FACES
def test_an_index_grows(face):
    keys = [b"%d" % k + b"x" * (k % 20) for k in range(3000)]
    table = counted(face, [*keys, *keys, keys[0]])
    assert table.keys() == keys and table.rows[:3000, 0].tolist() == [3] + [2] * 2999
    assert [face.find(table, at_the_end(key), 0, len(key)) for key in keys] == [*range(3000)]


def with_the_same_hash(first, other, second, length):
    """Return the second word that makes a key that begins with `other` hash like one of the words first, second."""

    def mixed(word):
        code = times(word ^ length, _MIX)
        return code ^ ((code & (2**64 - 1)) >> 32)

    return wrap(mixed(first) ^ mixed(other) ^ second)


@FACES
@pytest.mark.parametrize("more", [b"", b"and the same end"])
def test_keys_with_the_same_hash_stay_apart(face, more):
    length = 16 + len(more)
    words = [(k, with_the_same_hash(1, k, 77, length)) for k in range(1, 8)]
    keys = [struct.pack("<qq", *each) + more for each in words]
    assert len({_hashed(np.frombuffer(key, np.uint8), 0, length)[2] for key in keys}) == 1
    assert counted(face, keys * 2).keys() == keys


@FACES
@pytest.mark.parametrize("more", [b"", b"and the same end"])
def test_long_keys_differ_after_their_first_words(face, more):
    keys = [b"the same beginning %d" % k + more for k in range(2000)]  # many have the same place in the index
    assert counted(face, keys).keys() == keys


@FACES
def test_rows_begin_with_what_any_value_replaces(face):
    table = ByteTable(COLUMNS)
    face.slot(table, at_the_end(b"key"), 0, 3)
    assert table.rows[0].tolist() == [0, 2**63 - 1, -(2**63)]
    table = ByteTable(COLUMNS, dtype=np.float64)
    face.add(table, face.slot(table, at_the_end(b"key"), 0, 3), 0, 0.5)
    assert table.rows[0].tolist() == [0.5, np.inf, -np.inf]


@FACES
def test_a_full_table_says_so(face):
    table = counted(face, [b"one", b"two", b"one", b"three", b"four", b"two"], capacity=2)
    assert table.keys() == [b"one", b"two"] and table.rows[:, 0].tolist() == [2, 2, 2] and table.refused == 2
    for use in (table.items, lambda: table.merge(ByteTable({"count": "sum"})), lambda: table.copy().items()):
        with pytest.raises(ValueError, match=r"capacity \(2\) and key_bytes must be enough .* refused 2 calls of slot"):
            use()
    table = counted(face, [b"a" * 16, b"b" * 17, b"c" * 8, b"d"], capacity=4, key_bytes=32)
    assert table.keys() == [b"a" * 16, b"c" * 8, b"d"] and table.refused == 1


@given(st.lists(st.tuples(KEYS, st.integers(-9, 9))), st.lists(st.tuples(KEYS, st.integers(-9, 9))))
@settings(deadline=None)
def test_merged_tables_have_what_both_have(ours, theirs):
    def table_of(pairs):
        table = ByteTable(COLUMNS, capacity=500)
        for key, value in pairs:
            row = table.rows[table.slot(key, 0, len(key))]
            row[:] = row[0] + value, min(row[1], value), max(row[2], value)
        return table

    table, other = table_of(ours), table_of(theirs)
    before = [(key, row.tolist()) for key, row in other.items()]
    assert table.merge(other) is table
    expected = table_of(ours + theirs)
    assert [(k, row.tolist()) for k, row in table.items()] == [(k, row.tolist()) for k, row in expected.items()]
    assert [(key, row.tolist()) for key, row in other.items()] == before


def test_a_merge_that_does_not_fit_changes_nothing():
    table = counted(Python, [b"one", b"two"], capacity=3)
    with pytest.raises(ValueError, match=r"the capacity \(3\) .* must be enough for the keys of all"):
        table.merge(counted(Python, [b"two", b"three", b"four"]))
    assert [(key, *row) for key, row in table.items()] == [(b"one", 1), (b"two", 1)]
    assert table.find(b"three", 0, 5) == -1 and table.slot(b"five", 0, 4) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_a_copy_is_another_table(copied):
    table = counted(Python, [b"one", b"two"], capacity=10, key_bytes=100)
    other = copied(table)
    table.rows[0] += 5
    table.slot(b"three", 0, 5)
    assert [(key, *row) for key, row in other.items()] == [(b"one", 1), (b"two", 1)]
    assert other.find(b"three", 0, 5) == -1 and repr(other).endswith("2 of 10 keys)")
    assert (other.slot(b"two", 0, 3), other.slot(b"four", 0, 4)) == (1, 2)


@njit
def count_lines(buffer, n, offset, table):
    i = 0
    while i < n:
        end = text.find_byte(buffer, 10, i, n)
        table.rows[table.slot(buffer, i, end), 0] += 1
        i = end + 1


@pytest.mark.parametrize("shared", [True, False])
def test_a_table_is_a_state_of_a_stream(file, shared):
    keys = [b"%d" % (k * k % 701) for k in range(20_000)]
    state = ByteTable({"count": "sum"}) if shared else lambda: ByteTable({"count": "sum"})
    path = file(b"".join(key + b"\n" for key in keys))
    result = stream(path, count_lines, state=state, combine=ByteTable.merge, delimiter=b"\n", workers=3, tier=4096)
    assert {key: int(row[0]) for key, row in result.state.items()} == {key: keys.count(key) for key in {*keys}}
    if shared:
        assert len(state) == 0


def test_rows_that_a_kernel_returns_outlive_the_table():
    table = counted(Python, [b"one"])
    rows = njit(lambda table: table.rows[:1])(table)
    del table
    assert rows.tolist() == [[1]]


# ---- the challenge ---------------------------------------------------------------------------------------------------


def test_the_one_billion_row_challenge(tmp_path):
    path, stations = tmp_path / "measurements", 413
    assert said(str(BENCH / "measurements.py"), "3000", str(path)) == ""
    found = {}
    for line in path.read_bytes().splitlines():
        name, value = line.split(b";")
        found.setdefault(name, []).append(Decimal(value.decode()))
    assert len(found) == stations and sum(map(len, found.values())) == 3000
    rows = [
        f"{name.decode()}={min(values)}/{int(10 * sum(values)) / len(values) / 10:.1f}/{max(values)}"
        for name, values in sorted(found.items())
    ]
    assert said(str(BENCH / "one_billion_rows.py"), str(path)) == "{" + ", ".join(rows) + "}"


def test_a_line_that_is_none_is_refused(tmp_path):
    path = tmp_path / "measurements"
    path.write_text("Oslo;1.5\nOslo\n")
    done = python(str(BENCH / "one_billion_rows.py"), str(path))
    assert done.returncode == 1 and "each line must be name;-12.3" in done.stderr
