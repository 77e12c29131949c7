"""What the second process reports counts here, and so does that it ends badly."""

import pytest
from beside import TESTS
from support import python

pytestmark = pytest.mark.compiled  # or not: nothing here is

CONFTEST = """
from pathlib import Path
import beside

beside.ROOT = Path(__file__).parent
beside.PLACES = [beside.ROOT / "there"]

def pytest_collection_finish(session):
    beside.begin(session)
"""

HERE = "def test_here(): assert 'beside' not in sys.argv[1:]\n"
THERE = """
@pytest.mark.skip(reason="not today")
def test_skipped(): ...

def test_fails():
    assert "beside" not in sys.argv[1:], "it is the second process"

def test_passes(record_property):
    record_property("figure", "told there")
"""


def run(folder, there):
    (folder / "there").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_here.py").write_text("import sys\n" + HERE)
    (folder / "there" / "test_there.py").write_text("import os, sys\nimport pytest\n" + there)
    done = python("-m", "pytest", "-rs", "--junitxml=told.xml", cwd=folder, PYTHONPATH=str(TESTS))
    return done, (folder / "told.xml").read_text()


def test_the_reports_of_the_second_process_stand_for_its_tests(tmp_path):
    done, told = run(tmp_path, THERE)
    assert done.returncode == 1 and "1 failed, 2 passed, 1 skipped" in done.stdout, done.stdout
    assert "it is the second process" in done.stdout and "not today" in done.stdout and "told there" in told


def test_nothing_passes_in_a_second_process_that_ends_badly(tmp_path):
    done, _ = run(tmp_path, THERE + "    os._exit(3)\n")
    assert done.returncode == 1 and "3 failed, 1 passed" in done.stdout, done.stdout


def test_a_test_that_ends_the_second_process_as_failures_do_has_failed(tmp_path):
    done, _ = run(tmp_path, THERE + "    os._exit(1)\n")  # as a test does that takes too long
    assert done.returncode == 1 and "2 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
