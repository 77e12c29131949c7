"""Calls every public function, method and constructor with arguments that nobody should pass, mixed with good ones.

``python fuzz.py python LOG SEED CALLS [NAME]`` makes CALLS calls of each target (whose name contains NAME), and writes
LOG.json: how much it did, and what was wrong. What is about to be called stands in the file LOG, which tells what has
killed the process, or has been stopped by the alarm because it blocked.

Three promises are looked at, for each call that fails:

- the error is one that the docstring names, or one that an argument raised itself;
- if it is a TypeError, ValueError or IndexError, it names an argument;
- neither the object nor any argument has changed.

``python fuzz.py kernel ...`` calls inside kernels, where each parameter in turn gets CALLS values of types that it may
not take: that either works, or the kernel is not compiled, for a reason that names the parameter.
"""

import array
import asyncio
import builtins
import contextlib
import functools
import importlib
import inspect
import json
import mmap
import os
import pkgutil
import random
import re
import resource
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
from fuzz_values import GOOD, MAKE, NASTY, ONLY_GOOD, PATH, Raised, _ring
from numba import njit
from numba.core.errors import TypingError

import iobuf_nb
from iobuf_nb import (
    IOVEC_DTYPE,
    Backoff,
    BoundedQueue,
    BufferPool,
    Channel,
    ItemPool,
    Magazine,
    MagazineSet,
    events,
    sockets,
)
from iobuf_nb._pools.lease import Lease
from iobuf_nb.events import EPOLL_DTYPE, POLL_DTYPE
from iobuf_nb.sockets import ADDRESS_DTYPE, MESSAGE_DTYPE
from iobuf_nb.uring import RegisteredPool, Ring

SECONDS = 100  # a call that takes longer is taken for one that blocks


ROOM = 3 << 29  # bytes of address space that calls may take beside what the process has after its imports


SLOW = {"stream", "blocks", "scan", "copy", "RegisteredPool", "Ring"}  # these get half as many calls


EXEMPT = {
    "CopyResult": "a value that holds what it is given",
    "ScanResult": "a value that holds what it is given",
    "StreamResult": "a value that holds what it is given",
    "PoolStats": "a value that holds what it is given",
    "StreamError": "an error that holds what it is given",
    "Closed": "an error that holds what it is given",
    "PoolClosed": "an error that holds what it is given",
    "WouldBlock": "an error that holds what it is given",
    "Tier": "its call is that of the standard library's IntEnum",
}


# ---- what is called --------------------------------------------------------------------------------------------------


@functools.cache
def public():
    """Return all public functions and classes with the module each is from; io_uring only where it is allowed."""
    names = [name for _, name, _ in pkgutil.iter_modules(iobuf_nb.__path__) if not name.startswith("_")]
    names.remove("text")  # tests/test_text.py has bad input for its functions, which check only what Python gives them
    names.remove("dask")  # tests/dask has it for what needs a cluster
    if _ring() is None:
        names.remove("uring")
    modules = [iobuf_nb, *(importlib.import_module(f"iobuf_nb.{name}") for name in names)]
    found = {}
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                owner = sys.modules[thing.__module__]
                short = owner.__name__.removeprefix("iobuf_nb.")
                found[f"{short}.{name}" if short in ("atomics", "syscalls") else name] = thing, owner
    return found


def methods(cls):
    """Return the names of a class's own public methods, settable properties, and operators."""
    for name in sorted({name for base in cls.__mro__ if base.__module__.startswith("iobuf_nb") for name in vars(base)}):
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property):
            if member.fset:
                yield name
        elif name == "__getitem__" or (not name.startswith("_") and callable(getattr(cls, name))):
            yield name


def targets():
    """Return everything to call: {name: (function of (self, arguments), signature, docstrings, class or None)}."""
    found = {}
    for name, (thing, module) in public().items():
        if not inspect.isclass(thing):
            found[name] = (
                thing,
                inspect.signature(thing),
                documented(thing.__doc__ + module.__doc__, vars(module)),
                None,
            )
            continue
        space = {**vars(module), **{key: getattr(thing, key) for key in dir(thing)}}
        if name not in EXEMPT:
            of = thing.__new__ if issubclass(thing, np.ndarray) else thing.__init__
            signature = inspect.signature(functools.partial(of, None))
            found[name] = thing, signature, documented(thing.__doc__ + (of.__doc__ or ""), space), None
        for method in methods(thing):
            member = inspect.getattr_static(thing, method)
            function = member.fset if isinstance(member, property) else getattr(thing, method)
            static = inspect.ismethod(function)  # of the class
            signature = inspect.signature(function if static else functools.partial(function, None))
            doc = (member.__doc__ if isinstance(member, property) else inspect.getdoc(function)) or ""
            errors = documented(doc, space) | documented(thing.__doc__ if method == "__getitem__" else "", space)
            found[f"{name}.{method}"] = function, signature, errors, None if static else thing
    return found


