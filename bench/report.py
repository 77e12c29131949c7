"""The README's table of workloads, and the figures of all machines side by side: ``python -m bench.report``.

``python -m bench.report FILE ...`` prints every table of these results instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .result import Result, loads
from .table import Table, header, row, short
from .targets import Target, quartiles
from .workloads import WORKLOADS

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
RESULTS = FOLDER / "results"


def committed() -> list[Result]:
    """Return the committed results, one for each machine."""
    return [loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def stated(target: Target) -> str:
    """Return what a target compares, and its bound."""
    cases = ", ".join(f"`{case}`" for case in target.cases)
    bases = ", ".join(f"`{base}`" if isinstance(base, str) else base.name for base in target.bases)
    return f"{cases}{bases and f' / {bases}'} {target.bound}{' x threads' * target.per_thread}"


def workloads() -> str:
    """Return the table of workloads, with a row for each target."""
    lines = header("workload", "what it does", "question", "target", "why")
    for workload in WORKLOADS.values():
        first = workload.name, workload.does, workload.question
        for target in workload.targets:
            lines.append(row(*first, stated(target), target.why))
            first = "", "", ""
        if not workload.targets:
            lines.append(row(*first, "", ""))
    return "\n".join(lines)


def about(result: Result) -> list[str]:
    """Return the machine of a result, and what to know about its figures."""
    notes = [f"{table.label}: {note}" for table in result.tables for note in table.notes]
    notes += sorted({f"Not measured: {reason}" for table in result.tables for reason in table.missing})
    return [f"- {result}", *(f"  - {note}" for note in notes)]


Machine = dict[str, Table]  # of one machine, by label


def all_tables(machines: list[Machine]) -> list[Table]:
    """Return a table for each label that any machine has, in the order of the workloads."""
    tables = {label: table for machine in machines for label, table in machine.items()}
    order = list(WORKLOADS)
    return sorted(tables.values(), key=lambda table: (order.index(table.workload.name), table.threads or 0))


def median(table: Table | None, case: str) -> str:
    """Return the median of a case, or a dash if it was not measured."""
    return short(quartiles(table.samples[case])[1]) if table and case in table.samples else "-"


def medians(machines: list[Machine], tables: list[Table]) -> list[str]:
    """Return the medians of several workloads, a column each; a cell has the figures of all machines."""
    lines = header("ns", *(table.label for table in tables))
    everywhere = [machine[table.label] for table in tables for machine in machines if table.label in machine]
    for case in dict.fromkeys(case for table in everywhere for case in table.samples):
        cells = [" / ".join(median(machine.get(table.label), case) for machine in machines) for table in tables]
        lines.append(row(case, *("" if set(cell) <= set("- /") else cell for cell in cells)))
    return lines


def verdicts(machines: dict[str, Machine]) -> list[str]:
    """Return every ratio that has a target, with a column for each machine."""
    lines = header("workload", "ratio", "target", *machines)
    for table in all_tables(list(machines.values())):
        for comparison, bound in table.bounds:
            found = [machine.get(table.label) for machine in machines.values()]
            cells = (each.judged(comparison, bound) if each else "-" for each in found)
            lines.append(row(table.label, comparison, bound, *cells))
    return lines


def figures(results: list[Result]) -> str:
    """Return what all machines measured, side by side."""
    machines = {result.processor: {table.label: table for table in result.tables} for result in results}
    listed = list(machines.values())
    timed = [table for table in all_tables(listed) if table.workload.unit == "ns"]
    kernels = [table for table in timed if table.workload.group != "python"]
    python = [table for table in timed if table.workload.group == "python"]
    lines = [line for result in results for line in about(result)]
    lines += ["", f"In kernels, medians on {' / '.join(machines)}:", "", *medians(listed, kernels)]
    lines += ["", "From Python, likewise:", "", *medians(listed, python)]
    lines += ["", "Ratios, run by run: the median, the middle half, and whether it keeps the target:", ""]
    return "\n".join([*lines, *verdicts(machines)])


def with_blocks(text: str) -> str:
    """Return the README's text with the table of workloads and the committed figures in their places."""
    for name, block in ("workloads", workloads()), ("figures", figures(committed())):
        mark, end = f"<!-- {name}: written by python -m bench.report -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(mark)
        assert end in rest, f"there is no place for the {name}"
        text = f"{before}{mark}{block}\n{rest[rest.index(end) :]}"
    return text


def main() -> None:
    """Write the README's blocks, or print the tables of the results that are named."""
    for path in sys.argv[1:]:
        print(*loads(Path(path).read_text()).tables, sep="\n")
    if len(sys.argv) == 1:
        README.write_text(with_blocks(README.read_text()))


if __name__ == "__main__":
    main()
