"""Many files of values or of lines: the same kernel on a cluster and in this process, and Dask's collections."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import numpy as np

import iobuf_nb
from iobuf_nb.text import ByteTable

from ..names import DASK_ARRAY, DASK_ARRAY_BINCOUNT, DASK_BAG, DASK_DATAFRAME, ON_CLUSTER, STREAMED
from ..one_billion_rows import COLUMNS, COUNT, TOTAL, tally
from ..streams.reading import summary_of
from ..streams.text import write_text
from ..streams.timing import Case, agree, measured
from ..streams.work import BINS, NEWLINES, SUMMARY, merge
from ..table import Settings, Table
from ..workloads.cluster import CLUSTER_ARRAYS, CLUSTER_GROUPS, CLUSTER_LINES
from .sizes import TEXT_FILES, VALUE_FILES, sizes
from .workers import WORKERS, missing

BLOCK = 1 << 26  # bytes of a partition of a bag or a table; the best of several

Paths = list[str]
Groups = dict[str, tuple[int, int]]  # of each name the number of its lines, and the sum of their values in tenths


@contextmanager
def new_files(count: int) -> Iterator[Paths]:
    """Yield the paths of files to be made."""
    with tempfile.TemporaryDirectory() as folder:
        yield [os.path.join(folder, f"part-{k:02}") for k in range(count)]


def both(client: Any, paths: Paths, kernel: Any, shown: Callable[[Any], Any], **options: Any) -> dict[str, Case]:
    """Return the same call on a cluster and in this process; each returns what `shown` makes of the state."""
    from iobuf_nb import dask

    return {
        ON_CLUSTER: lambda: shown(dask.stream(client, paths, kernel, **options).state),
        STREAMED: lambda: shown(iobuf_nb.stream(paths, kernel, workers=WORKERS, **options).state),
    }


def sum_and_bins(summary: np.ndarray) -> np.ndarray:
    """Return a summary without its extremes."""
    return np.delete(summary, [1, 2])


def with_histogram(paths: Paths) -> np.ndarray:
    """Sum and histogram by dask.array."""
    import dask
    import dask.array as da

    values = dask_values(paths)
    bins, _ = da.histogram(values, bins=BINS, range=(0, 1))
    return np.hstack(dask.compute(values.sum(dtype=np.float64), bins))


def with_bincount(paths: Paths) -> np.ndarray:
    """Sum and histogram by dask.array, where the latter is a function of numpy over each block."""
    import dask

    def count(block: np.ndarray) -> np.ndarray:
        return np.bincount((block * BINS).astype(np.int64), minlength=BINS)[None]

    values = dask_values(paths)
    bins = values.map_blocks(count, dtype=np.int64, new_axis=1, chunks=(1, BINS)).sum(axis=0)
    return np.hstack(dask.compute(values.sum(dtype=np.float64), bins))


def dask_values(paths: Paths) -> Any:
    """Return files of values as one array of Dask, with a block for each, mapped by the worker."""
    import dask
    import dask.array as da

    mapped = dask.delayed(np.memmap)
    length = os.path.getsize(paths[0]) // 4
    return da.concatenate([da.from_delayed(mapped(path, np.float32, "r"), (length,), np.float32) for path in paths])


def arrays(client: Any, settings: Settings) -> Table:
    """Measure sum and histogram of values from 0 to 1."""
    size, generator = sizes(settings).values, np.random.default_rng(0)
    with new_files(VALUE_FILES) as paths:
        summaries = []
        for path in paths:
            values = generator.random(size // 4 // VALUE_FILES, np.float32)
            values.tofile(path)
            summaries.append(summary_of(values))
        cases: dict[str, Case] = {
            **both(client, paths, shown=sum_and_bins, **SUMMARY._asdict()),
            DASK_ARRAY: partial(with_histogram, paths),
            DASK_ARRAY_BINCOUNT: partial(with_bincount, paths),
        }
        check = partial(agree, sum_and_bins(reduce(merge, summaries)))
        return measured(CLUSTER_ARRAYS, cases, check, settings, size)


def of_bag(paths: Paths) -> np.ndarray:
    """Count lines by dask.bag."""
    import dask.bag

    return np.array([dask.bag.read_text(paths, blocksize=BLOCK).count().compute()])


def lines(client: Any, settings: Settings) -> Table:
    """Measure the count of lines."""
    with new_files(TEXT_FILES) as paths:
        size, found = np.sum([write_text(path, sizes(settings).text // TEXT_FILES) for path in paths], axis=0)
        cases: dict[str, Case] = {
            **both(client, paths, shown=np.asarray, **NEWLINES._asdict()),
            DASK_BAG: partial(of_bag, paths),
        }
        return measured(CLUSTER_LINES, cases, partial(agree, np.array([found])), settings, int(size))


def groups_of(table: ByteTable) -> Groups:
    """Return what a table has of each name."""
    return {name.decode(): (int(row[COUNT]), int(row[TOTAL])) for name, row in table.items()}


def of_dataframe(paths: Paths) -> Groups:
    """Group by dask.dataframe."""
    import dask.dataframe

    columns = {"name": "string", "value": "f8"}
    table = dask.dataframe.read_csv(paths, sep=";", header=None, names=[*columns], dtype=columns, blocksize=BLOCK)
    found = table.groupby("name")["value"].agg(["count", "sum"], split_out=1).compute()  # else it shuffles
    return {name: (int(count), round(total * 10)) for name, count, total in found.itertuples()}


def groups(client: Any, settings: Settings) -> Table:
    """Measure the grouping of lines ``name;value``: how many of each name, and the sum of their values."""
    lacking = missing("pandas")
    with new_files(TEXT_FILES) as paths:
        size, found = np.sum([write_text(path, sizes(settings).text // TEXT_FILES) for path in paths], axis=0)
        table = partial(ByteTable, COLUMNS)
        cases = both(client, paths, tally, groups_of, state=table, combine=ByteTable.merge, delimiter=b"\n")
        if not lacking:
            cases[DASK_DATAFRAME] = partial(of_dataframe, paths)
        first: list[Groups] = []

        def check(groups: Groups) -> None:
            first.append(groups)
            assert groups == first[0] and sum(count for count, _ in groups.values()) == found, "the groups differ"

        return measured(CLUSTER_GROUPS, cases, check, settings, int(size), missing=lacking)
