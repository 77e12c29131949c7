"""Sinks: a stream's output in buffers, for other threads."""

import threading

import numpy as np
import pytest
from numba import njit

from iobuf_nb import BufferPool, Sink, StreamError, pause, stream


@njit
def odd(buffer, n, offset, state, output):
    found = 0
    for k in range(n):
        if buffer[k] % 2:
            output[found] = buffer[k]
            found += 1
    return found


@njit(nogil=True)
def take_all(sink_queue, pool, lengths, out):
    """Take blocks in a kernel, until the queue is closed and empty."""
    total = 0
    while True:
        over = sink_queue.closed
        index = sink_queue.try_get()
        if index < 0:
            if over:
                return total
            pause(100)
            continue
        n = lengths[index]
        out[total : total + n] = pool.value(index)[:n]
        total += n
        pool.put(index)


def streamed(source, sink, errors, **options):
    """Fill a sink in another thread."""

    def run():
        try:
            stream(source, odd, output=sink, **options)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


VALUES = np.random.default_rng(0).integers(0, 1000, 100_000)


@pytest.mark.parametrize("buffers", [1, 4])
@pytest.mark.parametrize("tier", [8, 1000, 1 << 18])
def test_the_output_comes_in_order(file, buffers, tier, threads_end):
    errors, sink = [], Sink(buffers, tier)
    values = VALUES[: 1000 * tier]  # that many blocks at most
    thread = streamed(file(values.tobytes()), sink, errors, dtype=np.int64, workers=3, tier=4096)
    blocks = [block.copy() for block in sink]
    thread.join()
    assert not errors and all(1 <= len(block) <= max(tier // 8, 1) for block in blocks)
    assert (np.concatenate(blocks) == values[values % 2 == 1]).all()
    assert sink.pool.available() == buffers


def test_kernels_take_blocks_too(threads_end):
    errors, sink = [], Sink()
    thread = streamed(VALUES, sink, errors, workers=2, tier=4096)
    out = np.zeros(VALUES.nbytes, np.uint8)
    total = take_all(sink.queue, sink.pool, sink.lengths, out)
    thread.join()
    assert not errors and (out[:total].view(np.int64) == VALUES[VALUES % 2 == 1]).all()


def test_a_sink_that_closes_ends_the_stream(threads_end):
    errors, sink = [], Sink(1, 1024)
    thread = streamed(VALUES, sink, errors, workers=2, tier=4096)
    next(iter(sink))
    sink.close()
    thread.join()
    assert isinstance(errors[0], BrokenPipeError) and errors[0].filename == "a sink"


def test_a_stream_that_fails_says_so_at_its_sink(file, threads_end):
    @njit
    def fails(buffer, n, offset, state, output):
        if offset > 100_000:
            raise ZeroDivisionError
        output[:n] = buffer
        return n

    sink = Sink(4, 1 << 18)

    def run():
        with pytest.raises(StreamError, match="ZeroDivisionError"):
            stream(file(bytes(1_000_000)), fails, output=sink, tier=4096)

    thread = threading.Thread(target=run)
    thread.start()
    with pytest.raises(RuntimeError, match="the stream that filled this sink has failed: its output is not complete"):
        list(sink)
    thread.join()


def test_what_is_refused():
    sink = Sink(1, 4)
    with pytest.raises(ValueError, match="output must be a Sink whose buffers hold an item of 8 bytes, not of 4 bytes"):
        stream(VALUES, odd, output=sink)
    sink = Sink(4, 1 << 20)
    stream(VALUES[:10], odd, output=sink)
    assert sum(map(len, sink)) == (VALUES[:10] % 2 == 1).sum()
    with pytest.raises(ValueError, match="output must be a Sink that no stream has filled yet"):
        stream(VALUES, odd, output=sink)
    with pytest.raises(TypeError, match="output must be a path, .* or a Sink, not"):
        stream(VALUES, odd, output=BufferPool(1, 8))
