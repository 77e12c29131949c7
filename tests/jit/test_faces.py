"""Faces are compiled once, for all kernels; late functions once they are needed; trampolines give way."""

import pytest
from numba import typeof
from support import run

from iobuf_nb import BufferPool, ItemPool
from iobuf_nb._free.free_list import take
from iobuf_nb._jit import c_methods

pytestmark = pytest.mark.compiled


SHARED = """
from numba.core import event

def use(pool):
    index = pool.get()
    pool.value(index)[0] = 1
    pool.put(index)
    return pool.try_put(0) + pool.available()

def indices(pool):
    return pool.try_put(0) + pool.try_put(1) + pool.try_put(-7) + pool.try_put(pool.capacity)

def compiled(function, *arguments):
    with event.install_recorder("numba:compile") as recorder:
        function(*arguments)
    functions = [each.data["dispatcher"].py_func for _, each in recorder.buffer if each.is_start]
    return {each.__qualname__ for each in functions if each.__module__.startswith("iobuf_nb.")}

pool = BufferPool(2, 16)
print({"Allocator.get", "take", "give", "buffer"} - compiled(njit(use), pool))
for options in (
    {}, {"nogil": True}, {"fastmath": True}, {"error_model": "numpy"}, {"boundscheck": True}, {"forceinline": True}
):
    print(compiled(njit(**options)(use), pool))
print(compiled(njit(indices), pool))
others = compiled(njit(use), BufferPool(2, shape=(3, 5), dtype="c16"))
print("BufferPool.value" in others, others & {"Allocator.get", "Allocator.put", "take", "give", "get_item", "put_item"})
"""


def test_kernels_share_what_they_call(tmp_path):
    """Whatever options they are compiled with, which constants they name, and what their buffers hold."""
    lines = run(SHARED, NUMBA_CACHE_DIR=str(tmp_path)).splitlines()
    assert lines == ["{'buffer'}", *["set()"] * 7, "True set()"]


def test_what_only_kernels_call_refuses_to_be_called_from_python():
    items = ItemPool("a")
    take.for_kernels.compile((typeof(items),))  # without a way in from Python
    with pytest.raises(TypeError, match="only kernels can call this function"):
        take.for_kernels(items)


LATE = """
from iobuf_nb._free import free_list

@njit(nogil=True)
def search(pool, found, n):
    # Get what is free, if anything is: `n` times, each time after others have moved it.
    for _ in range(n):
        index = pool.try_get()
        while index < 0 and atomics.load(found, 1) == 0:
            pause()
            index = pool.try_get()
        atomics.fetch_add(found, 0, 1)
        pool.try_put(index)

pool = BufferPool(2, 16)
held = [pool.get(), pool.get()]
found = np.zeros(2, np.int64)
assert free_list.seek_late.slot.value == 0
search(pool, found, 0)
assert free_list.seek_late.slot.value == 0  # compiling a kernel does not make it ready
thread = threading.Thread(target=search, args=(pool, found, 1), daemon=True)
thread.start()
with pool.magazine() as magazine:  # the first one, while a kernel runs that was compiled without
    magazine.put(held.pop())
    thread.join(60)
    assert atomics.load(found, 0) == 1 and magazine.was_size() == 0
pool.put(held.pop())
print(pool.available())
"""


def test_kernels_find_what_lies_in_magazines_that_are_made_while_they_run():
    assert run(LATE) == "2"


LATE_AFTER_CTRL_C = """
from iobuf_nb._free import free_list
from iobuf_nb._jit import late

pool = BufferPool(2, 16)
held = [pool.get(), pool.get()]
compiled = late.cfunc

class Interrupted:
    # What is compiled; Ctrl-C comes just before its address is known.
    def __init__(self, function):
        self.function = function
    @property
    def address(self):
        raise KeyboardInterrupt

late.cfunc = lambda *arguments, **options: Interrupted(compiled(*arguments, **options))
expect(KeyboardInterrupt, pool.magazine)
late.cfunc = compiled
with pool.magazine() as magazine:
    magazine.put(held.pop())
    print(pool.try_get() >= 0)
"""


def test_ctrl_c_while_a_late_function_is_compiled_leaves_it_to_be_compiled_again():
    assert run(LATE_AFTER_CTRL_C) == "True"


LOCKS = """
from numba.core.compiler_lock import global_compiler_lock
pool = BufferPool(2, 16)
compiling, called = threading.Event(), threading.Event()

def finalize():
    # As a finalizer that the garbage collector runs while numba compiles.
    with global_compiler_lock:
        compiling.set()
        called.wait(1.0)
        pool.put(pool.get())

thread = threading.Thread(target=finalize, daemon=True)
thread.start()
compiling.wait()
other = threading.Thread(target=lambda: (called.set(), pool.try_put(pool.try_get())), daemon=True)
other.start()
thread.join(60), other.join(60)
print(thread.is_alive(), other.is_alive())
"""


def test_first_calls_take_their_locks_in_the_order_of_finalizers():
    assert run(LOCKS) == "False False"


def test_what_was_bound_before_the_first_call_is_as_fast_as_what_is_bound_later(monkeypatch):
    if c_methods.WHY_NOT:
        pytest.skip(c_methods.WHY_NOT)
    pool = BufferPool(2, 16)
    get, put = pool.get, pool.put
    put(get())

    def fail(*_):
        raise AssertionError("the trampoline was called")

    for method in c_methods.METHODS:
        monkeypatch.setattr(method, "_at_first_call", fail)
    put(get())
    assert pool.available() == 2
