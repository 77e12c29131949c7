"""Element types of pools and streams: what is taken, a kernel reads as Python does, and the rest is refused."""

import sys

import numpy as np
import pytest
from numba import njit

from iobuf_nb import BufferPool, stream

ITEMS = 24
PLAIN = ["?", "i1", "u2", "i4", "u8", "f4", "f8", "c8", "c16", "S4", "U3", "m8", "M8[ns]", "m8[Y]"]
RECORDS = {
    "packed": [("a", "u1"), ("b", "f8"), ("c", "c16"), ("d", "M8[s]"), ("e", "?")],
    "aligned": np.dtype([("a", "u1"), ("b", "f8"), ("c", "i2"), ("d", "m8[ms]")], align=True),
    "out of order": {"names": ["a", "b"], "formats": ["f8", "i4"], "offsets": [4, 0]},
    "padded": {"names": ["a", "b"], "formats": ["f8", "i4"], "offsets": [9, 2], "itemsize": 41},
    "union": {"names": ["a", "b", "c"], "formats": ["i4", "u1", "i2"], "offsets": [0, 1, 2]},
    "titled": [(("title", "a"), "i4"), ("b", "f8")],
    "with rows": [("a", "i2", (2, 3)), ("b", "u1"), ("c", "c16", (2,)), ("d", "f4", 3)],
    "with rows of nothing": [("a", "i4", (0,)), ("b", "i4")],
    "nested": [("a", "u1"), ("b", [("c", "f4"), ("d", "i8", (2,)), ("e", [("f", "M8[D]"), ("g", "u2")])]), ("h", "i2")],
    "rows of records": [("a", "u1"), ("b", [("c", "u1"), ("d", "f8")], (2,))],
    "text": [("a", "S3"), ("b", "U2"), ("c", "u1")],
    "names": [("a b", "i4"), ("é", "f8"), ("dtype", "i2")],
}
TAKEN = {**{name: name for name in PLAIN}, **RECORDS}


def places(dtype, where="items[k]"):
    """Return how to say, in a kernel and for numpy alike, where each plain value of an item lies; and its dtype."""
    if dtype.subdtype:
        base, shape = dtype.subdtype
        return [place for i in np.ndindex(shape) for place in places(base, where + f"[{', '.join(map(str, i))}]")]
    if not dtype.names:
        return [(where, dtype)]
    return [place for name in dtype.names for place in places(dtype[name], f"{where}[{name!r}]")]


def noise(dtype):
    """Return random bytes of some items, the first of them zeros; text gets letters that there are."""
    raw = np.random.default_rng(7).integers(0, 256, ITEMS * dtype.itemsize, dtype=np.uint8)
    raw[: dtype.itemsize] = 0
    items = raw.view(dtype)
    for where, leaf in places(dtype):
        if leaf.kind == "U":
            path = where.removeprefix("items[k]")
            texts = ["", "\0b", "a\0", "äß", "\U0010ffff"] * ITEMS
            exec(f"for k in range({ITEMS}): items[k]{path} = texts[k]", {"items": items, "texts": texts})
    return raw


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("name", TAKEN)
def test_kernels_read_what_python_reads(name, tmp_path):
    dtype = np.dtype(TAKEN[name])
    raw = noise(dtype)
    (tmp_path / "items").write_bytes(raw)
    pool = BufferPool(2, shape=ITEMS, dtype=dtype)
    pool.value(1).view(np.uint8)[:] = raw
    copies = "".join(f"  out[{i}][k] = {where}\n" for i, (where, _) in enumerate(places(dtype)))
    source = f"""
def read(items, out):
 for k in range(len(items)):
{copies}
def from_pool(pool, out):
 items = pool.value(1)
 for k in range(len(items)):
{copies}
def from_stream(items, n, offset, out):
 for k in range(n):
{copies}"""
    space = {}
    exec(source, space)
    python, in_pool, in_stream = (tuple(np.zeros(ITEMS, leaf) for _, leaf in places(dtype)) for _ in range(3))
    space["read"](pool.value(1), python)
    njit(space["from_pool"])(pool, in_pool)
    in_stream = stream(tmp_path / "items", njit(space["from_stream"]), state=in_stream, workers=1, dtype=dtype).state[0]
    for got in (in_pool, in_stream):
        for (where, _), wanted, read in zip(places(dtype), python, got, strict=True):
            assert repr(read.tolist()) == repr(wanted.tolist()), where


