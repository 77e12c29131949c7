"""`Watch`: the notebook view of a pool, queue, magazine, channel or ring, drawn anew by a thread as it changes."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._jit import check

if TYPE_CHECKING:
    from .repr import ReprMixin

_SECONDS = "a number of seconds > 0"


class Watch:
    """What `watch` returns: a live view in a notebook, until `stop`, or until what it shows is closed or dropped.

    Any thread may call its methods.

    Attributes
    ----------
    running : bool
        Whether it still looks.
    """

    def __init__(self, thing: ReprMixin, interval: float) -> None:
        seconds = check.seconds("interval", interval, _SECONDS)
        if not 0 < seconds <= threading.TIMEOUT_MAX:  # also catches NaN
            raise ValueError(f"interval must be {_SECONDS}, not {interval!r}")
        self._interval, self._name = seconds, thing._called()
        self._colours: dict[int, str] = {}
        self._over = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # an Event is not for what a collection may call
        shown = thing._html(self._colours)
        self._draw, self._ended = _view(shown, self.stop)
        self._thing = weakref.ref(thing, self._end)
        self._thread = threading.Thread(target=self._run, args=(shown,), name=f"watch {self._name}", daemon=True)
        self._thread.start()

    def _end(self, _: object = None) -> None:
        self._over = True
        self._wake.put(None)

    def _run(self, shown: str) -> None:
        try:
            over = False
            while not over:
                with contextlib.suppress(queue.Empty):
                    self._wake.get(timeout=self._interval)
                over, thing = self._over, self._thing()  # the last look comes after the end
                if thing is None:
                    break
                over = over or getattr(thing, "closed", False)
                html = thing._html(self._colours)
                del thing  # nothing here keeps it alive while this thread sleeps
                if html != shown:
                    self._draw(html)
                    shown = html
        finally:
            self._over = True
            self._ended()

    @property
    def running(self) -> bool:
        """Whether it still looks."""
        return not self._over

    def stop(self) -> None:
        """End the view; what it showed last stays. Stopping twice is not an error."""
        self._end()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __repr__(self) -> str:
        return f"Watch(of={self._name}, interval={self._interval}, running={self.running})"


def _view(html: str, stop: Callable[[], None]) -> tuple[Callable[[str], None], Callable[[], None]]:
    """Show HTML in the notebook; return what replaces it, and what to call at the end."""
    try:
        import IPython
        from IPython.display import HTML, display
    except ImportError:
        raise ImportError("watch needs IPython: pip install 'iobuf-nb[notebooks]'") from None
    if not hasattr(IPython.get_ipython(), "kernel"):
        raise RuntimeError("watch needs a notebook to draw in, and this is none: print() shows the object once")
    try:
        import ipywidgets
    except ImportError:
        handle = display(HTML(html), display_id=True)
        return lambda changed: handle.update(HTML(changed)), lambda: None
    table, button = ipywidgets.HTML(html), ipywidgets.Button(description="Stop")
    button.on_click(lambda _: stop())
    display(ipywidgets.VBox([table, button]))

    def draw(changed: str) -> None:
        table.value = changed

    def ended() -> None:
        button.disabled, button.description = True, "Stopped"

    return draw, ended
