"""What type checkers see of the public types: mypy fails here if one decays to Any. Nothing runs this file."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iobuf_nb import BufferPool, ItemPool, Magazine, MagazineSet, Tier, text
from iobuf_nb.uring import RegisteredPool, Ring

if TYPE_CHECKING:
    from typing_extensions import assert_type

    Bytes = NDArray[np.uint8]


def a_pool_knows_its_dtype() -> None:
    assert_type(BufferPool(8, 1024), BufferPool[np.uint8])
    assert_type(BufferPool(8, Tier.SMALL, checked=False, page_size=4096), BufferPool[np.uint8])
    assert_type(BufferPool(8, shape=4), BufferPool[np.uint8])
    assert_type(BufferPool(8, shape=(2, 2), dtype=np.float32), BufferPool[np.float32])
    assert_type(BufferPool(8, shape=4, dtype=np.dtype(np.int16), lock=True), BufferPool[np.int16])
    assert_type(BufferPool(8, shape=4, dtype="f4"), BufferPool[Any])
    pool = BufferPool(8, shape=4, dtype=np.float32)
    assert_type(pool.value(pool.get()), NDArray[np.float32])
    assert_type(pool.dtype, np.dtype[np.float32])


def with_keeps_types() -> None:
    with BufferPool(8, 1024) as pool:
        assert_type(pool, BufferPool[np.uint8])
    with ItemPool(["a", "b"]) as items:
        assert_type(items, ItemPool[str])
    with pool.magazine() as magazine:
        assert_type(magazine, Magazine[Bytes])
    with MagazineSet(pool, 2) as magazines:
        assert_type(magazines, MagazineSet[Bytes])
    with Ring() as ring, RegisteredPool(pool, ring) as registered, pool.register(ring) as same:
        assert_type(ring, Ring)
        assert_type(registered, RegisteredPool)
        assert_type(same, RegisteredPool)


class OwnPool(BufferPool[np.uint8]):
    """A subclass."""


def with_keeps_subclasses() -> None:
    with OwnPool(8, 1024) as pool:
        assert_type(pool, OwnPool)


async def leases_are_of_what_value_returns(pool: BufferPool[np.float64], items: ItemPool[str]) -> None:
    lease: AbstractContextManager[NDArray[np.float64]] = pool.lease(timeout=1.0)
    alease: AbstractAsyncContextManager[str] = items.alease()
    with lease as buffer, items.lease() as item, pool.magazine().lease() as from_magazine:
        assert_type(buffer, NDArray[np.float64])
        assert_type(item, str)
        assert_type(from_magazine, NDArray[np.float64])
    again = pool.lease()
    with again as once:
        assert_type(once, NDArray[np.float64])
        assert_type(again.index, int)
    async with alease as awaited, pool.alease() as array:
        assert_type(awaited, str)
        assert_type(array, NDArray[np.float64])


def items_and_magazines_know_what_value_returns(pool: BufferPool[np.int16], items: ItemPool[str]) -> None:
    assert_type(items.value(0), str)
    assert_type(ItemPool([1, 2]).value(0), int)
    assert_type(pool.magazine().value(0), NDArray[np.int16])
    assert_type(Magazine(items).value(0), str)
    assert_type(pool.view(0), memoryview)
    assert_type(pool.magazine().view(0), memoryview)
    assert_type(MagazineSet(pool, 2)[0], Magazine[NDArray[np.int16]])
    items.set_value(0, 1)  # type: ignore[arg-type]


def text_is_typed(table: text.ByteTable, b: Bytes) -> None:
    assert_type(text.find_byte(b, 10, 0, 8), int)
    assert_type(text.load_f64(b, 0), float)
    assert_type(text.parse_decimal(b"1.5", 0, 3, 1), tuple[int, int])
    assert_type(text.parse_float(b"1.5", 0, 3), tuple[float, int])
    assert_type(table.slot(b, 0, 8), int)
    assert_type(text.ByteTable.merge(table, table), text.ByteTable)
    assert_type(table.items(), list[tuple[bytes, NDArray[Any]]])
    assert_type(table.rows, NDArray[Any])


def wrong_arguments_are_errors() -> None:
    BufferPool(8)  # type: ignore[call-overload]
    BufferPool(8, 1024, pages=1)  # type: ignore[call-overload]
    BufferPool("8", 1024)  # type: ignore[call-overload]
