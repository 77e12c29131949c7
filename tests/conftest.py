import _thread
import sys
import threading
from pathlib import Path

import beside
import faces
import hypothesis
import numba
import pytest
from support import MODEL, NEEDS_INTERPRETER, content, until

# A machine that others use, too, may take its time, also for what is compiled at the first call.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

WHY_NOT = MODEL / "test_jit_is_off.py"


def needs_interpreter(path):
    """Say whether what lies at a path is of the model checker, and the JIT is on."""
    return not numba.config.DISABLE_JIT and (path == MODEL or MODEL in path.parents)


def pytest_configure(config):
    for argument in config.args:
        path = Path(config.invocation_params.dir, argument.partition("::")[0]).resolve()
        if needs_interpreter(path) and path != WHY_NOT:
            raise pytest.UsageError(NEEDS_INTERPRETER)


def pytest_ignore_collect(collection_path):
    # In a run of all tests this one is left, which says why the others are.
    return True if needs_interpreter(collection_path) and collection_path not in (MODEL, WHY_NOT) else None


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    beside.begin(session)
    items = [item for item in session.items if item.path.name == "test_interpreted.py" and hasattr(item, "callspec")]
    if items:
        items[0].module.begin([item.callspec.params["group"] for item in items])
        session.config.add_cleanup(items[0].module.end)


@pytest.fixture(params=["python", "kernel"])
def face(request):
    """Run the test twice: calling methods from Python, and inside kernels."""
    return getattr(faces, request.param)


@pytest.fixture
def file(tmp_path):
    """Return what makes a file of its bytes."""

    def make(data, name="data"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


@pytest.fixture
def src(tmp_path):
    """A file of 1,000,003 random bytes."""
    path = tmp_path / "src"
    path.write_bytes(content(1_000_003))
    return path


@pytest.fixture
def untraced():
    """Measure no lines: what a signal's handler raises may leave the lock locked that coverage takes at every call.

    In no thread, either: Python 3.12 crashes where one traces what another traces by instructions.
    """
    trace, trace_of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    sys.settrace(trace)
    threading.settrace(trace_of_threads)  # type: ignore[arg-type]


@pytest.fixture
def threads_end():
    """Every thread that the test starts comes to its end, even if a little later."""
    before = _thread._count()
    yield
    until(lambda: _thread._count() <= before)


@pytest.fixture(autouse=numba.config.DISABLE_JIT)
def commands_that_are_slow(monkeypatch):
    """Let the commands work with the JIT off, which they refuse because it takes so long."""
    monkeypatch.setattr("iobuf_nb.__main__.INTERPRETED", False)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    skipped = {"compiled": "about compiled code"} if numba.config.DISABLE_JIT else {}
    if "long" not in config.getoption("markexpr"):
        skipped["long"] = "takes minutes: pytest -m long"
    # Last comes what other processes are at work on.
    items.sort(key=lambda item: item.path.name == "test_interpreted.py" or beside.is_beside(item))
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("proof")
        for name, reason in skipped.items():
            if name in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
