"""``python -m bench [GROUP ...]``: run benchmarks, and print their figures, ratios and verdicts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import cluster, copying, kernels, peers, processes, python, queues, scan, sockets, startup, streams, wait
from .machine import machine
from .result import Result, dumps, save
from .table import Settings, Table

GROUPS = {
    "alone": kernels.alone,
    "together": kernels.together,
    "transfer": kernels.transfer,
    "bulk": kernels.bulk,
    "empty": kernels.empty,
    "hold": kernels.hold,
    "buffers": kernels.buffers,
    "python": python.run,
    "queues": queues.run,
    "startup": startup.run,
    "wait": wait.run,
    "scan": scan.run,
    "stream": streams.run,
    "copy": copying.run,
    "processes": processes.run,
    "sockets": sockets.run,
    "cluster": cluster.run,
}
HAVE_PARTS: dict[str, Mapping[str, Callable[[Settings], list[Table]]]] = {
    "stream": streams.PARTS,
    "processes": processes.PARTS,
    "cluster": cluster.PARTS,
}
PARTS = {f"{group}.{name}": part for group, parts in HAVE_PARTS.items() for name, part in parts.items()}  # to run alone


def main(arguments: list[str] | None = None) -> None:
    """Run the groups named on the command line, or all."""
    choices = GROUPS | PARTS
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"any of {', '.join(choices)} (default: all groups)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, smaller files")
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the cases (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the result of all groups to DIR/PROCESSOR.json")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(choices):
        parser.error(f"no such group: {', '.join(sorted(unknown))} (choose from {', '.join(choices)})")
    if options.save and options.groups:
        parser.error("--save takes the result of all groups: name none, or use --json")
    start = time.monotonic()
    settings = Settings(options.quick, options.seed)
    versions = [module.versions() for module in (peers, python, streams, processes, cluster)]
    result = Result(machine(), {name: version for each in versions for name, version in each.items()}, *settings)
    print(f"{result}\n", flush=True)
    for group in options.groups or GROUPS:
        tables = choices[group](settings)
        for table in tables:
            print(table, flush=True)
        result.tables += tables
    result.seconds = round(time.monotonic() - start)
    print(f"{result.seconds} seconds")
    if options.json:
        options.json.write_text(dumps(result))
    if options.save:
        print(f"written to {save(result, options.save)}")


if __name__ == "__main__":
    main()
