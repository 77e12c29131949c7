"""The two faces of every object: its methods called from Python, and called inside a kernel."""

from types import SimpleNamespace

from numba import njit

from iobuf_nb import advance_iovec, fill_iovec, iovec_addr_len


def try_get(pool):
    return pool.try_get()


def try_put(pool, index):
    return pool.try_put(index)


def get(pool):
    return pool.get()


def get_at_once(pool):
    return pool.get(False)


def get_within(pool, timeout):
    return pool.get(timeout=timeout)


def put(pool, index):
    pool.put(index)


def put_within(pool, index, timeout):
    pool.put(index, timeout=timeout)


def get_many(pool, out):
    return pool.get_many(out)


def put_many(pool, indices):
    return pool.put_many(indices)


def get_or_closed(queue):
    return queue.get_or_closed()


def get_or_closed_within(queue, timeout):
    return queue.get_or_closed(timeout)


def try_get_into(queue, out, k):
    return queue.try_get_into(out, k)


def get_into(queue, out):
    return queue.get_into(out)


def get_into_within(queue, out, k, timeout):
    return queue.get_into(out, k, timeout)


def available(pool):
    return pool.available()


def was_size(queue):
    return queue.was_size()


def capacity(pool):
    return pool.capacity


def closed(pool):
    return pool.closed


def nonblocking(pool):
    return pool.nonblocking


def checked(pool):
    return pool.checked


def shape(pool):
    return pool.shape


def stride(pool):
    return pool.stride


def value(pool, index):
    # Copied: a kernel only borrows the memory, so its array must not leave it.
    return pool.value(index).copy()


def write(pool, index, element):
    pool.value(index)[:] = element


def set_value(pool, index, data):
    pool.set_value(index, data)


def fill(pool, make):
    pool.fill(make)


def close(pool):
    pool.close()


def size(magazine):
    return magazine.size


def release(magazine):
    magazine.release()


def fetch(magazines, k):
    return magazines[k]


def length(magazines):
    return len(magazines)


def send(channel, index):
    channel.send(index)


def send_within(channel, index, timeout):
    channel.send(index, timeout)


def try_send(channel, index):
    return channel.try_send(index)


def receive(channel):
    return channel.receive()


def receive_within(channel, timeout):
    return channel.receive(timeout)


def try_receive(channel):
    return channel.try_receive()


def send_many(channel, indices):
    return channel.send_many(indices)


def receive_many(channel, out):
    return channel.receive_many(out)


def recover(pool):
    return pool.recover()


def once(waiter):
    waiter.once()


def will_yield(waiter):
    return waiter.will_yield


def reset(waiter):
    waiter.reset()


def sleep(backoff):
    backoff.wait()


def set_base(backoff, base):
    backoff.set_base(base)


def set_max(backoff, max):
    backoff.set_max(max)


def pace(backoff):
    return backoff.block, backoff.duration, backoff.base, backoff.max


def advance(iovec, n):
    return advance_iovec(iovec, n)


def iovec(pool, indices, lengths):
    # Copied, as in `value`.
    return pool.iovec(indices, lengths).copy()


def point(iovec, pool, indices, lengths):
    return fill_iovec(iovec, pool, indices, lengths)


def address_and_length(iovec):
    return iovec_addr_len(iovec)


FUNCTIONS = [item for item in list(globals().values()) if callable(item) and item.__module__ == __name__]

python = SimpleNamespace(name="python", jit=lambda function: function, **{f.__name__: f for f in FUNCTIONS})
kernel = SimpleNamespace(
    name="kernel",
    jit=lambda function: njit(nogil=True)(function),
    **{f.__name__: njit(nogil=True)(f) for f in FUNCTIONS},
)
