"""Run the proofs that README.md tells of, and write their figures there: `python tests/report.py [--long] [NUMBER..]`.

A test tells a figure by `record_property`: a number, which is added to those of the same name, or a sentence named
"figure", which is listed.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).parent
README = TESTS / "README.md"
RESULTS = TESTS / "results.json"

INTERPRETED = "NUMBA_DISABLE_JIT=1 "
#: The heading that a command's figures stand below, the command, and whether there is a long variant.
PROOFS = {
    1: ("pytest tests/model --ignore tests/model/test_mutants.py", INTERPRETED, True),
    2: ("pytest tests/proofs/test_linearizability.py tests/proofs/test_histories.py", "", True),
    3: ("pytest tests/model/test_mutants.py", INTERPRETED, True),
    4: ("pytest tests/model/test_cases.py -k position", INTERPRETED, False),
    5: ("pytest tests/proofs/test_stress.py", "", True),
    6: ("pytest tests/proofs/test_machines.py tests/proofs/test_fuzz.py", "", True),
    7: ("pytest tests/processes tests/jit/test_cache.py", "", True),
    8: ("pytest tests/test_interpreted.py", "", False),
    9: ("pytest tests/model/test_cases.py -k process", INTERPRETED, True),
    10: ("pytest tests/shared/test_kills.py", "", True),
    11: ("pytest @tests/reduced.txt", "", False),
}
#: Has figures of each kind of processor.
EVERYWHERE = 11


def commands(number, long):
    command, environment, has_long = PROOFS[number]
    return f"{environment}{command}{' -m long' if long else ''}" if has_long or not long else None


def measured(command):
    """Run a command; return how many tests passed, in how many seconds, and what they told."""
    settings, arguments = re.fullmatch(r"((?:\w+=\w+ )*)pytest (.*)", command).groups()
    environment = os.environ | dict(setting.split("=") for setting in settings.split())
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-o",
                "addopts=",
                f"--junitxml={file.name}",
                *shlex.split(arguments),
            ],
            cwd=TESTS.parent,
            env=environment,
        )
        assert done.returncode == 0, f"{command} failed: there is nothing to tell"
        suite = ElementTree.parse(file.name).find("testsuite")
    sums, sentences = Counter(), []
    for told in suite.iter("property"):
        if told.get("name") == "figure":
            sentences.append(told.get("value"))
        else:
            sums[told.get("name")] += int(told.get("value"))
    passed = int(suite.get("tests")) - int(suite.get("skipped"))
    return {"passed": passed, "seconds": float(suite.get("time")), "sums": sums, "sentences": sentences}


def key(number, command):
    """Return the name of a result."""
    return f"{command} on {platform.machine()}" if number == EVERYWHERE else command


def told(name, result):
    """Return a result as Markdown."""
    command, _, machine = name.partition(" on ")
    sums = "".join(f"; {name}: {total:,}" for name, total in result["sums"].items())
    on = f" on {machine}" if machine else ""
    first = f"`{command}`{on}: {result['passed']:,} tests passed in {result['seconds']:.0f} s{sums}"
    rows = [sentence for sentence in result["sentences"] if sentence.startswith("|")]
    header = ["", "| Bug | First case that catches it |", "|---|---|"] if rows else []
    return "\n".join([first, *(f"- {each}" for each in result["sentences"] if each not in rows), *header, *rows])


def replaced(text, name, block):
    """Return the text with what stands between two marks replaced."""
    begin, end = f"<!-- {name}: written by a program -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    assert after, f"there is no place for {name}"
    return f"{before}{begin}{block}\n{end}{after}"


def with_figures(text, results):
    for number in PROOFS:
        lines = [
            told(name, result)
            for long in (False, True)
            for name, result in results.items()
            if name.partition(" on ")[0] == commands(number, long)
        ]
        text = replaced(text, f"figures of {number}", "\n\n".join(lines))
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, default=list(PROOFS))
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for number in options.numbers:
        if command := commands(number, options.long):
            results[key(number, command)] = measured(command)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    README.write_text(with_figures(README.read_text(), results))


if __name__ == "__main__":
    main()
