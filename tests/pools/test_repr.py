"""What notebooks show: the map of who has which buffer, tables that never raise, and the live view of `watch`."""

import gc
import html
import re
import sys
import threading
from types import SimpleNamespace

import IPython
import numpy as np
import pytest
from support import until

from iobuf_nb import BoundedQueue, BufferPool, Channel, ItemPool, MagazineSet
from iobuf_nb._pools import holders
from iobuf_nb._pools.watch import Watch

KINDS = [{}, {"shared": True}]


def squares(thing):
    """Return the titles of the squares, by their first buffer."""
    found = re.findall(r"<i title='(.*?)' style='(.*?)'>", thing._repr_html_())
    return {int(re.match(r"\d+", title)[0]): (html.unescape(title), style) for title, style in found}


def get_in_thread(pool, name):
    thread = threading.Thread(target=pool.get, name=name)
    thread.start()
    thread.join()


@pytest.mark.parametrize("options", KINDS, ids=["private", "shared"])
def test_the_map_says_who_has_each_buffer(options):
    pool = BufferPool(4, 16, **options)
    channel = Channel(pool)
    me = threading.current_thread()
    usual, me.name = me.name, "<b>'me'"
    try:
        indices = [pool.get(), pool.get()]
        channel.send(indices[1])
        shown, found = pool._repr_html_(), squares(pool)
        assert {k: re.split(": |, ", title)[-1] for k, (title, _) in found.items()} == {
            indices[0]: "<b>'me'",
            indices[1]: "in transit",
            **dict.fromkeys({0, 1, 2, 3} - {*indices}, "free"),
        }
        assert "<b>'me'" not in shown and "free: 2</span>" in shown and "in transit: 1</span>" in shown
        assert len({style for _, style in found.values()}) == 3
        assert squares(channel) == found
        pool.put(indices[0]), pool.put(channel.receive())
        assert {title.split(": ")[1] for title, _ in squares(pool).values()} == {"free"}
    finally:
        me.name = usual


def test_in_a_large_pool_a_square_is_a_run_and_paler_the_more_are_free(monkeypatch):
    pool = BufferPool(1025, 16)
    out = np.empty(7, np.int64)
    assert pool.get_many(out) == 7
    found = squares(pool)
    assert list(found) == list(range(0, 1025, 5))
    assert found[0] == ("0 to 4: MainThread 5", "background:#0072b2")
    assert found[5] == ("5 to 9: free 3, MainThread 2", "background:#0072b2;opacity:0.58")
    assert found[1020][0] == "1020 to 1024: free 5" and "a square stands for 5 buffers" in pool._repr_html_()
    pool.put_many(out)
    monkeypatch.setattr(holders, "_MOST_BUFFERS", 1024)
    assert not squares(pool) and "<meter" in pool._repr_html_()
    assert not squares(BufferPool(4, 16, checked=False))


def test_owners_keep_their_colours_and_those_left_over_are_grey():
    colours = {}
    holders._choose(colours, range(1, 7))
    before = dict(colours)
    assert len({*colours.values()}) == 6
    holders._choose(colours, [2, 7, 8, 9])  # 1, 3, 4 ... have nothing now
    assert colours[2] == before[2] and len({colours[owner] for owner in (2, 7, 8, 9)}) == 4
    holders._choose(colours, range(10, 30))
    assert len(colours) == len({*colours.values()}) == 7
    pool = BufferPool(10, 16)
    barrier, threads = threading.Barrier(10), []
    for _ in range(9):
        threads.append(threading.Thread(target=lambda: (pool.get(), barrier.wait())))
        threads[-1].start()
    barrier.wait()
    assert "2 others: 2</span>" in pool._repr_html_()
    pool.put_many(np.arange(9))
    for thread in threads:
        thread.join()


def test_a_map_beside_running_threads_has_every_buffer_once():
    pool, stop = BufferPool(64, 16), threading.Event()

    def churn():
        out = np.empty(9, np.int64)
        while not stop.is_set():
            pool.put_many(out[: pool.get_many(out)])
            pool.put(pool.get())

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            shown = pool._repr_html_()
            assert sum(map(int, re.findall(r": (\d+)</span>", shown))) == 64 == shown.count("<i title=")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not pool.holders()


