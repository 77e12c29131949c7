"""Tests that run in a second process, beside all others: they wait for compilers and processes, and race with nobody.

In a run of everything the first process does the other tests, and then tells what the second one has reported.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
#: In this order, so that most of what needs the library compiled comes when the other process has done that.
PLACES = [TESTS / "jit", TESTS / "test_bench_cluster.py", TESTS / "test_docs.py", ROOT / "notebooks"]
FILE = "FILE_FOR_REPORTS"


class Listener:
    """Starts the second process, and lets its reports stand for the tests that it has run."""

    def __init__(self, config, items):
        self.config, self.items, self.reports = config, set(items), None
        self.folder = tempfile.TemporaryDirectory()
        self.file, self.printed = Path(self.folder.name, "reports"), Path(self.folder.name, "printed")
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "pytest", "-p", "beside", "-p", "no:cacheprovider"]
        with self.printed.open("w") as printed:
            self.process = subprocess.Popen(
                [*command, "-o", "faulthandler_exit_on_timeout=true", "-m", config.option.markexpr, *map(str, PLACES)],
                env={**os.environ, "PYTHONPATH": path, FILE: str(self.file)},
                cwd=ROOT,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def heard(self):
        """Return the reports of each test, when there are no more to come; none of a process that ended badly."""
        reports, hook = defaultdict(list), self.config.hook
        if self.process.wait() in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            with self.file.open("rb") as file:
                while file.peek(1):
                    report = hook.pytest_report_from_serializable(config=self.config, data=pickle.load(file))
                    reports[report.nodeid].append(report)
        return reports

    def pytest_runtest_protocol(self, item):
        if item not in self.items:
            return None
        if self.reports is None:
            self.reports = self.heard()
        reports = self.reports[item.nodeid]
        if not any(report.when == "teardown" for report in reports):  # it has not come to its end
            told = self.printed.read_text()
            reports.append(pytest.TestReport(item.nodeid, item.location, {}, "failed", told, "call"))
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def end(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


class Reporter:
    """Writes down each report of the second process."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with open(os.environ[FILE], "ab") as file:
            pickle.dump(data, file)


def pytest_configure(config):
    """Be a plugin, in the second process. The first one, where threads race, goes before it."""
    os.nice(19)
    config.pluginmanager.register(Reporter(config))


def is_beside(item):
    return any(item.path.is_relative_to(place) for place in PLACES)


def begin(session):
    """Start the second process, if everything is to run: not a choice by -k or --lf."""
    config = session.config
    items = [item for item in session.items if is_beside(item)]
    chosen = config.option.keyword or config.getoption("lf", False)  # which is not there without the cache
    if items and config.args_source is pytest.Config.ArgsSource.TESTPATHS and not chosen:
        listener = Listener(config, items)
        config.add_cleanup(listener.end)
        config.pluginmanager.register(listener)
