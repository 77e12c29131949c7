"""Waiting for several descriptors, for other threads, and for time."""

import errno
import os
import select
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from both import call_on
from support import BOTH, EVERY_WAY, Alarm, alarms, beside, ring

from iobuf_nb import events
from iobuf_nb.events import (
    EFD_NONBLOCK,
    EFD_SEMAPHORE,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLL_DTYPE,
    EPOLLET,
    EPOLLHUP,
    EPOLLIN,
    EPOLLONESHOT,
    EPOLLOUT,
    POLL_DTYPE,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    TFD_NONBLOCK,
)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with open(reader, "rb", 0) as reading, open(writer, "wb", 0) as writing:
        yield reading, writing


@contextmanager
def closing(fd):
    assert fd >= 0 and not os.get_inheritable(fd)
    try:
        yield fd
    finally:
        os.close(fd)


def test_polling_several(call, pipe):
    reader, writer = pipe
    closed = os.dup(0)
    os.close(closed)
    records = np.array([(reader.fileno(), POLLIN, 9), (-1, POLLIN, 9), (reader.fileno(), 0, 9)], POLL_DTYPE)
    assert call("poll", records, 0) == 0 and records["revents"].tolist() == [0, 0, 0]
    start = time.monotonic()
    assert call("poll", records, 0.02) == 0 and time.monotonic() - start >= 0.02
    writer.write(b"x")
    assert call("poll", records, None) == 1 and records["revents"].tolist() == [POLLIN, 0, 0]
    records["fd"][1:] = closed, writer.fileno()
    records["events"][2] = POLLOUT
    assert call("poll", records, 30) == 3 and records["revents"].tolist() == [POLLIN, POLLNVAL, POLLOUT]
    writer.close()
    assert call("poll", records[:1], 30.5) == 1 and records["revents"][0] == POLLIN | POLLHUP
    assert call("poll", records[:0], 0.0) == 0


def test_epoll(call, pipe):
    reader, writer = pipe
    records = np.zeros(4, EPOLL_DTYPE)

    def wait(timeout=0):
        n = call("epoll_wait", waiting, records, timeout)
        return [(int(each["events"]), int(each["data"])) for each in records[:n]]

    with closing(call("epoll_create")) as waiting:
        assert call("epoll_ctl", waiting, EPOLL_CTL_ADD, reader.fileno(), EPOLLIN, -7) == 0
        assert call("epoll_ctl", waiting, EPOLL_CTL_ADD, reader.fileno(), EPOLLIN, 1) == -errno.EEXIST
        start = time.monotonic()
        assert wait(0.02) == [] and time.monotonic() - start >= 0.02
        writer.write(b"x")
        assert wait(None) == wait(30) == [(EPOLLIN, -7)]
        assert call("epoll_ctl", waiting, EPOLL_CTL_MOD, reader.fileno(), EPOLLIN | EPOLLET, 2**62) == 0
        assert wait(30) == [(EPOLLIN, 2**62)] and wait() == []
        writer.write(b"y")
        assert wait(30) == [(EPOLLIN, 2**62)]
        assert call("epoll_ctl", waiting, EPOLL_CTL_MOD, reader.fileno(), EPOLLIN | EPOLLONESHOT, 3) == 0
        assert call("epoll_ctl", waiting, EPOLL_CTL_ADD, writer.fileno(), EPOLLOUT, 4) == 0
        assert sorted(wait(30)) == [(EPOLLIN, 3), (EPOLLOUT, 4)] and wait(30) == [(EPOLLOUT, 4)]
        assert call("epoll_ctl", waiting, EPOLL_CTL_DEL, writer.fileno(), 0, 0) == 0
        writer.close()
        assert call("epoll_ctl", waiting, EPOLL_CTL_MOD, reader.fileno(), 0, 5) == 0
        assert wait(30) == [(EPOLLHUP, 5)]
        assert call("epoll_ctl", waiting, EPOLL_CTL_ADD, -1, EPOLLIN, 0) == -errno.EBADF
        assert call("epoll_wait", waiting, records[:0], 0) == -errno.EINVAL
    assert call("epoll_wait", reader.fileno(), records, 0) == -errno.EINVAL
    assert call("epoll_wait", -1, records, None) == -errno.EBADF


