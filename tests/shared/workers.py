"""What child processes run, and how they are started, asked and killed; importable wherever they are spawned."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
import warnings

import faces
import numpy as np
from support import until

from iobuf_nb import BufferPool, Closed, atomics
from iobuf_nb._free.owners import place_of
from iobuf_nb._free.queue import GETTERS

METHODS = ["fork", "spawn", "forkserver"]


class Child:
    """A process that calls a function with its end of a pipe, and is gone at the end of the block."""

    def __init__(self, function, *arguments, method="fork"):
        context = multiprocessing.get_context(method)
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=report, args=(other, function, *arguments), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12 of forks beside threads
            self.process.start()
        other.close()
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.join()
        self.pipe.close()

    def says(self):
        """Return the next thing it says; fail with what it raised."""
        assert self.pipe.poll(60), "it says nothing"
        said = self.pipe.recv()
        assert not (isinstance(said, tuple) and said[:1] == ("raised",)), said[1]
        return said

    def tell(self, word=None):
        self.pipe.send(word)

    def send_signal(self, number):
        """Send a signal; a process that it kills is left a zombie."""
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def until_it_sleeps(self):
        def state():
            with open(f"/proc/{self.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0]

        until(lambda: state() == "S")

    def end(self):
        """Wait for its end, which must be a good one."""
        self.process.join(60)
        assert self.process.exitcode == 0


def report(pipe, function, *arguments):
    try:
        function(pipe, *arguments)
    except BaseException:
        pipe.send(("raised", traceback.format_exc()))
        raise


# ---- what they do ----------------------------------------------------------------------------------------------------


def hold(pipe, pool, n):
    """Get buffers, tell which, and put them when told to."""
    held = [pool.get() for _ in range(n)]
    pipe.send(held)
    pipe.recv()
    for index in held:
        pool.put(index)
    pipe.send(pool.holders())


def wait_for_one(pipe, source, name, method="get"):
    """Wait in one face's get or receive, and tell what came."""
    pipe.send("waiting")
    try:
        pipe.send(getattr(getattr(faces, name), method)(source))
    except Closed as closed:
        pipe.send(str(closed))


def send_some(pipe, channel, n):
    """Send buffers with the numbers from 0 on, and keep one more."""
    for number in range(n):
        index = channel.pool.get()
        channel.pool.value(index)[0] = number
        channel.send(index)
    pipe.send(channel.pool.get())
    pipe.recv()


def pass_on(pipe, pool, channel, queue):
    """Do one of everything, and tell what was seen."""
    index = channel.receive(60)
    pool.value(index)[0] += 1
    number = queue.get(timeout=60)
    queue.put(number + 1)
    kernel_index = faces.kernel.get(pool)
    pool.put(kernel_index)
    assert channel.pool.value(index)[0] == pool.value(index)[0]
    pipe.send((type(pool).__name__, pool.shape, str(pool.dtype), index, os.getpid()))
    pool.put(index) if channel.capacity == 1 else channel.send(index)
    pipe.recv()


def close_all_descriptors(pipe, pool):
    """Hold a buffer, and close every descriptor but that of the pipe."""
    index = pool.get()
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, 4096)
    own = BufferPool(2, 16, shared=True)  # takes the descriptor's number
    try:
        said = pool.recover()
    except OSError as error:
        said = str(error)
    pipe.send((index, said, own.recover()))
    pipe.recv()
    pool.put(index)
    again = pool.get()
    pipe.send(again)
    pipe.recv()


def churn(pool, stop):
    while atomics.load(stop, 0) == 0:
        index = pool.get()
        pool.value(index)[0] = 1
        pool.put(index)


def end_beside_a_thread(pipe, pool):
    """End while a thread of this process goes on in a kernel."""
    work, stop = faces.kernel.jit(churn), np.ones(1, np.int64)
    work(pool, stop)
    stop[0] = 0
    threading.Thread(target=work, args=(pool, stop), daemon=True).start()
    until(lambda: pool.holders())
    pipe.send("at work")


def use(pool, index):
    """Do what a task in a pool of processes does."""
    atomics.fetch_add(pool.value(index), 0, 1)
    mine = pool.get(timeout=60)
    pool.put(mine)
    return os.getpid()


def make(pipe, name):
    """Make a pool of a name when told, and tell whether that succeeded."""
    pipe.recv()
    try:
        pool = BufferPool(2, 16, name=name)
    except FileExistsError as error:
        pipe.send(str(error))
        return
    pipe.send("made")
    pipe.recv()
    pool.close()


def attach(pipe, name):
    pool = BufferPool.attach(name)
    pipe.send(pool.available())
    pipe.recv()


def waiting(source):
    """Return whether somebody may be parked."""
    return source._queue._words[GETTERS] if hasattr(source, "_queue") else source._words[GETTERS]


def wait_for_name(pipe, name):
    """Attach to a name when told."""
    pipe.recv()
    attach(pipe, name)


def place(pool, index):
    """Return where the owner word of a buffer stands."""
    return place_of(pool.capacity, index)


def take_from_queue(pipe, sent):
    """Receive a buffer through a channel that comes through a queue of multiprocessing."""
    pool, channel = sent.get(timeout=60)
    index = channel.receive(60)
    pipe.send(index)
    pipe.recv()
    pool.put(index)
