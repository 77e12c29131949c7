import faces
import pytest
from numba import config

# The model checker decides what runs between two accesses to shared words, so it needs the code interpreted;
# test_interpreted.py runs it that way.
collect_ignore = [] if config.DISABLE_JIT else ["model"]


@pytest.fixture(params=["python", "kernel"])
def face(request):
    """Run the test twice: calling methods from Python, and inside kernels."""
    return getattr(faces, request.param)


def pytest_collection_modifyitems(config, items):
    if "long" not in config.getoption("markexpr"):
        for item in items:
            if "long" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m long"))
