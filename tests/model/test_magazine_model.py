"""All schedules of magazines over a small pool: one owner for each buffer, and EMPTY only if all are out."""

import inspect
import itertools
import re

import cases
import pytest
import scheduler
from memories import SC, TSO, Relaxed
from specs import Spec
from specs import pool as free_list

import iobuf_nb._deque
import iobuf_nb.magazine
from iobuf_nb import BufferPool


def wait(source):
    def operation(got):
        got.append(source.get())
        return got[-1]

    return "G", operation


#: G gets, P puts the oldest that the thread holds, W waits; B gets up to two at once, D puts all back at once.
OPERATIONS = {"G": cases.get, "P": cases.put_back, "W": wait, "B": cases.get_two, "D": cases.put_all}


def explore(capacity, held, scripts, **options):
    """`held[k]` buffers lie in magazine k at first; small letters are operations of the pool, without a magazine."""
    pools, magazines = [], []

    def fresh():
        pool = BufferPool(capacity, 1, checked=False)
        pools.append(pool)
        magazines[:] = [pool.magazine(2) for _ in scripts]
        for magazine, n in zip(magazines, held, strict=True):
            for index in [pool.get() for _ in range(n)]:
                magazine.put(index)
        programs = [
            [OPERATIONS[letter.upper()](magazine if letter.isupper() else pool) for letter in script]
            for magazine, script in zip(magazines, scripts, strict=True)
        ]
        return [pool.ring.words, pool.deques], programs

    def check(results):
        """At the end all that was not got, or was put back, must be there, each once."""
        free = [pools[0].try_get() for _ in range(pools[0].available())]
        assert len(set(free)) == len(free) and -1 not in free, "a buffer was doubled"
        out = sum(taken(name, result) for name, result in itertools.chain(*results))
        # Of an operation that somebody died in, nobody knows whether it took effect.
        assert abs(capacity - out - len(free)) <= options.get("deaths", 0), "a buffer was lost"
        assert pools[0].try_get() == -1

    def taken(name, result):
        return {"G": lambda: result >= 0, "B": lambda: result, "P": lambda: -bool(result), "D": lambda: result}[name]()

    in_bulk = set("BDbd") & set("".join(scripts))
    spec = None if in_bulk else Spec(frozenset(range(capacity)), free_list)
    name = f"pool of {capacity}, magazines holding {held}: {' || '.join(scripts)}"
    outcome = cases.Case(name, lambda: (fresh, spec, check), options).run()
    print(f"{name}: {outcome}")
    return outcome


CASES = [
    (1, (1, 0), ("GP", "G")),
    (1, (1, 0), ("GP", "GP")),
    (1, (1, 0), ("GP", "g")),
    (2, (2, 0), ("GPG", "G")),
    (2, (1, 0), ("GGP", "g")),
    (2, (2, 0), ("GG", "gp")),
    (2, (2, 0), ("GPGG", "GPG")),
    (1, (0, 0), ("gP", "G")),
    (2, (1, 1), ("GP", "gP")),
    (2, (1, 0), ("GPG", "gPg")),
    (1, (1, 0), ("G", "gg")),
    (2, (1, 0), ("GGPP", "gg")),
    (2, (1, 0), ("gpG", "g")),
    (1, (1, 0, 0), ("GP", "g", "g")),
    (2, (1, 1, 0), ("GP", "G", "g")),
]


@pytest.mark.parametrize(
    "capacity, held, scripts, memory",
    [*((*case, TSO) for case in CASES), *((*case, memory) for memory in (SC, Relaxed) for case in CASES[:13])],
    ids=str,
)
def test_one_owner_and_an_exact_empty(capacity, held, scripts, memory):
    assert explore(capacity, held, scripts, memory=memory).states > 20


@pytest.mark.parametrize("capacity, held, scripts", CASES[:13], ids=str)
def test_where_owners_must_fence(monkeypatch, capacity, held, scripts):
    monkeypatch.setattr(iobuf_nb.magazine, "register_heavy_fence", lambda: False)
    monkeypatch.setattr(iobuf_nb._deque, "heavy_fence", iobuf_nb._deque.fence)
    assert explore(capacity, held, scripts, memory=TSO).states > 20


