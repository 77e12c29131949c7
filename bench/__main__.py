"""``python -m bench [GROUP ...] [--quick] [--json FILE]``: run benchmarks and print tables of ratios."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import copy, python, ring, scan, startup, stream, wait
from .measure import machine

GROUPS = {
    "ring": ring.run,
    "python": python.run,
    "startup": startup.run,
    "scan": scan.run,
    "wait": wait.run,
    "stream": stream.run,
    "copy": copy.run,
}


def main() -> None:
    """Run the groups named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"any of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--json", type=Path, help="write the raw data to this file")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))} (choose from {', '.join(GROUPS)})")
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    tables = []
    for group in options.groups or GROUPS:
        for table in GROUPS[group](options.quick):
            print(table, flush=True)
            tables.append(table.as_json())
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
