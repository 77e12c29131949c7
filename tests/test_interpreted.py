"""The same tests with the JIT off, where the model checker can look inside and every line of a kernel is seen."""

import functools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTEST = ["pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-W", "ignore:overflow"]
PYTEST += ["-o", "faulthandler_timeout=200", "-o", "faulthandler_exit_on_timeout=true"]  # for one test
GROUPS = {
    "model": ["model/test_cases", "model/test_litmus", "model/test_scheduler"],
    "mutants": ["model/test_mutants"],
    "magazines": ["test_magazine", "test_machines"],
    "files": ["test_stream", "test_copy", "test_scan", "test_uring"],
    "queues and pools": [
        "test_atomics",
        "test_ring",
        "test_pool",
        "test_wait",
        "test_aio",
        "test_owners",
        "test_fork",
        "test_backoff",
        "test_dtype",
    ],
    "memory and system calls": [
        "test_kernel_errors",
        "test_memory",
        "test_tier",
        "test_iovec",
        "test_syscalls",
        "test_syscalls_errors",
    ],
}
# What the model checker runs is reached by the other tests, and it runs it millions of times.
TRACED = GROUPS.keys() - {"model", "mutants"}

pytestmark = pytest.mark.compiled


@pytest.fixture(scope="module")
def interpret(request, tmp_path_factory):
    """Run a group of tests with the JIT off, once, and note which lines it reaches; return how it went, when it has."""
    environment = {
        **os.environ,
        "NUMBA_DISABLE_JIT": "1",
        "COVERAGE_FILE": str(tmp_path_factory.mktemp("coverage") / "lines"),
    }

    def python(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
        )

    with ThreadPoolExecutor(2) as executor:  # pytest itself has nothing to do meanwhile

        @functools.cache
        def run(group):
            traced = ["coverage", "run", "-m"] if group in TRACED else []
            return executor.submit(python, *traced, *PYTEST, *(f"tests/{name}.py" for name in GROUPS[group]))

        run.python = python
        for item in request.session.items:
            if item.path == Path(__file__) and hasattr(item, "callspec"):
                run(item.callspec.params["group"])
        yield run


@pytest.mark.parametrize("group", GROUPS)
def test_passes_with_the_jit_off(interpret, group):
    done = interpret(group).result()
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_nearly_every_line_is_reached(interpret, record_property):
    for run in [interpret(group) for group in TRACED]:
        run.result()
    interpret.python("coverage", "combine")
    report = interpret.python("coverage", "report", "--show-missing")
    print(report.stdout)
    total = re.search(r"^TOTAL +(\d+) +(\d+) +(\d+)%$", report.stdout, re.MULTILINE)
    record_property("figure", "of {} lines {} are not reached: {} %".format(*total.groups()))
    assert report.returncode == 0, report.stdout + report.stderr