@pytest.mark.parametrize("capacity, held, scripts", CASES[:13], ids=str)
def test_others_go_on_when_one_dies(capacity, held, scripts):
    assert explore(capacity, held, scripts, memory=TSO, deaths=1, alone=100).states > 20


@pytest.mark.parametrize("memory", [SC, TSO])
@pytest.mark.parametrize(
    "capacity, held, scripts",
    [(2, (2, 0), ("B", "G")), (2, (2, 0), ("BD", "GP")), (2, (2, 0), ("BDB", "gp")), (2, (1, 1), ("BD", "BD"))],
    ids=str,
)
def test_in_bulk(capacity, held, scripts, memory):
    assert explore(capacity, held, scripts, memory=memory).states > 20


WAITING = [
    (1, (1, 0), ("GP", "w")),
    (1, (1, 0), ("GP", "W")),
    (1, (1, 0), ("WP", "WP")),
    (2, (2, 0), ("BD", "w")),
]


@pytest.mark.parametrize("memory", [SC, TSO])
@pytest.mark.parametrize("capacity, held, scripts", WAITING, ids=str)
def test_nobody_sleeps_beside_a_free_buffer(capacity, held, scripts, memory):
    assert explore(capacity, held, scripts, memory=memory).states > 20


MUTANTS = {
    "push counted before the slot is written": (
        "_deque",
        "push",
        r"( *store\(.*SLOTS.*\n)( *store\(.*PUSHES.*\n)",
        r"\2\1",
    ),
    "pop given up before the top is fought for": (
        "_deque",
        "_finish",
        r"( *index = .*\n)(?: *#.*\n)*( *store\(.*POPS.*\n)",
        r"\2\1",
    ),
    "owner does not look for thieves": ("_deque", "pop", r" or \(bottom == top and thieves\)", ""),
    "owner looks for the top before it looks for thieves": (
        "_deque",
        "pop",
        r"( *thieves = .*\n)( *top = .*\n)",
        r"\2\1",
    ),
    "thief does not tell that it is there": ("_deque", "steal", r" *fetch_add\(.*THIEVES, 1.*\n", ""),
    "thief leaves the fence out": ("_deque", "steal", r" *heavy_fence.*\n", ""),
    "thief takes without a compare-and-swap": (
        "_deque",
        "steal",
        r"if compare_and_swap\((.*), top, top \+ 1, .*\):",
        r"if store(\1, top + 1) is None:",
    ),
    "no second look for pushes": ("_deque", "seek", "after == before", "True"),
    "queue looked at before the deques": (
        "_deque",
        "seek",
        r"(        before = 0\n(?:.*\n)*?)(        index = get_item.*\n.*\n.*\n)",
        r"\2\1",
    ),
    "no fence before the second look": ("_deque", "seek", r" *heavy_fence.*\n", ""),
    "put does not look for those who came late": (
        "magazine",
        "keep",
        r"if load\(words, GETTERS\):.*\n",
        "if False:\n",
    ),
}


def mutate(monkeypatch, module, name, pattern, new):
    """Replace a piece of the source of a function."""
    module = getattr(iobuf_nb, module)
    source = inspect.getsource(getattr(module, name))
    mutant, count = re.subn(pattern, new, source[source.index("def ") :])
    assert count == 1, f"{pattern} stands {count} times in {name}"
    made = {}
    exec(compile(mutant, f"a mutant of {name}", "exec"), vars(module), made)
    for place in iobuf_nb._deque, iobuf_nb.magazine:
        if hasattr(place, name):
            monkeypatch.setattr(place, name, made[name])


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_magazine_is_caught(monkeypatch, mutant):
    mutate(monkeypatch, *MUTANTS[mutant])
    with pytest.raises(scheduler.Violation) as caught:
        for capacity, held, scripts in [*CASES[:13], *WAITING, *CASES[13:]]:
            explore(capacity, held, scripts, memory=TSO)
    print(mutant, scripts, str(caught.value).splitlines()[0])
