"""Workloads of streams."""

from __future__ import annotations

from ..names import (
    BLOCKS,
    DD,
    LINES,
    LOOP,
    MEMMAP_CHUNKS,
    MEMMAP_PARTS,
    NUMPY,
    POLARS,
    PREADV,
    STREAMED,
    ZSTD_AND_WC,
)
from ..targets import Choice, Target
from .workload import Workload

BEST_BY_HAND = Choice("best by hand", (MEMMAP_CHUNKS, MEMMAP_PARTS, PREADV), max)
BEST_FROM_DISK = Choice("best by hand or dd", (DD, MEMMAP_CHUNKS, PREADV), max)

AS_FAST = Target((STREAMED,), (BEST_BY_HAND,), ">= 0.95", "Nobody should have to choose how to read; 5 % for noise.")

STREAM = Workload(
    "stream",
    "Stream",
    "Sum, extremes and histogram of 2 GiB (quick: 256 MiB) of float32 in the page cache, on two threads.",
    "Is stream as fast as threads written by hand?",
    "GB/s",
    (
        Target(
            (STREAMED,),
            (MEMMAP_CHUNKS, MEMMAP_PARTS, "np.fromfile", "pyarrow.memory_map"),
            ">= 1.0",
            "With the same kernel and threads, reading through a pool should be no slower.",
        ),
    ),
)
STREAM_MEMORY = Workload(
    "stream",
    "Stream, memory",
    "The growth of resident memory during a stream; its pool has 256 KiB for each processor.",
    "Does a stream need more memory than its pool?",
    "MiB",
)
STREAM_NEWLINES = Workload(
    "stream",
    "Stream, newlines",
    "Count the newlines in the bytes of the same file.",
    "And where the kernel takes no longer than reading?",
    "GB/s",
    (AS_FAST,),
)
STREAM_SUM = Workload(
    "stream", "Stream, sum", "Add the values of the same file.", "Likewise, for float32?", "GB/s", (AS_FAST,)
)
STREAM_HISTOGRAM = Workload(
    "stream",
    "Stream, histogram",
    "Count the values of the same file in 256 bins.",
    "Likewise, with a state that is more than a number?",
    "GB/s",
    (AS_FAST,),
)
STREAM_DISK = Workload(
    "stream",
    "Stream, disk",
    "The same file from the disk, through a kernel that does next to nothing.",
    "Does stream keep the disk busy?",
    "GB/s",
    (
        Target((STREAMED,), (DD,), ">= 0.9", "dd does nothing but read, so the disk is the limit; 10 % for noise."),
        Target(("stream, direct",), ("dd, direct",), ">= 0.9", "The same past the page cache."),
    ),
)
STREAM_COLD = Workload(
    "stream",
    "Stream, disk, newlines",
    "Count the newlines in the bytes of the same file, from the disk.",
    "Does it keep the disk as busy as threads written by hand?",
    "GB/s",
    (Target((STREAMED,), (BEST_FROM_DISK,), ">= 0.95", "The disk is the limit; 5 % for noise."),),
)
STREAM_LINES = Workload(
    "stream",
    "Stream, lines",
    "Count the newlines of 2 GiB of text (quick: 256 MiB), in blocks or in pieces of whole lines.",
    "What does it cost to find where lines end?",
    "GB/s",
    (Target((LINES,), (BLOCKS,), ">= 0.8", "One search backwards from the end of each piece, on all threads."),),
)
STREAM_ROWS_CPU = Workload(
    "stream",
    "Rows, CPU",
    "Least, mean and greatest temperature at each station, from 100 million lines of text (quick: one million): user "
    "and system seconds of a whole process on two threads.",
    "What does a kernel of one's own save over a query?",
    "CPU s",
    (Target((STREAMED,), (POLARS,), "<= 0.35", "A kernel that knows the format should need a third of the work."),),
)
STREAM_ROWS = Workload(
    "stream",
    "Rows",
    "The same processes, from start to end.",
    "And what over the same kernel by hand?",
    "s",
    (Target((STREAMED,), (MEMMAP_PARTS,), "<= 1.0", "Whole lines should come free of charge."),),
)
STREAM_FILES = Workload(
    "stream",
    "Stream, files",
    "Count the newlines in 20,000 files of 8 kB (quick: 2,000) in the page cache; the loop runs on one thread.",
    "Is it made for many small files, too?",
    "ms",
    (Target((STREAMED,), (LOOP,), "<= 0.8", "Two threads open and read them, without the GIL."),),
)
STREAM_PIPE = Workload(
    "stream",
    "Stream, pipe",
    "Count the newlines of 1 GB of text (quick: 100 MB) that cat writes to a pipe.",
    "Does it take what a pipe gives?",
    "ms",
    (Target((STREAMED,), (LOOP,), "<= 1.0", "Only one thread can read at a time, so no slower than one thread."),),
)
STREAM_CALL = Workload(
    "stream",
    "Stream, call",
    "Count the newlines in a file of 4 KiB.",
    "What does a call cost, its threads and buffers included?",
    "ms",
    (Target((STREAMED,), (), "<= 0.2", "So that nobody needs another way for small files."),),
)
STREAM_FILTER = Workload(
    "stream",
    "Stream, filter",
    "Write a tenth of the records in a file of 1 GiB (quick: 128 MiB) to another one; numpy on one thread.",
    "How fast are kernels that write?",
    "ms",
    (Target((STREAMED,), (NUMPY,), "<= 0.4", "Two threads, and one pass in place of a mask and a copy."),),
)
STREAM_COLLECT = Workload(
    "stream",
    "Stream, collect",
    "The positions of a byte that is one in a hundred of 1 GiB (quick: 128 MiB), in one array; numpy on one thread.",
    "How fast do results of unknown number come together?",
    "ms",
    (Target((STREAMED,), (NUMPY,), "<= 0.6", "Two threads, and an allowance for joining what they find."),),
)
STREAM_GZIP = Workload(
    "stream",
    "Stream, gzip",
    "The histogram of bytes of 256 MiB of text (quick: 32 MiB), compressed by gzip.",
    "Does decompression run beside the kernel?",
    "ms",
    (Target((STREAMED,), (LOOP,), "<= 0.8", "One thread decompresses while another counts; so does no loop."),),
)
STREAM_ZSTD = Workload(
    "stream",
    "Stream, zstd",
    "The same compressed by zstd.",
    "Likewise, where decompression is fast?",
    "ms",
    (
        Target((STREAMED,), (LOOP,), "<= 0.8", "As for gzip."),
        Target((STREAMED,), (ZSTD_AND_WC,), "<= 0.8", "The command only counts lines, but in a process of its own."),
    ),
)

STREAMS = (
    *(STREAM, STREAM_MEMORY, STREAM_NEWLINES, STREAM_SUM, STREAM_HISTOGRAM),
    *(STREAM_DISK, STREAM_COLD, STREAM_LINES),
    *(STREAM_ROWS_CPU, STREAM_ROWS),
    *(STREAM_FILES, STREAM_PIPE, STREAM_CALL),
    *(STREAM_FILTER, STREAM_COLLECT),
    *(STREAM_GZIP, STREAM_ZSTD),
)
