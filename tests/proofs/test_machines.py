"""Every public class against a plain model of it, by random sequences of all its methods, on both faces."""

import importlib
import inspect
import pkgutil
import re

import faces
import numba
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)
from machines.iovecs import Iovecs
from machines.pacing import Pacing, Spinning
from machines.pools import Pools
from machines.queues import Queue, Values
from machines.rings import Reading, Receiving
from support import why_no_io_uring

import iobuf_nb

pytestmark = pytest.mark.proof

# ---- all of them -----------------------------------------------------------------------------------------------------


needs_io_uring = pytest.mark.skipif(bool(why_no_io_uring()), reason=why_no_io_uring() or "io_uring works")


MACHINES = [
    Queue,
    Values,
    Pools,
    Iovecs,
    Spinning,
    Pacing,
    pytest.param(Reading, marks=needs_io_uring),
    pytest.param(Receiving, marks=needs_io_uring),
]


def run(machine, examples, record, **options):
    before = machine.states
    options = {"max_examples": examples, "stateful_step_count": 30, "deadline": None, **options}
    run_state_machine_as_test(machine, settings=settings(**options))
    names = ", ".join(cls.__name__ for cls in machine.covers)
    record("figure", f"{names}: object and model agree in {machine.states - before:,} states, on both faces")


@pytest.mark.parametrize("machine", MACHINES)
def test_agrees_with_its_model(machine, record_property):
    # With the JIT off both faces are the same lines, which take longer.
    run(machine, 50 if numba.config.DISABLE_JIT else 100, record_property, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("machine", MACHINES)
def test_agrees_with_its_model_for_long(machine, record_property):
    run(machine, 2000, record_property)


NO_STATE = "a value or an error: made once, it has no method that changes anything"


EXEMPT = {
    **dict.fromkeys(
        ["Closed", "CopyResult", "ScanResult", "StreamError", "StreamResult", "Tier", "WouldBlock", "PoolStats"],
        NO_STATE,
    ),
    "ByteTable": "tests/test_text.py compares it with a dict",
    "Channel": "tests/shared/test_channel.py calls its methods on both faces, tests/model/processes.py in every order",
    "PoolPlugin": "called by Dask, as tests/dask/test_plugin.py lets it",
    "Sink": "filled by a stream once, as tests/streams/test_sinks.py does",
}


OF_SHARED_ONES = {"attach", "holding_processes", "name", "shared"}  # tests/shared has them
OF_OBSERVED_ONES = {"check", "places", "stats"}  # tests/pools/test_observed.py has them
OF_NOTEBOOKS = {"watch"}  # tests/pools/test_repr.py has it


def public_classes():
    """Every class that the package or one of its modules, but for those of an underscore, names as its own."""
    names = [name for _, name, _ in pkgutil.iter_modules(iobuf_nb.__path__) if not name.startswith("_")]
    modules = [iobuf_nb, *(importlib.import_module(f"iobuf_nb.{name}") for name in names)]
    found = {getattr(module, name) for module in modules for name in module.__all__}
    return {item for item in found if inspect.isclass(item)}


def machines():
    return [getattr(each, "values", [each])[0] for each in MACHINES]


def test_no_public_class_is_left_out():
    covered = {cls.__name__ for machine in machines() for cls in machine.covers}
    assert {cls.__name__ for cls in public_classes()} == covered | EXEMPT.keys()
    assert not covered & EXEMPT.keys()


def test_no_method_is_left_out():
    """Every method and property of a class is named in its machine, or in the function of `faces` for it."""
    text = inspect.getsource(faces)
    for machine in machines():
        text += inspect.getsource(machine)
    words = set(re.findall(r"\w+", text))
    for cls in public_classes():
        if cls.__name__ not in EXEMPT:
            own = {name for base in cls.__mro__ if base.__module__.startswith("iobuf_nb") for name in vars(base)}
            attributes = {name for name in own if inspect.ismemberdescriptor(inspect.getattr_static(cls, name))}
            missing = {name for name in own - attributes if not name.startswith("_")} - words
            missing -= OF_SHARED_ONES | OF_OBSERVED_ONES | OF_NOTEBOOKS
            assert not missing, f"{cls.__name__}: no machine names {sorted(missing)}"
