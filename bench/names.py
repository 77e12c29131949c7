"""Names of cases and sizes of workloads, shared by the code that measures them and the table that judges them."""

ITEMS, ROOM, BATCH, HELD, BUFFER = 1000, 1024, 32, 48, 1024

RING, POOL, CHECKED = "BoundedQueue", "pool, unchecked", "pool, checked"
MAGAZINE, MAGAZINE_256, MAGAZINE_CHECKED = "magazine, unchecked", "magazine of 256, unchecked", "magazine, checked"
STATS = f"{CHECKED}, stats=True"
MAGAZINE_ALONE = f"{MAGAZINE}, alone"
WAITING_RING, WAITING_POOL, WAITING_CHECKED = f"{RING}, get/put", f"{POOL}, get/put", f"{CHECKED}, get/put"

FLOOR, VYUKOV = "floor: two CAS", "Vyukov in numba"
RTE_RING, MEMPOOL, STACK = "rte_ring", "rte_mempool", "stack, one thread"
CROSSBEAM = "crossbeam ArrayQueue"
SIMPLE_QUEUE, QUEUE = "queue.SimpleQueue", "queue.Queue"
SIMPLE_QUEUE_OF_BYTES, QUEUE_OF_BYTES = f"{SIMPLE_QUEUE} of bytearrays", f"{QUEUE} of bytearrays"

QUEUE_TO_ASYNCIO, QUEUE_SINGLY = f"{RING}, aget and get_many", f"{RING}, aget"
ASYNCIO_QUEUE = "asyncio.Queue, call_soon_threadsafe"
ASYNCIO_QUEUE_BATCHES = f"{ASYNCIO_QUEUE} of {BATCH}"

PYTHON_VALUE, PYTHON_VIEW = "pool.value(i)", "pool.view(i)"
SET_VALUE, BYTEARRAY = "pool.set_value(i, bytes)", "bytearray[:] = bytes"
LEASE, BY_HAND = "with pool.lease()", "get, value, put"

STREAMED, LOOP, NUMPY, DD = "stream", "loop", "numpy by chunks", "dd"
MEMMAP_CHUNKS, MEMMAP_PARTS, PREADV = "np.memmap by chunks", "np.memmap by parts", "os.preadv"
BLOCKS, LINES = "blocks", "lines"
POLARS, DUCKDB, PYARROW, ZSTANDARD = "polars", "duckdb", "pyarrow", "zstandard"
ZSTD_AND_WC = "zstd and wc"

RECVMMSG, RECVMMSG_GRO = "recvmmsg in a kernel", "recvmmsg in a kernel, UDP_GRO"
RECVMMSG_C, RECVMSG_INTO = "recvmmsg in C", "socket.recvmsg_into"

SHARED = "pool, checked, shared"
AFTER_KILL, NEVER_WAITED = "after a kill", "before"
CHANNEL, CHANNEL_IN_KERNELS = "Channel", "Channel, kernels"
MP_QUEUE, PIPE, PIPE_BOTH_WAYS = "multiprocessing.Queue", "Pipe(False)", "Pipe(True)"
FASTER_FIFO, PYZMQ, ICEORYX2 = "faster-fifo", "pyzmq ipc", "iceoryx2 + event"
IMPORT_IN_CHILD, ATTACH = "import iobuf_nb, numba included", "attach, to the first get"

ON_CLUSTER, DASK_MAP = "dask.stream", "client.map"
DASK_ARRAY, DASK_BAG, DASK_DATAFRAME = "dask.array", "dask.bag", "dask.dataframe"
DASK_ARRAY_BINCOUNT = f"{DASK_ARRAY}, np.bincount"
FIRST_TASK, FIRST_TASK_CPU = "first task", "first task, CPU"

IMPORT, KERNEL_CACHED, FIRST_GET_PUT = (
    "iobuf_nb over numba",
    "first kernel over a pool",
    "first get and put from Python",
)
KERNEL_NEW = "new kernel over a pool"
FIRST_POOL, FIRST_KERNEL, FIRST_MAGAZINE = "first pool, get and put", "first kernel over it", "first magazine over it"
FIRST_SCAN = "python -m iobuf_nb scan"


def warmed(case: str) -> str:
    """Return the name of a case after `python -m iobuf_nb warm`."""
    return f"{case}, warmed"
