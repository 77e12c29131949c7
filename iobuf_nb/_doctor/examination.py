"""The examination: all findings in their order, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import platform
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial

from . import installation, machine, system, trials
from .finding import Finding, Status, problem

#: By the names in JSON, which stay. The cache is looked at before anything is compiled, C methods after all is used.
EXAMINATIONS: dict[str, Callable[[], Finding]] = {
    "python": installation.python,
    "packages": installation.packages,
    "extras": installation.extras,
    "jit": installation.jit,
    "cache": installation.cache,
    "threading_layer": installation.threading_layer,
    "processors": machine.own_processors,
    "cache_line": machine.cache_line,
    "pages": machine.pages,
    "memlock": machine.memlock,
    "futex": system.futex,
    "membarrier": system.membarrier,
    "io_uring": system.io_uring,
    "shm": system.shared_memory,
    "memfd": system.memfd,
    "leases": system.leases,
    "test_pool": partial(trials.tried, trials.pool_in_python),
    "test_kernels": partial(trials.tried, trials.pool_in_kernels),
    "test_queue": partial(trials.tried, trials.queue_in_kernels),
    "test_stream": partial(trials.tried, trials.stream_of_a_file),
    "c_methods": installation.own_c_methods,
}

_COLUMNS = 79
_INDENT = " " * 9
_COLOURS = {"ok": "32", "note": "33", "problem": "31"}


def examine() -> dict[str, Finding]:
    """Return all findings; what cannot be examined is a problem, and warnings are findings, too."""
    findings = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, examination in EXAMINATIONS.items():
            try:
                findings[name] = examination()
            except Exception as error:
                findings[name] = problem(
                    f"{type(error).__name__}: {error}", "This could not be examined.", "report it with this output"
                )
    findings["warnings"] = installation.complaints(caught)
    return findings


def worst(findings: dict[str, Finding]) -> Status:
    """Return the status of all findings together."""
    found = {finding.status for finding in findings.values()}
    return "problem" if "problem" in found else "note" if "note" in found else "ok"


def as_json(version: str, findings: dict[str, Finding]) -> str:
    """Return the findings as one line of JSON."""
    about = {
        name: {
            "status": finding.status,
            "found": finding.found,
            "means": finding.means,
            "remedy": finding.remedy,
            "figures": dict(finding.figures),
        }
        for name, finding in findings.items()
    }
    whole = {"iobuf_nb": version, "system": _system(), "status": worst(findings), "findings": about}
    return json.dumps(whole)


def as_text(version: str, findings: dict[str, Finding], coloured: bool) -> str:
    """Return the findings as lines of up to 79 columns."""
    lines = [f"iobuf_nb {version} on {_system()}"]
    for name, finding in findings.items():
        (first, *rest) = _wrapped(f"{name}: {finding.found}", "")
        status = f"{finding.status:9}"
        lines.append((f"\x1b[{_COLOURS[finding.status]}m{status}\x1b[0m" if coloured else status) + first)
        lines += [_INDENT + line for line in rest]
        if finding.status != "ok":
            lines += [_INDENT + line for line in _wrapped(finding.means, "") + _wrapped(finding.remedy, "Remedy: ")]
    counts = Counter(finding.status for finding in findings.values())
    told = [f"{counts[status]} {status}{'s' if counts[status] > 1 else ''}" for status in ("problem", "note")]
    lines.append(" and ".join(each for each in told if each[0] != "0") or "All is well.")
    return "\n".join(lines)


def _wrapped(text: str, start: str) -> list[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(start + text, _COLUMNS - len(_INDENT), **options)  # type: ignore[arg-type]


def _system() -> str:
    return f"{platform.system()} {platform.release()}, {platform.machine()}"
