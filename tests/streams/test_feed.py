"""Feeds: parts of pipes and sockets, and their pieces with neighbours, are those of files and of slices."""

import gzip
import sys

import numpy as np
import pytest
from numba import njit
from streaming import fed, text

from iobuf_nb import BufferPool, stream

LINES = b"\n".join([b"", *(text(k, k).replace(b"\n", b"-") for k in range(60)), b"the last line"])


@njit
def core(buffer, n, offset, state, before, output):
    """Copy a piece without its neighbours."""
    for k in range(n):
        output[k] = buffer[before + k]
    return n


@njit
def neighbours(buffer, n, offset, state, before, after, output):
    """Add up each item and those beside it."""
    for k in range(before, before + n):
        output[k - before] = buffer[k] + (buffer[k - 1] if k else 0) + (buffer[k + 1] if k + 1 < len(buffer) else 0)
    return n


def collected(kind, data, kernel, **options):
    with fed(kind, data, 300) as reader:
        return stream(reader, kernel, workers=2, **options).collected


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("tier", [64, 4096])
@pytest.mark.parametrize("start, stop, skip", [(0, None, 3), (7, None, 0), (7, 1000, 2), (0, 0, 0), (99_999, None, 1)])
def test_parts_of_records(kind, tier, start, stop, skip):
    data = text(3000)
    expected = data[start:stop][2 * skip :]
    expected = expected[: len(expected) // 2 * 2]
    stop = start + 2 * skip + len(expected) if stop is not None else None
    if len(data[start:stop]) % 2:
        data += b"."
        expected = data[start:stop][2 * skip :]
    options = {"record": 2, "tier": tier, "start": start, "stop": stop, "skip": skip, "collect": "u1"}
    assert collected(kind, data, core, **options).tobytes() == expected


PARTS = [(0, None, 5), (100, None, 0), (100, 900, 2), (0, 500, 0), (5000, None, 0)]


def part_of_lines(delimiter, start, stop, skip):
    """Return the lines that begin in [start, stop), less some."""
    ends, position = [], 0
    lines = [line + delimiter for line in LINES.split(delimiter)]
    for line in lines:
        ends.append((position, line))
        position += len(line)
    taken = [line for at, line in ends if start <= at and (stop is None or at < stop)][skip:]
    whole = b"".join(taken)
    return whole[: -len(delimiter)] if taken and taken[-1] is ends[-1][1] else whole


@pytest.mark.parametrize("tier", [256, 4096])
@pytest.mark.parametrize(
    "start, stop, skip", [(0, None, 5), (100, None, 0), (100, 900, 2), (0, 500, 0), (5000, None, 0)]
)
def test_parts_of_lines(file, tier, start, stop, skip):
    options = {"delimiter": b"\n", "tier": tier, "start": start, "stop": stop, "skip": skip, "collect": "u1"}
    expected = part_of_lines(b"\n", start, stop, skip)
    assert stream(file(LINES), core, **options).collected.tobytes() == expected
    assert collected("pipe", LINES, core, **options).tobytes() == expected


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("skip", [0, 1], ids=["in turns", "fed"])
def test_the_last_line_may_fill_a_piece(kind, skip):
    last, options = b"x" * 256, {"delimiter": b"\n", "tier": 256, "skip": skip, "collect": "u1"}
    assert collected(kind, b"\n" * skip + last, core, **options).tobytes() == last
    with pytest.raises(ValueError, match="longer than a piece, 256 bytes"):
        collected(kind, b"\n" * skip + last + b"\n", core, **options)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("tier", [40, 4096])
def test_pieces_have_their_neighbours(kind, tier):
    values = np.arange(1000, dtype=np.int64) ** 2
    padded = np.concatenate(([0], values, [0]))
    found = collected(kind, values.tobytes(), neighbours, dtype="i8", overlap=(1, 1), tier=tier, collect="i8")
    assert (found == padded[:-2] + padded[1:-1] + padded[2:]).all()


@njit
def places(buffer, n, offset, state, output):
    """Tell where a piece begins and ends."""
    output[0], output[1] = offset, offset + n
    return 2


@pytest.mark.parametrize("lines", [{}, {"delimiter": b"\n"}])
@pytest.mark.parametrize(
    "start, stop, skip, end", [(100, None, 0, 3000), (0, None, 5, 3000), (200, 900, 2, 900), (5000, None, 0, 3000)]
)
def test_what_follows_a_part_of_a_pipe_begins_behind_it(file, lines, start, stop, skip, end):
    data = (b"x" * 49 + b"\n") * 60
    options = {"start": start, "stop": stop, "skip": skip, "collect": "i8", **lines}
    after = file(b"y" * 20_000 + b"\n")
    with fed("pipe", data, 300) as reader:
        found = stream([reader, after], places, **options).collected.reshape(-1, 2)
    alone = stream(after, places, **options).collected.reshape(-1, 2) + end
    assert found[len(found) - len(alone) :].tolist() == alone.tolist()


def test_what_is_refused():
    with pytest.raises(ValueError, match="ends at offset 10 inside a record of 4 bytes"):
        collected("pipe", bytes(11), core, record=4, start=2, collect="u1")
    with pytest.raises(ValueError, match="ends at offset 8 inside a record of 4 bytes"):
        collected("pipe", bytes(11), core, record=4, skip=5, collect="u1")
    with pytest.raises(ValueError, match="has a line at offset 1 that is longer than a piece, 64 bytes"):
        collected("pipe", b"\n" + bytes(100) + b"\n", core, delimiter=b"\n", skip=1, tier=64, collect="u1")
    with pytest.raises(ValueError, match="has a line at offset 8 that is longer than a piece, 16 bytes"):
        collected("pipe", b"xxxx" + b"ab" * 11, core, delimiter=b"abab", stop=99, tier=16, collect="u1")


@njit
def nothing(buffer, n, offset, state):
    pass


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("kept", [False, True])
def test_ctrl_c_anywhere_loses_no_buffer(file, threads_end, kept):
    """Also between a get and the next line: here it comes before each of the instructions of what feeds the workers."""
    path = file(gzip.compress(bytes(6000)))
    for wanted in range(10_000):
        passed = 0

        def interrupt(frame, event, argument, wanted=wanted):
            nonlocal passed
            if frame.f_code.co_name not in ("pump", "get_buffer"):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                passed += 1
                if passed > wanted:
                    raise KeyboardInterrupt
            return interrupt

        with BufferPool(3, 2048) as pool:
            mine = [pool.get()] if kept else []
            sys.settrace(interrupt)
            try:
                stream(path, nothing, pool=pool, workers=2, decompress="gzip")
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                sys.settrace(None)
                assert [*pool.holders()] == mine
                for index in mine:
                    pool.put(index)
    assert wanted > 100
