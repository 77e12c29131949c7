"""Programs over magazines: one owner for each buffer, and EMPTY only if all are out; in the form of `cases`."""

import itertools

from iobuf_nb import BufferPool, atomics
from iobuf_nb._free import waiting
from iobuf_nb._free.deque import PUSHES, base_of
from iobuf_nb._free.queue import CLOSED_FLAG, HEAD
from iobuf_nb._jit import seam

from . import scheduler
from .cases import Case, case, get, get_two, put_all, put_back, written
from .memories import FENCES, SC, TSO, NoMembarrier, Relaxed
from .scheduler import Outcome, Violation
from .specs import Spec, closing_pool
from .threads import WORDLESS


def wait(source):
    def operation(got):
        got.append(source.get())
        return got[-1]

    return "G", operation  # it is a get whose answer is never EMPTY


def close(source):
    return "C", lambda got: waiting.close_queue(getattr(source, "pool", source)._queue)


OPERATIONS = {"C": close, "G": get, "P": put_back, "W": wait, "B": get_two, "D": put_all}


def magazine_case(capacity, held, scripts, owners_fence=False, deaths=0):
    """`held[k]` buffers lie in magazine k, which is that of thread k, at first; the rest in the free queue.

    G gets, P puts the oldest that the thread holds, W waits; B gets up to two at once, D puts all back at once;
    C closes the pool. Small letters are operations of the pool, with no magazine.
    """

    def program():
        pool = BufferPool(capacity, 1, checked=False)
        magazines = [pool.magazine(2) for _ in scripts]
        for magazine, n in zip(magazines, held, strict=True):
            magazine._asymmetric = not owners_fence
            for index in [pool.get() for _ in range(n)]:
                magazine.put(index)
        pools.append((pool, magazines))
        programs = [
            [OPERATIONS[letter.upper()](magazine if letter.isupper() else pool) for letter in script]
            for magazine, script in zip(magazines, scripts, strict=True)
        ]
        return [pool._queue._words, pool._deques], programs

    pools = []
    explained = set("".join(scripts).upper()) <= set("GPWC")
    spec = Spec((frozenset(range(capacity)), False), closing_pool) if explained else None
    return program, spec, lambda results: check(pools[-1][0], results, deaths)


def handed_on_case(capacity, held, scripts):
    """All threads use one checked magazine, in which `held` buffers lie; R releases it. A refused call does nothing."""

    def program():
        pool = BufferPool(capacity, 1)
        magazine = pool.magazine(2)
        for index in [pool.get() for _ in range(held)]:
            magazine.put(index)
        magazine.release()
        pools.append((pool, magazine))
        code = {"G": get(magazine), "P": put_back(magazine), "R": ("R", lambda got: magazine.release())}
        code = {letter: (name, unless_refused(operation)) for letter, (name, operation) in code.items()}
        return [pool._queue._words, pool._deques, pool._owners, pool._bulks], written(scripts, code)

    def unless_refused(operation):
        def tried(got):
            held = list(got)
            try:
                return operation(got)
            except RuntimeError:
                got[:] = held
                return None

        return tried

    pools = []
    spec = Spec((frozenset(range(capacity)), False), refusing_pool)
    return program, spec, lambda results: check(pools[-1][0], results)


def refusing_pool(model, name, got):
    """As `closing_pool`, but for what is refused because the magazine is another thread's."""
    yield None, model
    yield from closing_pool(model, name, got)


def endless_case(held, letter, every):
    """An owner of `held` buffers gets and puts them all again after `every` accesses of another thread's get.

    More often than at every fifth access, the free queue alone would keep it: that is lock-free, and not more.
    """

    def program():
        pool = BufferPool(held, 1, checked=False)
        magazine, other = pool.magazine(2), pool.magazine(2)
        for index in [pool.get() for _ in range(held)]:
            magazine.put(index)
        get_and_put = [OPERATIONS[name](magazine)[1] for name in "GP" * held]
        return get_and_put, OPERATIONS[letter.upper()](other if letter.isupper() else pool)[1], every

    return program, None, None


class Endless(Case):
    """Not a walk through all states, which have no end here: only that the get has one, in so many steps of its own."""

    most = 150

    def run(self):
        get_and_put, operation, every = self.make()[0]()
        steps = 0

        def hook(name, words, i, order, *operands):
            nonlocal steps
            if name in WORDLESS:
                return WORDLESS[name](0)
            steps += 1
            if steps > self.most:
                raise Violation(f"a get does not end in {self.most} steps of its own")
            seam.hook = None
            try:
                if steps % every == 0:
                    held = []
                    for own in get_and_put:
                        own(held)
                return None if name in FENCES else getattr(atomics, name)(words, i, *operands, order=order)
            finally:
                seam.hook = hook

        with self.applied():
            seam.hook = hook
            try:
                operation([])
            finally:
                seam.hook = None
        return Outcome(steps=steps)


def check(pool, results, deaths=0):
    """See that every buffer is free or out, and none twice; of what somebody died in, nobody knows the effect."""
    pool._queue._words[CLOSED_FLAG] = 0
    free = [pool.try_get() for _ in range(pool.available())]
    assert len(set(free)) == len(free) and -1 not in free, "a buffer was doubled"
    out = sum(taken(name, result) for name, result in itertools.chain(*results))
    assert abs(pool.capacity - out - len(free)) <= deaths, "a buffer was lost"
    assert pool.try_get() == -1, "a buffer is there that was not counted"


def taken(name, result):
    """Return how many buffers an operation took away, less what it gave back."""
    if name == "G":
        return result is not None and result >= 0
    return -(result is True) if name == "P" else result or 0


