"""Pools and queues as kernel arguments: caching, prange, tuples, globals, threads, imports."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from numba import njit, prange, typeof

import iobuf_nb
from iobuf_nb import BoundedQueue, BufferPool, ItemPool, Tier

pytestmark = pytest.mark.compiled


@njit(nogil=True)
def cycle(pool, n):
    for _ in range(n):
        index = pool.get()
        pool.value(index)[0] += 1
        pool.put(index)


def run_script(directory, script, **environment):
    """Run a script in a process of its own; what numba caches of it is in `directory`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(iobuf_nb.__file__).parents[1]), **environment}
    path = directory / "script.py"
    if not path.exists():
        path.write_text(textwrap.dedent(script))
    run = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, cwd=directory)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.split()


def test_import_compiles_nothing(tmp_path):
    script = """
        from numba.core import event
        with event.install_recorder("numba:compile") as recorder:
            import iobuf_nb, iobuf_nb.__main__
        print(len(recorder.buffer))
    """
    assert run_script(tmp_path, script, NUMBA_CACHE_DIR=str(tmp_path / "empty")) == ["0"]


def test_32_bit_platforms_are_refused(tmp_path):
    script = """
        import sys, numba
        sys.maxsize = 2**31 - 1
        try:
            import iobuf_nb
        except ImportError as error:
            print(error)
    """
    assert " ".join(run_script(tmp_path, script)).startswith("iobuf_nb needs a 64-bit Python")


def test_types_are_shared_between_pools_of_one_kind():
    small, large = BufferPool(2, 16), BufferPool(9, Tier.GIANT)
    assert typeof(small) == typeof(large)
    assert typeof(small) != typeof(BufferPool(2, 16, checked=False))
    assert typeof(small) != typeof(BufferPool(2, shape=16, dtype="i1"))
    assert typeof(BufferPool(2, shape=(4, 4))) == typeof(BufferPool(2, shape=(2, 9)))


def test_prange():
    @njit(parallel=True, nogil=True)
    def work(pool, n):
        total = 0
        for k in prange(n):
            index = pool.get()
            buffer = pool.value(index)
            buffer[0] = k
            total += buffer[0]
            pool.put(index)
        return total

    pool = BufferPool(2, shape=1, dtype="i8")
    assert work(pool, 10_000) == 10_000 * 9_999 // 2
    assert pool.available() == 2 and not pool.holders()


def test_threads_share_a_pool_through_kernels():
    pool = BufferPool(2, shape=1, dtype="i8")
    cycle(pool, 0)
    threads = [threading.Thread(target=cycle, args=(pool, 20_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.value(0)[0] + pool.value(1)[0] == 80_000
    assert pool.available() == 2


def test_tuples_of_handles():
    @njit
    def take_each(pools, queue):
        total = 0
        for pool in pools:
            index = pool.get()
            queue.put(index + total)
            total += pool.capacity
            pool.put(index)
        return total

    queue = BoundedQueue(9)
    assert take_each((BufferPool(2, 16), BufferPool(3, 64)), queue) == 5
    assert (queue.get(), queue.get()) == (0, 2)

    @njit
    def mixed(things):
        return things[0].capacity + things[1].capacity + things[2].capacity

    assert mixed((BufferPool(2, 16), BoundedQueue(3), ItemPool("abcd"))) == 9


def test_kernels_return_the_object_they_were_given():
    @njit
    def choose(pool):
        return pool, pool.ring

    pool = BufferPool(2, 16)
    assert choose(pool)[0] is pool and choose(pool)[1] is pool.ring


def test_kernels_may_name_a_pool_as_a_global():
    pool = BufferPool(2, shape=1, dtype="i8")

    @njit
    def work():
        index = pool.get()
        pool.value(index)[0] = 7
        pool.put(index)
        return index

    assert pool.value(work())[0] == 7


def test_item_pools_have_no_values_in_kernels():
    with pytest.raises(Exception, match="value"):
        njit(lambda pool: pool.value(0))(ItemPool([1]))


def test_kernel_cannot_pass_other_objects():
    with pytest.raises(Exception, match="get"):
        njit(lambda pool: pool.get())(np.zeros(3))