@pytest.mark.compiled
def test_bools_that_are_neither_0_nor_1_are_true_in_kernels():
    pool = BufferPool(1, shape=256, dtype="?")
    pool.value(0).view(np.uint8)[:] = range(256)
    true = njit(lambda pool: [k for k, bit in enumerate(pool.value(0)) if bit])(pool)
    assert true == np.flatnonzero(pool.value(0)).tolist() == list(range(1, 256))


@njit
def ignore(buffer, n, offset, state):
    pass


FITS = "dtype must be one that numba knows, not "
USABLE = "dtype must be one whose arrays kernels can use, not "
PLAIN_MEMORY = "dtype must be one of plain memory, not "
NATIVE = r": kernels read the machine's own byte order only; pass dtype.newbyteorder\('='\)$"
SWAPPED = [">i2", ">u4", ">i8", ">f4", ">f8", ">c8", ">c16", ">U4", ">m8", ">m8[s]", ">M8[ns]", ">M8[D]"]
REFUSED = {
    **{name: (name, rf"{FITS}.*{NATIVE}") for name in SWAPPED},
    "swapped in a record": ([("a", "i4"), ("b", ">M8[s]")], rf"{FITS}.*, in which 'b' is >M8\[s\]{NATIVE}"),
    "swapped in nested records": (
        [("a", [("b", [("c", ">m8[D]")])])],
        rf"{FITS}.*, in which 'a.b.c' is >m8\[D\]{NATIVE}",
    ),
    "swapped in rows": ([("a", ">m8[s]", (2,))], rf"{FITS}.*, in which 'a' is >m8\[s\]{NATIVE}"),
    "swapped in rows of records": (
        [("a", [("b", "u1"), ("c", ">U2")], 3)],
        rf"{FITS}.*, in which 'a.c' is >U2{NATIVE}",
    ),
    "swapped in a union": (
        {"names": ["a", "b"], "formats": ["m8[s]", ">m8[s]"], "offsets": [0, 0]},
        rf"{FITS}.*, in which 'b' is >m8\[s\]{NATIVE}",
    ),
    "swapped, of another title": ([(("title", "a"), ">f8")], rf"{FITS}.*, in which 'a' is >f8{NATIVE}"),
    "half": ("f2", f"{USABLE}float16"),
    "half in a record": ([("a", "i4"), ("b", "f2")], f"{USABLE}.*, in which 'b' is float16"),
    "long double": ("g", f"{FITS}{np.dtype('g')}"),
    "long complex": ("G", f"{FITS}{np.dtype('G')}"),
    "long in a record": ([("a", "g")], FITS),
    "objects": ("O", f"{PLAIN_MEMORY}object"),
    "objects in a record": ([("a", "i4"), ("b", "O")], PLAIN_MEMORY),
    "void": ("V8", FITS),
    "void in a record": ([("a", "V3"), ("b", "i4")], FITS),
    "nothing": ("V0", USABLE),
    "text of no length": ("S0", USABLE),
    "records of nothing": ([], USABLE),
    "nothing in a record": ([("a", "S0"), ("b", "i4")], f"{USABLE}.*, in which 'a' is "),
    "25 seconds": ("M8[25s]", rf"{FITS}datetime64\[25s\]"),
    "7 days in a record": ([("a", "m8[7D]")], FITS),
    "rows": (("f4", (2,)), USABLE),
    "rows of bools in a record": ([("a", "?", (3,))], FITS),
    "rows of times in a record": ([("a", "m8[s]", (2,))], FITS),
    "rows of text in a record": ([("a", "S3", (2,))], FITS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_dtypes_are_refused_by_pools_and_streams_alike(name):
    dtype, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        BufferPool(2, shape=3, dtype=np.dtype(dtype))
    if name != "rows":  # of which kernels of streams get arrays of two axes
        with pytest.raises(TypeError, match=message):
            stream("/dev/null", ignore, state=np.zeros(1), dtype=np.dtype(dtype))


@pytest.mark.parametrize("name", [name for name in REFUSED if "swapped" in name or name in SWAPPED])
def test_what_the_error_says_to_pass_is_taken(name):
    native = np.dtype(REFUSED[name][0]).newbyteorder("=")
    if "rows" not in name or "records" in name:  # numba knows no rows of times
        BufferPool(2, shape=3, dtype=native)


def test_dtypes_of_the_machines_own_order_are_taken_by_any_name():
    for name in ("=m8[s]", "<i4" if sys.byteorder == "little" else ">i4", ">u1", ">S4", ">?"):
        assert BufferPool(1, shape=2, dtype=name).dtype == np.dtype(name)