PAIRS = [
    (1, (1, 0), ("GP", "G")),
    (1, (1, 0), ("GP", "GP")),
    (1, (1, 0), ("GP", "g")),
    (2, (2, 0), ("GPG", "G")),
    (2, (1, 0), ("GGP", "g")),
    (2, (2, 0), ("GG", "gp")),
    (1, (0, 0), ("gP", "G")),
    (2, (1, 1), ("GP", "gP")),
    (2, (1, 0), ("GPG", "gPg")),
    (1, (1, 0), ("G", "gg")),
    (2, (1, 0), ("gpG", "g")),
    (3, (2, 0), ("gP", "G")),
    (2, (2, 0), ("g", "g")),
]
LONG_PAIRS = [(2, (1, 0), ("GGPP", "gg")), (2, (1, 0), ("gGP", "G"))]
THREES = [(1, (1, 0, 0), ("GP", "g", "g")), (2, (1, 1, 0), ("GP", "G", "g"))]
BULKS = [
    (2, (2, 0), ("B", "G")),
    (2, (2, 0), ("BD", "GP")),
    (2, (2, 0), ("BDB", "gp")),
    (2, (1, 1), ("BD", "BD")),
]
CLOSES = [(1, (1, 0), ("GP", "cg")), (2, (1, 0), ("GPG", "gc")), (1, (1, 0), ("Cg", "gP"))]
WAITS = [
    (1, (1, 0), ("GP", "w")),
    (1, (1, 0), ("GP", "W")),
    (2, (2, 0), ("BD", "w")),
    (1, (1, 0), ("WP", "WP")),
]

#: What it takes that a search is wrong: a free buffer is always there, and never where it looks.
PROOFS = [
    (magazine_case, 2, (1, 0), ("gpGPgpG", "g"), {}),
    (magazine_case, 3, (2, 0), ("ggPg", "g"), {"preemptions": 4}),
    (magazine_case, 1, (1, 0, 0), ("GP", "g", "g"), {"preemptions": 1, "memory": TSO}),
    (magazine_case, 2, (2, 0), ("BD", "gpw"), {"preemptions": 2, "memory": TSO}),
    (magazine_case, 1, (1, 0), ("GP", "gpw"), {"preemptions": 2, "memory": TSO}),
    (magazine_case, 1, (1, 0), ("GP", "gpw"), {"preemptions": 3, "memory": Relaxed}),
]
#: The same of three threads: the last suspects what the first has just refuted, before the second proves it.
DEQUE, RING = f"load 1[{base_of(0) + PUSHES}]", f"load 0[{HEAD}]"
SUSPECTED_TWICE = (
    *((0, 1), (1, DEQUE), (0, 3), (1, RING), (0, 5), (2, DEQUE), (1, DEQUE)),
    *((0, 7), (1, RING), (2, RING), (0, 9), (2, DEQUE), (1, 1), (0, 10)),
)

#: Two owners have looked for getters; two come and park; the first put wakes one, and so must the second.
PUSHED = [f"store 1[{base_of(number) + PUSHES}]" for number in range(2)]
WAITED_TWICE = (0, 1), (1, 1), (0, PUSHED[0]), (1, PUSHED[1]), (2, 1), (3, 1), (0, 2), (1, 2)

EMPTINESS = [
    *(
        case(magazine_case, 2, (1, 1, 0, 0), (owner, owner, "w", "w"), walk=scheduler.follow, plan=WAITED_TWICE)
        for owner in ("GP", "GD")
    ),
    case(magazine_case, 2, (1, 0, 0), ("gpGPgpGPgG", "g", "g"), walk=scheduler.follow, plan=SUSPECTED_TWICE),
    *(case(*arguments, **options) for *arguments, options in PROOFS),
]

HANDED_ON = [(2, 1, ("GR", "GR")), (2, 2, ("GPR", "GG")), (2, 1, ("GPR", "GPR")), (2, 1, ("GRG", "GR"))]
LONGEST = (2, (2, 0), ("GPGG", "GPG"))


def in_pairs(**options):
    """Return the cases of pairs in a machine that has many states."""
    return [
        case(magazine_case, *arguments, everyday=everyday, **options)
        for pairs, everyday in ((PAIRS, None), (LONG_PAIRS, 2))
        for arguments in pairs
    ]


#: Those that take a moment.
CASES = [
    *(case(magazine_case, *arguments) for arguments in (*PAIRS, *LONG_PAIRS, *BULKS, *WAITS[:3])),
    *EMPTINESS,
    *(case(magazine_case, *arguments, memory=memory) for memory in (SC, TSO) for arguments in CLOSES),
    *(
        case(endless_case, held, letter, every, cls=Endless)
        for held, letter, every in itertools.product((1, 2), "gGb", (5, 7, 9, 14, 23))
    ),
    *(case(handed_on_case, *arguments, memory=memory) for memory in (SC, TSO) for arguments in HANDED_ON),
    *in_pairs(memory=TSO),
    *in_pairs(owners_fence=True, memory=NoMembarrier),
    *(case(handed_on_case, *arguments, memory=Relaxed) for arguments in HANDED_ON),
    *in_pairs(memory=Relaxed),
]
#: Those that take seconds.
LARGE = [
    *(case(magazine_case, *arguments) for arguments in (LONGEST, WAITS[3])),
    *(case(magazine_case, *arguments, memory=TSO, everyday=2) for arguments in (LONGEST, *BULKS, *WAITS)),
    *(case(magazine_case, *arguments, memory=TSO, preemptions=2) for arguments in THREES),
    case(magazine_case, *LONGEST, owners_fence=True, memory=NoMembarrier, everyday=2),
    *in_pairs(deaths=1, alone=100, memory=TSO),
    case(magazine_case, *LONGEST, deaths=1, alone=100, memory=TSO, everyday=1),
    case(magazine_case, *LONGEST, memory=Relaxed, everyday=2),
]
