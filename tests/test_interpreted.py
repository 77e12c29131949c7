"""The same tests with the JIT off, where the model checker can look inside and every line of a kernel is seen."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = Path(__file__).parent
PYTEST = ["pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-W", "ignore:overflow"]
PYTEST += ["-p", "hangs", "-o", "faulthandler_timeout=260", "-o", "faulthandler_exit_on_timeout=true"]  # for one test
POLITE = ["nice", "-n", "19"] if shutil.which("nice") else []  # who has something to do goes first
COMPILED_ONLY = re.compile(r"^pytestmark = .*\bmark\.compiled\b", re.MULTILINE)
LARGE = ["model", "streams"]  # the folders that take longest; of what is left, each process would first import all


def groups_of(tests):
    """Return the files that run interpreted, in groups of about the same time.

    That is every test file but those whose `pytestmark` says that all of it is about compiled code.
    """
    groups = {name: [] for name in (*LARGE, "other folders", "no folder")}
    for path in sorted(tests.rglob("test_*.py")):
        if not COMPILED_ONLY.search(path.read_text()):
            folder, *file = path.relative_to(tests).parts
            groups[folder if folder in LARGE else "other folders" if file else "no folder"].append(path)
    return {name: paths for name, paths in groups.items() if paths}


GROUPS = groups_of(TESTS)
# What the model checker runs is reached by the other tests, and it runs it millions of times.
TRACED = [name for name in GROUPS if name != "model"]

pytestmark = [pytest.mark.compiled, pytest.mark.proof]

_begun = {}  # what each group of tests comes to
_processes = set()
_executor = ThreadPoolExecutor(2)
_folder = tempfile.TemporaryDirectory()  # for which lines were reached


def python(*arguments, **settings):
    """Run Python with the JIT off; return how it went."""
    environment = {
        **os.environ,
        **settings,
        "NUMBA_DISABLE_JIT": "1",
        "COVERAGE_FILE": str(Path(_folder.name, "lines")),
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            [*POLITE, sys.executable, "-m", *arguments],
            env=environment,
            cwd=ROOT,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        _processes.add(process)
        process.wait()
        _processes.discard(process)
        printed.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, printed.read(), "")


def begin(groups):
    """Begin with all groups, beside the other tests, of which most keep one processor busy."""
    for group in groups:
        traced = ["coverage", "run", "-m"] if group in TRACED else []
        _begun[group] = _executor.submit(python, *traced, *PYTEST, *map(str, GROUPS[group]))


def end():
    """End what nobody waits for any more."""
    _executor.shutdown(wait=False, cancel_futures=True)
    for process in list(_processes):
        process.kill()
    _executor.shutdown()
    _folder.cleanup()


@pytest.mark.parametrize("group", GROUPS)
def test_passes_with_the_jit_off(group):
    done = _begun[group].result()
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_nearly_every_line_is_reached(record_property):
    begin([group for group in TRACED if group not in _begun])
    failed = [group for group in TRACED if _begun[group].result().returncode]
    if failed:
        pytest.skip(f"not all tests have run: {', '.join(failed)} failed")
    python("coverage", "combine")
    report = python("coverage", "report", "--show-missing")
    print(report.stdout)
    total = re.search(r"^TOTAL +(\d+) +(\d+) +(\d+)%$", report.stdout, re.MULTILINE)
    record_property("figure", "of {} lines {} are not reached: {} %".format(*total.groups()))
    assert report.returncode == 0, report.stdout + report.stderr


def test_a_new_file_is_found(tmp_path):
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "test_depot.py").write_text("def test_it(): ...\n")
    (tmp_path / "free" / "test_code.py").write_text("import pytest\n\npytestmark = pytest.mark.compiled\n")
    assert groups_of(tmp_path) == {"other folders": [tmp_path / "free" / "test_depot.py"]}


HANGS = """
import threading

def test_that_hangs():
    threading.Event().wait()

def test_behind_it(): ...
"""


def test_a_test_that_hangs_is_named(tmp_path):
    (tmp_path / "test_it.py").write_text(HANGS)
    done = python(*PYTEST, str(tmp_path), SECONDS_FOR_A_TEST="2")
    assert done.returncode == 1 and "test_it.py::test_that_hangs hangs" in done.stdout
    assert "threading.Event().wait()" in done.stdout
