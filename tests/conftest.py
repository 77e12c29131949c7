import _thread
import sys
import time

import faces
import numba
import pytest

# The model checker decides what runs between two accesses to shared words, so it needs the code interpreted;
# test_interpreted.py runs it that way.
collect_ignore = [] if numba.config.DISABLE_JIT else ["model"]


@pytest.fixture(params=["python", "kernel"])
def face(request):
    """Run the test twice: calling methods from Python, and inside kernels."""
    return getattr(faces, request.param)


@pytest.fixture
def untraced():
    """Measure no lines: what a signal's handler raises may leave the lock locked that coverage takes at every call."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@pytest.fixture
def threads_end():
    """Every thread that the test starts comes to its end, even if a little later."""
    before, deadline = _thread._count(), time.monotonic() + 60
    yield
    while _thread._count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(autouse=numba.config.DISABLE_JIT)
def commands_that_are_slow(monkeypatch):
    """Let the commands work with the JIT off, which they refuse because it takes so long."""
    monkeypatch.setattr("iobuf_nb.__main__.INTERPRETED", False)


def pytest_collection_modifyitems(config, items):
    skipped = {"compiled": "about compiled code"} if numba.config.DISABLE_JIT else {}
    if "long" not in config.getoption("markexpr"):
        skipped["long"] = "takes minutes: pytest -m long"
    for item in items:
        for name, reason in skipped.items():
            if name in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
