"""Who has the buffers of a pool, as a map for notebooks: a square for each buffer, in the colour of its owner."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._free import owners
from .._free.processes import NUMBER_SHIFT, thread_of
from . import sharing

_MOST_BUFFERS = 1 << 18  # of larger pools there is no map: a look would take longer than some 10 ms
_MOST_SQUARES, _COLUMNS, _SIDE, _WIDTH = 256, 32, "12px", "446px"

FREE, IN_TRANSIT = 0, -1  # in place of an owner

# The colours of Okabe & Ito ("Color Universal Design", 2008), which people tell apart who do not see all colours; grey
# in place of black, for the owners that are left over.
_COLOURS = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"
_OTHERS = "background:#999999"
# What is no owner is drawn in the colour of the text, so that it is seen on light and on dark.
_SPECIAL = {
    FREE: "border:1px solid;opacity:.3",
    IN_TRANSIT: "border:1px solid;background:repeating-linear-gradient(45deg,currentColor 0 1px,transparent 1px 4px)",
}


def thread_names() -> dict[int | None, str]:
    """Return the names of the threads of this process that Python knows, by identifiers, which new threads inherit."""
    return {thread.ident: thread.name for thread in threading.enumerate()}


def map_of(pool: Any, colours: dict[int, str]) -> str:
    """Return the map of a pool with its legend, a row of a table; nothing if that has no owners, or is very large.

    A snapshot. Owners that have a colour in `colours` keep it, others get one there.
    """
    if not getattr(pool, "checked", False) or pool.capacity > _MOST_BUFFERS:
        return ""
    owner = _owners(pool)
    found = np.unique(owner)
    per_square = -(-pool.capacity // _MOST_SQUARES)
    squares = -(-pool.capacity // per_square)
    place = np.arange(pool.capacity) // per_square * len(found) + np.searchsorted(found, owner)
    counts = np.bincount(place, minlength=squares * len(found)).reshape(squares, len(found))
    totals = dict(zip(found.tolist(), counts.sum(0).tolist(), strict=True))
    _choose(colours, [name for name in totals if name > FREE])
    styles = _SPECIAL | {name: f"background:{colour}" for name, colour in colours.items()}
    names = _names(pool, totals)
    grid = "".join(
        _square(first, min(first + per_square, pool.capacity), dict(zip(totals, row, strict=True)), names, styles)
        for first, row in zip(range(0, pool.capacity, per_square), counts.tolist(), strict=True)
    )
    layout = f"grid-template-columns:repeat({min(squares, _COLUMNS)},{_SIDE});grid-auto-rows:{_SIDE}"
    grid = f"<div role='img' aria-label='who has each buffer' style='display:grid;{layout};gap:2px'>{grid}</div>"
    legend = f"<div style='max-width:{_WIDTH};line-height:1.6'>{_legend(totals, per_square, names, styles)}</div>"
    return f"<tr><td colspan='2' style='text-align:left'>{grid}{legend}</td></tr>"


def _owners(pool: Any) -> NDArray[np.int64]:
    """Return who has each buffer: FREE, IN_TRANSIT, or a thread; of a shared pool an owner word."""
    if pool._segment is None:
        words, names = owners.by_index(pool._owners, pool._bulks)
        words, names = words[: pool.capacity], names[: pool.capacity]
    else:
        words = sharing.by_index(pool)
        names = np.where(np.abs(words) >> NUMBER_SHIFT, np.abs(words), FREE)
    return np.where(owners.in_transit(words), IN_TRANSIT, np.where(words == FREE, FREE, names))


def _choose(colours: dict[int, str], present: Iterable[int]) -> None:
    """Give each owner a colour of its own as long as there are some, if need be that of one who is not here."""
    for owner in present:
        if owner not in colours:
            unused = [colour for colour in _COLOURS if colour not in colours.values()]
            left = [other for other in colours if other not in present]
            if unused:
                colours[owner] = unused[0]
            elif left:
                colours[owner] = colours.pop(left[0])


def _names(pool: Any, present: Iterable[int]) -> dict[int, str]:
    """Return what the legend calls each owner."""
    threads = thread_names()
    segment = pool._segment
    processes = {} if segment is None else segment.processes()
    names = {FREE: "free", IN_TRANSIT: "in transit"}
    for owner in present:
        if owner > FREE and segment is None:
            names[owner] = threads.get(owner, f"thread {owner}")
        elif owner > FREE:
            number, thread = owner >> NUMBER_SHIFT, thread_of(owner)
            who = f"process {processes[number]}" if number in processes else "a dead process"
            name = threads.get(thread) if number == segment.number else None
            names[owner] = f"{who}, {name or f'thread {thread}'}"
    return names


def _square(
    first: int, end: int, counts: Mapping[int, int], names: Mapping[int, str], styles: Mapping[int, str]
) -> str:
    """Return the square of the buffers from `first` to `end`, in the colour of who has most of those that are out."""
    here = {owner: count for owner, count in counts.items() if count}
    out = {owner: count for owner, count in here.items() if owner != FREE}
    most = max(out, key=out.__getitem__, default=FREE)
    share = sum(out.values()) / (end - first)
    faded = f";opacity:{0.3 + 0.7 * share:.2f}" if 0 < share < 1 else ""
    which = f"{first} to {end - 1}" if end - first > 1 else f"{first}"
    who = ", ".join(names[owner] + (f" {count}" if end - first > 1 else "") for owner, count in here.items())
    return f"<i title='{which}: {escape(who)}' style='{styles.get(most, _OTHERS)}{faded}'></i>"


def _legend(totals: Mapping[int, int], per_square: int, names: Mapping[int, str], styles: Mapping[int, str]) -> str:
    """Return what the colours mean, with the number of buffers of each."""
    left = [total for owner, total in totals.items() if owner not in styles]
    entries = [(styles[owner], names[owner], total) for owner, total in totals.items() if owner in styles]
    entries += [(_OTHERS, f"{len(left)} others", sum(left))] if left else []
    box = f"display:inline-block;width:{_SIDE};height:{_SIDE};box-sizing:border-box;vertical-align:-1px"
    runs = [f"<span>a square stands for {per_square} buffers</span>"] if per_square > 1 else []
    each = [
        f"<span style='display:inline-block'><i style='{box};{style}'></i> {escape(name)}: {total:,}</span>"
        for style, name, total in entries
    ]
    return " &emsp;".join(each + runs)