def documented(doc, space, depth=3):
    """Return the errors that a docstring names, also by reference: "as in `x`", "those of `x`"."""
    names = set(re.findall(r"\b(?:[A-Z]\w*(?:Error|Block|Interrupt)|(?:Pool)?Closed)\b", doc or ""))
    found = {getattr(builtins, name, None) or vars(iobuf_nb)[name] for name in names}
    for name in (
        re.findall(r"(?:[Aa]s|[Aa]s\s+in|[Ll]ike|[Tt]hose\s+of|[Ss]ee)\s+`(?:[\w.]+\.)?(\w+)`", doc or "")
        if depth
        else ()
    ):
        thing = space.get(name) or public().get(name, [None])[0]
        found |= documented(getattr(thing, "__doc__", ""), space, depth - 1)
    return frozenset(found)


#: For kernels: a good value of each parameter, and values of types that hardly any takes.
IN_KERNELS = {
    **dict.fromkeys(("index", "item", "k", "i", "value", "expected", "desired", "n"), lambda: 0),
    **dict.fromkeys(("offset", "end", "flags", "timeout_ms", "at_least"), lambda: 0),
    **dict.fromkeys(("indices", "items", "out", "words"), lambda: np.zeros(1, np.int64)),
    **dict.fromkeys(("data", "buffer"), lambda: np.zeros(1, np.uint8)),
    "base": lambda: 1e-9,
    "max": lambda: 1e-6,
    "fd": lambda: -1,
    **dict.fromkeys(("how", "level", "kind", "option", "operation", "target", "seconds", "first"), lambda: 0),
    **dict.fromkeys(("address", "a", "b"), lambda: np.zeros(1, ADDRESS_DTYPE)[0]),
    "message": lambda: np.zeros(1, MESSAGE_DTYPE)[0],
    "messages": lambda: np.zeros(1, MESSAGE_DTYPE),
    "records": lambda: np.array([(2**30, 0, 0)], POLL_DTYPE),
    "ready": lambda: np.zeros(1, EPOLL_DTYPE),
    "iovec": lambda: np.zeros(1, IOVEC_DTYPE),
    "pool": lambda: BufferPool(2, 16),
    "queue": lambda: BoundedQueue(4),
}


UNKNOWN = ("big-endian", "0-d")  # no kernel takes the former, and numba's len() fails on the latter


OTHER_TYPES = {
    **{name: NASTY[name] for name in ("None", "0.5", "1j", "'x'", "b''", "tuple", "np.f4", "np.M8[s]")},
    **{f"{name} array": NASTY[f"{name} array"] for name in ("?", "f8", "c16", "M8[s]", "record")},
    **{name: NASTY[name] for name in NASTY if name.startswith("int64 array") and name[13:] not in UNKNOWN},
    **{name: NASTY[name] for name in ("a pool", "an item pool", "a queue", "a magazine", "a backoff")},
}


PYTHON_ONLY = {
    *(
        "lease",
        "view",
        "aget",
        "aput",
        "alease",
        "magazine",
        "register",
        "asend",
        "areceive",
        "attach",
        "holding_processes",
        "stats",
        "places",
        "check",
        "watch",
        "nonblocking",
        "for_size",
        "ItemPool.value",
        "ItemPool.set_value",
    ),
    *("iovec_from_buffers", "iovec_from_registered", "new_buffers", "view_as_buffers", "stream", "scan", "copy"),
    *("blocks", "Sink.close"),
    *("address_of", "to_python", "controls_of"),
    *(name for name in vars(iobuf_nb._memory.aligned) if name.endswith(("mem", "block", "blocks", "page_size"))),
    "fill",  # what cannot be called, numba says in words of its own
}


