"""Leases: what is checked out inside their block, what comes back after it, and what they refuse."""

import asyncio
import contextlib
import gc
import threading

import numpy as np
import pytest
from support import until

from iobuf_nb import BufferPool, Closed, ItemPool, WouldBlock
from iobuf_nb._free.queue import GETTERS
from iobuf_nb._jit import c_methods


@pytest.fixture(params=["pool", "magazine", "items"])
def owner(request):
    """What leases, of which all must be back when the test ends."""
    pool = ItemPool("ab") if request.param == "items" else BufferPool(2, 16)
    yield pool.magazine() if request.param == "magazine" else pool
    assert pool.available() == 2 and not pool.holders()


def pool_of(owner):
    return getattr(owner, "pool", owner)


def test_a_lease_yields_the_value_of_its_index(owner):
    with (lease := owner.lease()) as value:
        assert pool_of(owner).holders() == {lease.index: threading.get_ident()}
        assert value is owner.value(lease.index)


def test_a_lease_puts_through_what_it_got_from():
    pool = BufferPool(2, 16)
    magazine = pool.magazine()
    with magazine.lease():
        pass
    assert magazine.was_size() == 1
    with pool.lease():
        pass
    assert magazine.was_size() == 1


def test_errors_in_the_block_pass_through(owner):
    with pytest.raises(KeyError, match="of the block"), owner.lease():
        raise KeyError("of the block")


def test_a_lease_can_be_used_again(owner):
    lease = owner.lease(timeout=1.0)
    for _ in range(3):
        with lease:
            assert lease.index in (0, 1)
        with pytest.raises(KeyError), lease:
            raise KeyError


def test_an_index_is_there_only_inside(owner):
    lease = owner.lease()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a lease has an index only inside its with block"):
            _ = lease.index
        assert repr(lease) == "Lease(idle)"
        with lease:
            assert lease.index >= 0 and repr(lease) == f"Lease(index={lease.index})"


def test_a_lease_holds_one_buffer_at_a_time(owner):
    with (lease := owner.lease()) as value:
        index = lease.index
        with pytest.raises(RuntimeError, match="this lease is in use already"), lease:
            pass
        assert lease.index == index and pool_of(owner).holders().keys() == {index}
        assert value is owner.value(index)
    with lease:
        pass


def test_a_lease_that_waits_is_refused_to_others():
    pool = BufferPool(1, 16)
    index = pool.get()
    lease = pool.lease()

    def use():
        with lease:
            pass

    thread = threading.Thread(target=use)
    thread.start()
    until(lambda: pool._queue._words[GETTERS])
    with pytest.raises(RuntimeError, match="this lease is in use already"), lease:
        pass
    with pytest.raises(RuntimeError, match="a lease has an index only"):
        _ = lease.index
    assert repr(lease) == "Lease(waiting)"
    pool.put(index)
    thread.join()
    assert pool.available() == 1
    with lease:
        pass


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((1,), TypeError, "block must be a bool, not 1"),
        ((True, -1), ValueError, "timeout must be"),
        ((True, "1"), TypeError, "timeout must be"),
    ],
)
def test_bad_arguments_are_refused_where_the_block_begins(owner, arguments, error, message):
    lease = owner.lease(*arguments)
    for _ in range(2):
        with pytest.raises(error, match=message), lease:
            pytest.fail("it was entered")


def test_a_lease_waits_no_longer_than_it_may(owner):
    with owner.lease(), owner.lease():
        for lease in (owner.lease(block=False), owner.lease(timeout=0.01)):
            with pytest.raises(WouldBlock), lease:
                pytest.fail("it was entered")
    with lease:  # it is as good as new
        pass


def test_a_closed_pool_leases_nothing():
    pool = BufferPool(1, 16)
    pool.close()
    with pytest.raises(Closed), pool.lease():
        pytest.fail("it was entered")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_value_that_fails_leaves_nothing_checked_out(error):
    class Failing(ItemPool):
        def value(self, index):
            raise error

    pool = Failing("a")
    lease = pool.lease()
    for _ in range(2):
        with pytest.raises(error), lease:
            pytest.fail("it was entered")
        assert pool.available() == 1

    async def use():
        async with pool.alease():
            pytest.fail("it was entered")

    with pytest.raises(error):
        asyncio.run(use())
    assert pool.available() == 1


def test_a_buffer_that_was_put_inside_is_refused_at_the_end_and_the_lease_goes_on():
    pool = BufferPool(1, 16)
    lease = pool.lease()
    with pytest.raises(ValueError, match="0 was put already"), lease:
        pool.put(lease.index)
    with lease:
        assert pool.available() == 0
    assert pool.available() == 1


def test_leases_fit_where_context_managers_go(owner):
    with contextlib.ExitStack() as stack:
        stack.enter_context(owner.lease())
        stack.enter_context(owner.lease())
        assert pool_of(owner).available() == 0
    assert isinstance(owner.lease(), contextlib.AbstractContextManager)


def test_a_lease_that_was_not_entered_takes_and_puts_nothing(owner):
    lease = owner.lease()
    lease.__exit__(None, None, None)
    del lease
    gc.collect()


def test_coroutines_lease_alike():
    pool = BufferPool(1, 16)

    async def main():
        lease = pool.alease(timeout=1.0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a lease has an index only inside"):
                _ = lease.index
            async with lease as buffer:
                assert pool.holders() == {lease.index: threading.get_ident()}
                assert buffer is pool.value(lease.index)
                with pytest.raises(RuntimeError, match="this lease is in use already"):
                    async with lease:
                        pytest.fail("it was entered")
                with pytest.raises(WouldBlock):
                    async with pool.alease(timeout=0):
                        pytest.fail("it was entered")
            assert pool.available() == 1
        assert isinstance(lease, contextlib.AbstractAsyncContextManager)

    asyncio.run(main())


def test_a_lease_that_a_coroutine_waits_for_is_refused_to_others():
    pool = BufferPool(1, 16)

    async def main():
        index = await pool.aget()
        lease = pool.alease()

        async def use():
            async with lease:
                pass

        waiting, second = asyncio.create_task(use()), asyncio.create_task(use())
        with pytest.raises(RuntimeError, match="this lease is in use already"):
            await second
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pool.put(index)
        await use()

    asyncio.run(main())
    assert pool.available() == 1


class Windowed(BufferPool):
    """A pool of its user's own, whose values are parts of the buffers."""

    def value(self, index):
        return super().value(index)[4:]

    def view(self, index):
        return super().view(index)[:4]

    def put(self, index):
        self.last = index
        super().put(index)


def test_subclasses_have_methods_of_their_own():
    pool = Windowed(2, 16)
    with (lease := pool.lease()) as value:
        index = lease.index
        assert len(value) == 12
    assert pool.last == index
    assert len(pool.value(0)) == len(pool.value(np.int64(0))) == 12
    pool.set_value(0, bytes(range(16)))
    assert bytes(super(Windowed, pool).view(0)) == bytes(range(16))


@pytest.mark.compiled
def test_what_is_refused_at_the_end_is_not_tried_again(monkeypatch):
    pool = BufferPool(2, 16)
    if c_methods.WHY_NOT:
        pytest.skip(c_methods.WHY_NOT)
    with pool.lease():
        pass
    tried = []
    monkeypatch.setattr(BufferPool, "_give", lambda self, index: tried.append(index))
    refused = pytest.raises(ValueError, match="index must be that of a buffer that is checked out")
    with refused, (lease := pool.lease()):
        pool.put(lease.index)
    assert not tried and pool.holders() == {}
