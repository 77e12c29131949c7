"""The repr of queues and pools, and their view in notebooks."""

from __future__ import annotations

from html import escape


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
        rows = "".join(
            f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in self._figures().items()
        )
        percent = 100 * self._occupancy()
        return (
            f"<table><caption><b>{type(self).__name__}</b></caption>{rows}"
            f"<tr><th>occupancy</th><td><meter min='0' max='100' value='{percent:.1f}' style='width:12em'></meter>"
            f" {percent:.1f} %</td></tr></table>"
        )
