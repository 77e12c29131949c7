"""Mapped files: right answers whatever others do to the file, and never a signal."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numba import njit
from recording import PAD, log, look, recorded
from streaming import WITH_URING
from support import environment, needs_root

from iobuf_nb import BufferPool, atomics, stream, syscalls

ENGINES = ["auto", "preadv", "mmap", *["uring"] * bool(WITH_URING)]

# ---- a file that changes all the time --------------------------------------------------------------------------------

LINE = 64
MOST = 3 << 20

#: Writes lines that all have 63 equal letters, and truncates, appends, rewrites in place and replaces the file.
WRITER = f"""
import os, random, sys, time
path, rng = sys.argv[1], random.Random(0)

def lines(n):
    return b"".join(bytes([rng.randrange(65, 91)]) * {LINE - 1} + b"\\n" for _ in range(n))

print("ready", flush=True)
while True:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    size = os.fstat(fd).st_size
    what = rng.randrange(4)
    if what == 0 or size > {MOST}:
        os.ftruncate(fd, rng.randrange(size // {LINE} + 1) // 2 * {LINE})
    elif what == 1:
        os.lseek(fd, 0, os.SEEK_END)
        os.write(fd, lines(rng.randrange(1, 10_000)))
    elif what == 2 and size:
        os.pwrite(fd, lines(100)[:size], rng.randrange(size // {LINE}) * {LINE})
    else:
        os.ftruncate(fd, 0)
        os.write(fd, lines(rng.randrange(1, 20_000)))
    os.close(fd)
    time.sleep(rng.random() / 200)
"""

#: Streams it for so many seconds, and prints how often that went well, and how often it did not.
READER = """
import faulthandler, sys, time
import numpy as np
from numba import njit
from iobuf_nb import stream

faulthandler.enable()

@njit(nogil=True)
def check(buffer, n, offset, state):
    # Lines are written one by one, but some may be seen half, as each write is atomic only by pages.
    state[0] += n
    for k in range(n):
        if buffer[k] != 10 and not 65 <= buffer[k] < 91 and buffer[k] != 0:
            state[1] += 1
        buffer[k] = 0

path, engine, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
good = bad = mapped = 0
ways = [{}] if engine == "uring" else [{}, {"delimiter": b"\\n"}, {"overlap": (9, 7)}, {"ordered": True}]
state = np.zeros(2, np.int64)
for way in ways:  # compiled before the clock starts
    stream(np.__file__, check, state=state, engine=engine, **way)
end = time.monotonic() + seconds
while time.monotonic() < end or good == 0 or good + bad <= 10:  # the machine may be busy with others
    for way in ways:
        try:
            result = stream(path, check, state=state, combine=np.add, engine=engine, tier=1 << 14, workers=2, **way)
            assert result.state[0] == result.bytes and result.state[1] == 0, (way, result)
            good += 1
            mapped += result.mapped
        except OSError as error:
            assert "Changed while it was read" in str(error) or "such file" in str(error), error
            bad += 1
print(good, bad, mapped)
"""


def stormed(tmp_path, engine, seconds):
    path = tmp_path / "file"
    path.write_bytes(b"A" * (LINE - 1) + b"\n")
    python = [sys.executable, "-c"]
    with subprocess.Popen([*python, WRITER, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        try:
            command = [*python, READER, path, engine, str(seconds)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=300 + seconds, env=environment(), check=False
            )
            assert writer.poll() is None
        finally:
            writer.kill()
    assert (done.returncode, done.stderr) == (0, "")
    good, bad, mapped = map(int, done.stdout.split())
    assert good > 0 and good + bad > 10
    return good, bad, mapped


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.compiled
def test_a_file_that_changes_all_the_time(tmp_path, engine, record_property):
    counts = stormed(tmp_path, engine, 2)
    record_property(f"{engine}: read whole, refused, bytes mapped", str(counts))


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.compiled
def test_a_file_that_changes_for_a_minute(tmp_path, engine, record_property):
    counts = stormed(tmp_path, engine, 60)
    record_property(f"{engine}: read whole, refused, bytes mapped", str(counts))


# ---- leases ----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def add(buffer, n, offset, state):
    state[0] += buffer.sum()


def summed(path, **options):
    return stream(path, add, state=np.zeros(1, np.int64), combine=np.add, engine="mmap", **{"workers": 2} | options)


DATA = np.random.default_rng(0).integers(0, 255, 4_000_000, np.uint8)


def test_a_large_file_is_mapped(file):
    result = summed(file(DATA.tobytes()), workers=1)
    assert result.state[0] == DATA.sum() and result.mapped > 3_000_000
    result = summed(file(DATA.tobytes()), workers=4)  # here others may read it all while one maps it
    assert result.state[0] == DATA.sum() and result.mapped > 0
    assert stream(file(DATA.tobytes()), add, state=np.zeros(1, np.int64), engine="preadv").mapped == 0


def test_a_file_that_is_open_for_writing_is_not_mapped(file):
    path = file(DATA.tobytes())
    with open(path, "r+b"):
        result = summed(path)
        assert result.state[0] == DATA.sum() and result.mapped == 0
    assert summed(path).mapped > 0


@needs_root
def test_a_file_of_another_user_is_not_mapped(file):
    """Leases are for owners, and for who has the capability, which root gives up here with its identity."""
    path = file(DATA.tobytes())
    path.chmod(0o644)
    for folder in path.parents[:4]:
        folder.chmod(0o755)
    summed(path)  # compiled
    os.seteuid(65534)
    try:
        result = summed(path)
    finally:
        os.seteuid(0)
    assert result.state[0] == DATA.sum() and result.mapped == 0


@pytest.mark.parametrize("how", ["descriptor", "path"])
@pytest.mark.parametrize("options", [{}, {"delimiter": b"\n", "tier": 1 << 16}], ids=str)
def test_every_way_to_name_a_file(file, how, options):
    data = (b"some line\n" * 400_000)[:3_999_990]
    path = file(data)
    with open(path, "rb") as opened:
        opened.seek(10)
        result = summed(path if how == "path" else opened.fileno(), workers=1, **options)
    part = np.frombuffer(data if how == "path" else data[10:], np.uint8)
    assert result.state[0] == part.sum() and result.mapped > 3_000_000


HERE, MIDDLE, GO_ON = range(3)  # workers that have a piece; whether one has come to the middle; whether it may go on


@njit(nogil=True)
def add_and_wait(buffer, n, offset, state):
    """Sum up; wait at the first piece for the other worker, and from the middle on until it may go on."""
    own, words = state
    if own[1] == 0:
        own[1] = 1
        atomics.fetch_add(words, HERE, 1)
        while atomics.load(words, HERE) < 2:  # who has mapped the file has done it then
            atomics.pause(100)
    own[0] += buffer.sum()
    if offset > 4 << 20:
        atomics.store(words, MIDDLE, 1)
        while atomics.load(words, GO_ON) == 0:
            atomics.pause(100)


def is_waited_for(path):
    """Whether somebody waits for the holder of a lease to let go."""
    with open("/proc/locks") as locks:
        return any("BREAKING" in line and f":{path.stat().st_ino} " in line for line in locks)


@pytest.mark.parametrize("what", ["append", "truncate to the same size", "open"])
@pytest.mark.parametrize("options", [{}, {"delimiter": b"\n"}], ids=str)
def test_a_writer_is_let_in(file, what, options):
    """Whoever opens the file for writing goes on soon, and the stream goes on without the mapping."""
    data = (b"0123456\n" * (1 << 20))[: 8 << 20]
    path = file(data)
    let_in, may_go_on = [], []

    def write():
        if what == "append":
            with open(path, "ab") as opened:
                opened.write(b"more\n")
        elif what == "open":
            os.close(os.open(path, os.O_RDWR))
        else:
            os.truncate(path, len(data))
        let_in.append(time.monotonic())

    writer, words = threading.Thread(target=write), np.zeros(3, np.int64)

    def progress(done, size):
        # Who waits in the middle has the lease, so the writer is seen to wait for it until it may go on.
        if atomics.load(words, MIDDLE) and not writer.ident:
            writer.start()
        if not may_go_on and is_waited_for(path):
            may_go_on.append(time.monotonic())
            atomics.store(words, GO_ON, 1)

    state = lambda: (np.zeros(2, np.int64), words)  # noqa: E731
    options = {"engine": "mmap", "workers": 2, "tier": 1 << 14, "progress": progress, **options}
    result = stream(path, add_and_wait, state=state, **options)
    writer.join()
    assert sum(own[0] for own, _ in result.state) == np.frombuffer(data, np.uint8).sum()
    assert result.bytes == len(data)
    assert let_in[0] - may_go_on[0] < 10  # 45 where nobody lets go
    assert 3 << 20 < result.mapped < 5 << 20


def test_a_lease_ends_with_the_stream(file):
    path = file(DATA.tobytes())
    assert summed(path).mapped > 0
    start = time.monotonic()
    with open(path, "r+b"):
        assert time.monotonic() - start < 10  # 45 where a lease is still held
    with pytest.raises(Exception, match="no way"):
        stream(path, fail, state=None, engine="mmap", workers=2)
    start = time.monotonic()
    with open(path, "r+b"):
        assert time.monotonic() - start < 10  # 45 where a lease is still held


@njit
def fail(buffer, n, offset, state):
    if offset > 1_000_000:
        raise ZeroDivisionError("no way")


def maps_of(path):
    with open("/proc/self/maps") as maps:
        return sum(str(path) in line for line in maps)


def test_no_mapping_is_left(file):
    path = file(DATA.tobytes())
    assert summed(path).mapped > 0 and maps_of(path) == 0
    with pytest.raises(Exception, match="no way"):
        stream(path, fail, state=None, engine="mmap", workers=2)
    assert maps_of(path) == 0
    with open(path, "rb") as opened:
        assert summed([opened.fileno(), path]).mapped > 0
    assert maps_of(path) == 0


# ---- what kernels see of a mapping -----------------------------------------------------------------------------------


def pieces_of(result):
    return sorted((piece for state in result.state for piece in recorded(state)), key=lambda piece: piece.offset)


@pytest.mark.parametrize("spoil", [False, True], ids=["kernels look", "kernels write"])
@pytest.mark.parametrize("delimiter", [None, b"\n", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("tier", [100, 4096, 70_000])
def test_kernels_have_their_pieces_for_themselves(file, spoil, delimiter, tier):
    """What a kernel writes changes neither the file nor any other piece, however short those are."""
    rng = np.random.default_rng(tier)
    data = rng.choice(np.frombuffer(b"abc\r\r\r\n\n\n\n", np.uint8), 300_000 if tier > 100 else 60_000).tobytes()
    path = file(data)
    result = stream(path, look, state=log(1, 1 << 21, spoil), engine="mmap", workers=3, delimiter=delimiter, tier=tier)
    assert result.mapped > 0
    pieces = pieces_of(result)
    assert b"".join(piece.data for piece in pieces) == data == path.read_bytes()
    assert all(piece.data.endswith(delimiter or b"") for piece in pieces[:-1])
    for piece in [] if spoil else pieces:
        end = piece.offset + len(piece.data)
        assert piece.pad in (bytes(PAD), (data + bytes(PAD))[end : end + PAD])


@pytest.mark.parametrize("size", [4096 - PAD - 1, 4096 - PAD, 4096 - PAD + 1, 4095, 4096, 4097, 8192, 8192 - PAD])
def test_bytes_after_the_end_of_a_mapped_file_can_be_read(file, size):
    data = np.random.default_rng(size).bytes(size)
    result = stream(file(data), look, state=log(1, 1 << 16), engine="mmap", tier=1000, workers=2)
    pieces = pieces_of(result)
    assert b"".join(piece.data for piece in pieces) == data
    assert pieces[-1].pad == bytes(PAD)


def test_a_given_pool_and_a_mapping(file):
    with BufferPool(2, 4096) as pool:
        assert summed(file(DATA.tobytes()), pool=pool).state[0] == DATA.sum()
        assert pool.available() == 2


def test_a_hole_and_a_file_in_memory():
    fd = os.memfd_create("hole")
    os.ftruncate(fd, 1 << 24)
    syscalls.pwrite(fd, b"\1", (1 << 24) - 1)
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
    assert summed(fd).state[0] == 1  # open for writing: not mapped
    os.close(fd)


@njit(nogil=True)
def waits_once(buffer, n, offset, state):
    """Say that it has begun, and wait for the test, at the first piece."""
    if offset == 0:
        atomics.store(state, 0, 1)
        while atomics.load(state, 1) == 0:
            atomics.pause(100)


def test_a_file_that_is_truncated_before_it_is_mapped(file):
    """Workers of "auto" read first, and map later: what they take a lease of may be shorter by then."""
    path = file(b"", "large")
    os.truncate(path, 130 << 20)
    words = np.zeros(2, np.int64)

    def truncate(*_):
        if atomics.load(words, 0) == 1:
            os.truncate(path, 1 << 20)
            atomics.store(words, 1, 1)

    with pytest.raises(OSError, match="Changed while it was read, after [0-9]+ of 136314880 bytes"):
        stream(path, waits_once, state=lambda: words, workers=1, progress=truncate)


def test_a_claim_without_lines_lets_go_of_its_lease(file):
    """No line begins in most of it, and nothing is left for which somebody would have to wait."""
    path = file(b"x" * (16 << 20) + b"\n")
    with pytest.raises(ValueError, match="longer than a piece"):
        stream(path, add, state=np.zeros(1, np.int64), engine="mmap", delimiter=b"\n", tier=1 << 16, workers=2)
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # would raise BlockingIOError
