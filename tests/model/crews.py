"""Programs in which a crew ends while its threads start and work; in the form of `cases`.

The GIL orders accesses to attributes, and to arrays from Python, as if they were seq_cst.
"""

import numpy as np

from iobuf_nb._streams import crew
from iobuf_nb._threads.clock import FOREVER_NS
from iobuf_nb._threads.parking import ALL_WAITERS, park, wake
from iobuf_nb.atomics import fetch_add, load, store

from .cases import Case, case
from .memories import TSO, Relaxed


class WordsOfPython(np.ndarray):
    """An array that Python reads with the GIL."""

    def __getitem__(self, i):
        return load(self.view(np.ndarray), i, "seq_cst")


class Crew(crew.Crew):
    """A crew whose attribute is a word, which its threads share."""

    def __init__(self, words):
        self._words = words
        super().__init__(lambda: None)
        self._at_work = words.view(WordsOfPython)

    def fail(self, error):
        """Forget what the model checker raises to stop a thread."""

    @property
    def _over(self):
        return load(self._words, 1, "seq_cst")

    @_over.setter
    def _over(self, value):
        store(self._words, 1, value, "seq_cst")


def crew_case(threads):
    """So many threads start and work, while the crew is already ending, as after Ctrl-C."""

    def program():
        words, done = np.zeros(2, np.int64), np.zeros(1, np.int64)
        made = Crew(words)
        programs.append(done)

        def end(got):
            made.run(None, (), None)
            return load(done, 0, "relaxed")

        def start(got):
            made._guard(lambda item: fetch_add(done, 0, 1, "relaxed"), None)

        return [words, done], [[("E", end)], *([("W", start)] for _ in range(threads))]

    def check(results):
        assert results[0] == (("E", programs[-1][0]),), "a thread works when its crew has ended"

    programs = []
    # Named at once, because a crew catches what would stop the walk for words that come up later.
    return program, None, check, {"words": [(0, 0), (0, 1), (1, 0)]}


def add(words, i, value, order):
    """Stand for fetch_add, and wake who naps until the word changes."""
    fetch_add(words.view(np.ndarray), i, value, order)
    wake(words.view(np.ndarray), i, ALL_WAITERS, False)


class CrewCase(Case):
    sizes = (
        (crew, "load", lambda words, i, order: napping(words.view(np.ndarray), i, order)),
        (crew, "fetch_add", add),
        (crew, "nap", lambda ns: None),
    )


def napping(words, i, order):
    """Load a word for a loop that naps while it is not 0; there is no need to look again before it changes."""
    value = load(words, i, order)
    if value:
        park(words, i, value, FOREVER_NS, False)
    return value


def made(*arguments, **more):
    return case(crew_case, *arguments, cls=CrewCase, **more)


CASES = [made(1), made(2), made(2, memory=TSO), made(1, memory=Relaxed), made(2, memory=Relaxed)]
LARGE = []
