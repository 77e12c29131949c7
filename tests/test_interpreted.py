"""The same tests with the JIT off, where the model checker and coverage tools can look inside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

TESTS = Path(__file__).parent


@pytest.mark.skipif(config.DISABLE_JIT, reason="this is that run")
@pytest.mark.parametrize(
    "what",
    [
        ["model"],
        ["test_atomics.py", "test_ring.py", "test_pool.py", "test_wait.py", "test_aio.py", "test_backoff.py"],
        ["test_magazine.py"],
        ["test_iovec.py", "test_syscalls.py", "test_syscalls_errors.py", "test_uring.py", "test_stream.py"],
    ],
    ids=str,
)
def test_passes_with_the_jit_off(what):
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-rP"]
    run = subprocess.run(
        [*command, *(str(TESTS / name) for name in what)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    print(*(line for line in run.stdout.splitlines() if "Outcome" in line), run.stdout.splitlines()[-1], sep="\n")
    assert run.returncode == 0, run.stdout + run.stderr