MAKERS = {
    "pool": lambda: BufferPool(2, 16),
    "shared pool": lambda: BufferPool(2, 16, shared=True),
    "traced pool": lambda: BufferPool(2, 16, trace=True),
    "items": lambda: ItemPool("ab"),
    "queue": lambda: BoundedQueue(2),
    "shared queue": lambda: BoundedQueue(2, shared=True),
    "values": lambda: BoundedQueue(2, dtype=[("<x>", "f8")]),
    "magazine": lambda: BufferPool(2, 16).magazine(),
    "magazines": lambda: MagazineSet(BufferPool(2, 16, checked=False), 2),
    "channel": lambda: Channel(BufferPool(2, 16)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_closed_and_unmade_objects_show_themselves_too(make):
    thing = make()
    opened = thing._repr_html_()
    assert not thing.closed
    thing.close()
    shown = thing._repr_html_()
    assert shown != opened and "<x>" not in shown and thing.closed  # by which `watch` sees its end
    unmade = type(thing).__new__(type(thing))
    assert repr(unmade) == f"<{repr(thing).partition('(')[0]}, not made>" == html.unescape(unmade._repr_html_())


def test_the_tables_say_who_waits_who_uses_a_magazine_and_what_was_counted():
    queue = BoundedQueue(1)
    thread = threading.Thread(target=queue.get)
    thread.start()
    until(lambda: "<th>waiting to get</th><td>1</td>" in queue._repr_html_())
    queue.put(0)
    thread.join()
    pool = BufferPool(2, 16, stats=True)
    assert "<th>gets</th><td>0</td>" in pool._repr_html_()
    with pool.magazine(4) as magazine:
        assert "<th>used by</th><td>nobody</td>" in magazine._repr_html_()
        magazine.put(magazine.get())
        assert "<th>used by</th><td>MainThread</td>" in magazine._repr_html_()
    assert "nobody: it is closed" in magazine._repr_html_()


# ---- watch -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["ipywidgets", "IPython"])
def notebook(request, monkeypatch):
    """Stand in for a notebook; return what says what it shows, and what presses the button, if there is one."""
    shown = []

    class Handle:
        update = staticmethod(lambda table: shown.__setitem__(-1, table.data))

    def display(thing, display_id=False):
        shown.append(thing.data if display_id else thing)
        return Handle

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr("IPython.display.display", display)
    if request.param == "IPython":
        monkeypatch.setitem(sys.modules, "ipywidgets", None)
        return lambda: shown[-1], None
    return lambda: shown[-1].children[0].value, lambda: shown[-1].children[1].click()


def test_a_view_changes_with_its_object_and_ends_with_it(notebook, threads_end):
    shows, _ = notebook
    pool = BufferPool(2, 16)
    view = pool.watch(0.01)
    assert repr(view) == "Watch(of=BufferPool, interval=0.01, running=True)" and "free: 2</span>" in shows()
    index = pool.get()
    until(lambda: "MainThread: 1</span>" in shows())
    pool.put(index)
    del pool, index
    gc.collect()  # an interpreted kernel's frame may hold it
    until(lambda: not view.running)
    view.stop()
    assert repr(view) == "Watch(of=BufferPool, interval=0.01, running=False)"


def test_a_view_ends_when_its_object_is_closed_or_it_is_stopped(notebook, threads_end):
    shows, press = notebook
    with BoundedQueue(2) as queue:
        view = queue.watch(0.01)
    until(lambda: not view.running)
    view.stop()
    assert "<th>closed</th><td>True</td>" in shows()
    with BoundedQueue(2) as other:
        endless = Watch(other, 1e6)
        other.put(1)
        (press or endless.stop)()
        assert not endless.running and "<th>size</th><td>1</td>" in shows()  # a last look


def test_a_view_ends_though_its_object_goes_just_while_it_waits(notebook, threads_end):
    held, made = [BufferPool(2, 16)], threading.Event()

    def collect(frame, event, argument):
        if event == "c_call" and frame.f_code.co_name in ("_run", "wait"):
            made.wait()
            held.clear()

    threading.setprofile(collect)
    try:
        view = held[0].watch(1e6)
    finally:
        threading.setprofile(None)
        made.set()
    until(lambda: not view.running)


def test_no_view_where_there_is_nothing_to_draw_in(monkeypatch):
    with BoundedQueue(2) as queue:
        with pytest.raises(RuntimeError, match="watch needs a notebook to draw in, and this is none"):
            queue.watch()
        for interval, error in [("1", TypeError), (True, TypeError), (0, ValueError), (float("nan"), ValueError)]:
            with pytest.raises(error, match="interval must be a number of seconds > 0, not"):
                queue.watch(interval)
        monkeypatch.setitem(sys.modules, "IPython", None)
        with pytest.raises(ImportError, match=r"^watch needs IPython: pip install 'iobuf-nb\[notebooks\]'$"):
            queue.watch()
