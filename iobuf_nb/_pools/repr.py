"""The repr of queues and pools, and the view in notebooks of these and of results."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def as_table(name: str, figures: Mapping[str, object], more: str = "") -> str:
    """Return figures as an HTML table under a name, and `more` rows."""
    rows = "".join(f"<tr><th>{escape(what)}</th><td>{escape(str(value))}</td></tr>" for what, value in figures.items())
    return f"<table><caption><b>{name}</b></caption>{rows}{more}</table>"


class ReprMixin:
    """Gives an object with `_figures()` and `_occupancy()` a repr and a notebook view with an occupancy bar."""

    __slots__ = ()

    def _figures(self) -> dict[str, object]:
        raise NotImplementedError

    def _occupancy(self) -> float:
        raise NotImplementedError

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value}" for name, value in self._figures().items())
        return f"{type(self).__name__}({inside})"

    def _repr_html_(self) -> str:
        percent = 100 * self._occupancy()
        meter = f"<meter min='0' max='100' value='{percent:.1f}' style='width:12em'></meter>"
        occupancy = f"<tr><th>occupancy</th><td>{meter} {percent:.1f} %</td></tr>"
        return as_table(type(self).__name__, self._figures(), occupancy)
