"""``python -m bench [GROUP ...]``: run benchmarks, and print tables of figures, ratios and targets."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from . import copy, kernels, peers, python, report, scan, startup, stream, wait
from .measure import machine

GROUPS = {
    "alone": kernels.alone,
    "together": kernels.together,
    "transfer": kernels.transfer,
    "bulk": kernels.bulk,
    "empty": kernels.empty,
    "hold": kernels.hold,
    "buffers": kernels.buffers,
    "python": python.run,
    "startup": startup.run,
    "wait": wait.run,
    "scan": scan.run,
    "stream": stream.run,
    "copy": copy.run,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the groups named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"any of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, smaller files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw result to this file")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the raw result, the tables and plots there")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))} (choose from {', '.join(GROUPS)})")
    start = time.monotonic()
    versions = {**peers.versions(), **python.versions()}
    result = {"machine": machine(), "peers": versions, "quick": options.quick, "groups": {}}
    print(report.about(result), flush=True)
    for group in options.groups or GROUPS:
        tables = GROUPS[group](options.quick)
        for table in tables:
            print(table, flush=True)
        result["groups"][group] = [asdict(table) for table in tables]
    result["seconds"] = round(time.monotonic() - start)
    print(f"{result['seconds']} seconds")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.save:
        report.save(result, options.save)


if __name__ == "__main__":
    main()