# ---- what is looked at -----------------------------------------------------------------------------------------------


def looks(thing):
    """Return all that can be seen of an object, to compare."""
    if isinstance(thing, (BufferPool, ItemPool)):
        held = thing.holders() if thing.checked else None
        # What a free buffer holds is nobody's, and of an unchecked pool nobody knows which are free.
        known = range(thing.capacity) if isinstance(thing, ItemPool) else sorted(held or ())
        values = [repr(thing.value(k)) for k in known]
        return thing.available(), held, thing.closed, thing.nonblocking, values
    if isinstance(thing, Magazine):
        return thing.was_size(), thing.size, looks(thing.pool)
    if isinstance(thing, Channel):
        return thing._words.tobytes(), looks(thing.pool)
    if isinstance(thing, MagazineSet):
        return [looks(magazine) for magazine in thing]
    if isinstance(thing, BoundedQueue):
        return thing._words.tobytes()
    if isinstance(thing, Backoff):
        return thing.block, thing.duration, thing.base, thing.max
    if isinstance(thing, RegisteredPool):
        return looks(thing.pool), thing.in_flight, thing.closed, looks(thing.ring)
    if isinstance(thing, Ring):
        return repr(thing)
    if isinstance(thing, np.ndarray):
        return thing.shape, thing.dtype, thing.tobytes() if not thing.dtype.hasobject else thing.tolist()
    if isinstance(thing, (bytearray, array.array)):
        return bytes(thing)
    if isinstance(thing, list):
        return [looks(each) for each in thing]
    return None


def call(function, arguments):
    """Call, and go all the way where the call alone does little."""
    result = function(**arguments) if isinstance(arguments, dict) else function(*arguments[0], **arguments[1])
    if inspect.iscoroutine(result):
        asyncio.run(result)
    elif isinstance(result, contextlib.AbstractAsyncContextManager):
        asyncio.run(_enter(result))
    elif function in (events.epoll_create, events.eventfd, events.timerfd, sockets.accept):
        os.close(result)
    elif inspect.isgenerator(result):
        for _ in result:
            pass
    elif isinstance(result, Lease):
        with result:
            pass


async def _enter(manager):
    async with manager:
        pass


def draw(rng, signature, self):
    """Draw arguments for a signature: {name: (label, value)}."""
    drawn = {}
    share = max(0.6, 1 - 2 / max(1, len(signature.parameters)))  # of good ones; with many, most calls have few bad ones
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            names = [key for key in ("huge_pages", "lock", "populate") if rng.random() < 0.2]
        elif parameter.default is not parameter.empty and rng.random() < 0.5:
            continue
        else:
            names = [name]
        for each in names:
            good = GOOD.get(each, [lambda rng, self: rng.random() < 0.5])
            if each in ONLY_GOOD or rng.random() < share:
                k = rng.randrange(len(good))
                drawn[each] = f"good {k}", good[k](rng, self)
            else:
                label = rng.choice(list(NASTY))
                drawn[each] = label, NASTY[label]()
    return drawn


class Report:
    """What was called, and what was wrong."""

    def __init__(self, log):
        self.path = log
        Path(log).write_bytes(bytes(1 << 16))
        with open(log, "r+b") as file:
            self.last = mmap.mmap(file.fileno(), 0)
        self.targets, self.calls, self.failed, self.wrong = set(), 0, 0, {}

    @contextlib.contextmanager
    def about_to(self, target, text):
        """Note a call before it is made, and stop the process if it blocks."""
        note = text.encode() + b"\0"
        self.last[: len(note)] = note
        self.targets.add(target)
        self.calls += 1
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def judged(self, target, text, complaint):
        self.failed += 1
        if complaint:
            self.wrong.setdefault(f"{target}: {complaint.split('(')[0]}", f"{text} {complaint}")

    def write(self):
        result = {"targets": len(self.targets), "calls": self.calls, "failed": self.failed, "wrong": self.wrong}
        Path(self.path + ".json").write_text(json.dumps(result))


