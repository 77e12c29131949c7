"""The repr of queues and pools, and the view in notebooks of these and of results."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from .._free.queue import GETTERS, PROCESS, SHARED
from .._jit.handle import unmade
from ..atomics import load
from .holders import map_of

if TYPE_CHECKING:
    from .watch import Watch


def as_table(name: str, figures: Mapping[str, object], more: str = "") -> str:
    """Return figures as an HTML table under a name, and `more` rows."""
    rows = "".join(f"<tr><th>{escape(what)}</th><td>{escape(str(value))}</td></tr>" for what, value in figures.items())
    return f"<table><caption><b>{escape(name)}</b></caption>{rows}{more}</table>"


def waiting(words: Any, waiters: int = GETTERS) -> int | str:
    """Return how many threads and coroutines wait on the words of a queue; of a shared one, whether any may."""
    count = int(load(words, waiters, "relaxed"))
    return count if words[PROCESS] != SHARED else "perhaps some" if count else "none"


class ReprMixin:
    """Gives an object with `_figures()` and `_occupancy()` a repr, a view in notebooks, and `watch`."""

    __slots__ = ()

    def _called(self) -> str:
        return type(self).__name__

    def _figures(self) -> dict[str, object]:
        raise NotImplementedError

    def _occupancy(self) -> float:
        raise NotImplementedError

    def _details(self) -> dict[str, object]:
        """Return what the notebook view has beside the figures of the repr."""
        return {}

    def __repr__(self) -> str:
        name = self._called()
        return unmade(self, name) or f"{name}({', '.join(f'{k}={value}' for k, value in self._figures().items())})"

    def _repr_html_(self) -> str:
        return self._html({})

    def _html(self, colours: dict[int, str]) -> str:
        """Return the view; `colours`, those of owners, are kept from one to the next."""
        if unmade(self, ""):
            return escape(repr(self))
        percent = 100 * self._occupancy()
        meter = f"<meter min='0' max='100' value='{percent:.1f}' style='width:12em'></meter>"
        occupancy = f"<tr><th>occupancy</th><td>{meter} {percent:.1f} %</td></tr>"
        figures = self._figures() | self._details()
        return as_table(self._called(), figures, occupancy + map_of(getattr(self, "pool", self), colours))

    def watch(self, interval: float = 0.25) -> Watch:
        """Show this object in a notebook, live: its table, drawn anew as it changes.

        Python only. It needs the extra ``notebooks``, of which ipywidgets brings a button that ends it.

        Parameters
        ----------
        interval : float, optional
            Seconds from one look to the next, more than 0.

        Returns
        -------
        Watch
            Its method ``stop()`` ends the view, whose last state stays. It ends by itself when the object is closed or
            dropped: the view does not keep it alive.

        Raises
        ------
        TypeError, ValueError
            `interval` is not a number of seconds > 0.
        ImportError
            There is no IPython.
        RuntimeError
            This is no notebook.

        Notes
        -----
        A thread of its own looks and draws, so it goes on while a cell runs a kernel with ``nogil=True``. A look is a
        snapshot: it waits for nobody, and nobody waits for it. It takes some 0.5 ms, and 10 ms of a pool of 100,000.

        Examples
        --------
        In a cell of a notebook, before the work begins::

            view = pool.watch()
        """
        from .watch import Watch  # imported here: few programs need it

        return Watch(self, interval)