def test_counts(call):
    with closing(call("eventfd", 3, EFD_NONBLOCK)) as fd:
        assert call("eventfd_read", fd) == 3 and call("eventfd_read", fd) == -errno.EAGAIN
        assert call("eventfd_write", fd, 2**63 - 1) == call("eventfd_write", fd, 5) == call("eventfd_write", fd, 0) == 0
        assert call("eventfd_read", fd) == 2**63 - 1  # as much as fits
        os.eventfd_write(fd, 2**64 - 2)
        assert call("eventfd_write", fd, 1) == -errno.EAGAIN
    with closing(call("eventfd", 2, EFD_NONBLOCK | EFD_SEMAPHORE)) as fd:
        assert [call("eventfd_read", fd) for _ in range(3)] == [1, 1, -errno.EAGAIN]
    assert call("eventfd_read", fd) == call("eventfd_write", fd, 1) == -errno.EBADF
    assert call("eventfd", 0, 1 << 20) == call("timerfd", 1 << 20) == -errno.EINVAL


def test_timers(call):
    with closing(call("timerfd", TFD_NONBLOCK)) as fd:
        records = np.array([(fd, POLLIN, 0)], POLL_DTYPE)
        for first, interval in ((0, None), (0.001, 0.0), (0, 0.001)):
            start = time.monotonic()
            assert call("timerfd_set", fd, first, interval) == 0
            assert call("poll", records, 30) == 1 and time.monotonic() - start >= first
            assert call("timerfd_read", fd) >= 1
        assert call("poll", records, 30) == 1  # and again
        assert call("timerfd_set", fd, None, 1.0) == 0 and call("poll", records, 0.01) == 0
        assert call("timerfd_read", fd) == -errno.EAGAIN
        assert call("timerfd_set", fd, float("inf"), 1e300) == 0
    assert call("timerfd_set", fd, 1, None) == call("timerfd_read", fd) == -errno.EBADF


def test_time_goes_on(call):
    start, before = call("now_ns"), time.monotonic_ns()
    assert call("sleep", 0.002) == call("sleep", 0) == 0
    assert before - start <= 10**9 and call("now_ns") - start >= 2_000_000


def test_the_numbers_are_those_of_the_standard_library():
    names = [name for name in events.__all__ if name.isupper() and hasattr(select, name)]
    assert len(names) > 15
    assert {name: getattr(select, name) for name in names} == {name: getattr(events, name) for name in names}


# ---- waiting ---------------------------------------------------------------------------------------------------------


def poll(fd, records, epoll_records, timeout):
    return events.poll(records, timeout)


def epoll_wait(fd, records, epoll_records, timeout):
    return events.epoll_wait(fd, epoll_records, timeout)


@EVERY_WAY
@pytest.mark.parametrize("function", [poll, epoll_wait])
def test_a_wait_ends_in_time_and_by_events_and_signals(jit, function, pipe, untraced):
    reader, writer = pipe
    wait, records, epoll_records = jit(function), np.array([(reader.fileno(), POLLIN, 0)], POLL_DTYPE), None
    epoll_records = np.zeros(1, EPOLL_DTYPE)
    with closing(events.epoll_create()) as fd:
        events.epoll_ctl(fd, EPOLL_CTL_ADD, reader, EPOLLIN)
        arguments = fd, records, epoll_records
        assert wait(*arguments, 0.0) == 0  # compiles
        with alarms(lambda *_: None):
            start = time.monotonic()
            assert wait(*arguments, 0.05) == 0  # also if signals come all the time
            assert 0.05 <= time.monotonic() - start < 10
        with pytest.raises(Alarm), alarms(ring):
            wait(*arguments, 60.0)
        with beside(lambda: (time.sleep(0.01), writer.write(b"x"))):  # which needs the GIL
            assert wait(*arguments, float("inf")) == 1  # more milliseconds than fit into an int


def named(fd, seconds):
    set_ = events.timerfd_set(fd, first=None if seconds < 0 else seconds, interval=seconds)  # an optional float
    return set_, events.eventfd(flags=EFD_NONBLOCK)


@BOTH
def test_an_argument_by_name_is_that_one(jit):
    with closing(events.timerfd()) as timer:
        set_, event = jit(named)(timer, 60.0)
        with closing(event):
            assert set_ == 0 and call_on("python", "eventfd_read", event) == -errno.EAGAIN


def read(fd):
    return events.eventfd_read(fd)


def sleep(seconds):
    return events.sleep(seconds)


@EVERY_WAY
def test_a_thread_waits_for_another(jit, untraced):
    read_, sleep_ = jit(read), jit(sleep)
    with closing(events.eventfd(1)) as fd:
        assert read_(fd) == 1
        thread = threading.Timer(0.01, events.eventfd_write, (fd, 7))
        thread.start()
        assert read_(fd) == 7
        thread.join()
        with pytest.raises(Alarm), alarms(ring):
            read_(fd)
    sleep_(0.0)
    with pytest.raises(Alarm), alarms(ring):
        sleep_(60.0)
    start = time.monotonic()
    with alarms(lambda *_: None):
        sleep_(0.05)
    assert time.monotonic() - start >= 0.05