def fuzz_python(report, seed, calls, only):
    usual = iobuf_nb.page_size()
    for name, (function, signature, errors, cls) in targets().items():
        rng = random.Random(f"{seed} {name}")
        calls_of_this = calls // (2 if name.split(".")[0] in SLOW else 1) if signature.parameters else 10
        for number in range(calls_of_this if only in name else 0):
            self = MAKE[cls](rng) if cls else None
            drawn = draw(rng, signature, self)
            text = f"{name}({', '.join(f'{key}={label}' for key, (label, _) in drawn.items())})  # {seed=} {number=}"
            arguments = {key: value for key, (_, value) in drawn.items()}
            before = looks(self), [looks(value) for value in arguments.values()]
            try:
                with report.about_to(name, text):
                    call(function if cls is None else functools.partial(function, self), arguments)
            except Exception as error:
                complaint = judge(name, error, errors, signature)
                if not complaint and (looks(self), [looks(value) for value in arguments.values()]) != before:
                    complaint = "it failed, and changed something"
                report.judged(name, text, complaint)
            iobuf_nb.set_page_size(usual)
            del self, drawn, arguments


def is_for_kernels(name):
    """Say whether kernels have it too: of the constructors, only that of `Backoff`."""
    is_class = inspect.isclass(public().get(name, [None])[0])
    return name == "Backoff" if is_class else not PYTHON_ONLY & {name, name.split(".")[-1]}


def fuzz_kernel(report, seed, calls, only):
    for name, (function, signature, errors, cls) in targets().items():
        required = [key for key, each in signature.parameters.items() if each.default is each.empty]
        for wrong in signature.parameters if only in name and is_for_kernels(name) else ():
            names = [*required, *({wrong} - {*required})]
            call = f"self.{name.split('.')[1]}" if cls else "function"
            passed = [*required, *([f"{wrong}={wrong}"] if wrong not in required else [])]
            body = "self[k]" if name.endswith("__getitem__") else f"{call}({', '.join(passed)})"
            space = {"function": function}
            exec(f"def kernel(self, {', '.join(names)}):\n    {body}", space)
            rng = random.Random(f"{seed} {name} {wrong}")
            for label in rng.sample(sorted(OTHER_TYPES), min(calls, len(OTHER_TYPES))):
                text = f"kernel: {name}({wrong}={label})"
                arguments = [OTHER_TYPES[label]() if key == wrong else IN_KERNELS[key]() for key in names]
                self = MAKE[cls](rng) if cls else 0
                try:
                    with report.about_to(name, text):
                        njit(space["kernel"])(self, *arguments)
                except TypingError as error:
                    known = {wrong, ALIASES.get(wrong), f"{wrong}s"}
                    sentences = re.findall(r"[^\n:]* must [^\n]*", str(error))
                    named = any(known & set(re.findall(r"\w+", sentence)) for sentence in sentences)
                    report.judged(name, text, None if named else f"names no argument: {error!s:.300}")
                except Exception as error:
                    report.judged(name, text, judge(name, error, errors, signature))


def main(face, log, seed, calls, only=""):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ResourceWarning)
    Path(PATH).write_bytes(bytes(range(250)) * 40)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.RLIM_INFINITY))
    report = Report(log)
    {"python": fuzz_python, "kernel": fuzz_kernel}[face](report, int(seed), int(calls), only)
    report.write()


# How else an argument is called: one of them, what it returns, and together with others.
ALIASES = {"indices": "index", "make": "data", "expected": "values", "desired": "values", "value": "values"}


# What an argument says when it is asked, of what its own state is or has no answer to.
OWN = re.compile(
    r"truth value of an|released memoryview object|I/O operation on closed file|object is not callable|"
    r"takes \w+ \w+ argument|0-dim memory has no length|scalars to be interpreted as an index"
)


def judge(name, error, errors, signature):
    """Return what is wrong with an error, or None."""
    cause = error
    while cause:
        if isinstance(cause, Raised) or OWN.search(str(cause)):
            return None
        cause = cause.__cause__ or cause.__context__
    # These two stand for their subclasses, of which Python chooses one by errno, and numpy has one.
    named = errors & {type(error)} or isinstance(error, tuple(errors & {OSError, MemoryError}))
    if not named:
        return f"not documented: {error!r:.300}"
    if isinstance(error, (TypeError, ValueError, IndexError)):
        known = {*signature.parameters, "huge_pages", "lock", "populate", *name.split(".")[-1:]}
        known |= {ALIASES.get(name) for name in known}
        if not known & set(re.findall(r"\w+", str(error))):
            return f"names no argument: {error!r:.300}"
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
