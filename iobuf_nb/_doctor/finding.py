"""A finding: what was found out about one thing, what that means to this library, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: "note": the library works, but slower or with less than it could; "problem": something that it promises is missing.
Status = Literal["ok", "note", "problem"]
Figure = str | int | float | bool | list[str] | None


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing; what is no more than ok says what it means, and has a remedy."""

    status: Status
    found: str
    means: str
    remedy: str  #: a command or a setting, if there is one
    figures: Mapping[str, Figure]  #: the same for programs


def ok(found: str, /, **figures: Figure) -> Finding:
    """Return that all is well."""
    return Finding("ok", found, "", "", figures)


def note(found: str, means: str, remedy: str, /, **figures: Figure) -> Finding:
    """Return that something could be better."""
    return Finding("note", found, means, remedy, figures)


def problem(found: str, means: str, remedy: str, /, **figures: Figure) -> Finding:
    """Return that something does not work."""
    return Finding("problem", found, means, remedy, figures)
