"""What compiled code is found by, and where it may lie."""

import os
import sys

import llvmlite
import numba
import numpy
import pytest
from numba import config
from numba.core.registry import cpu_target
from support import files_in, needs_root, run

import iobuf_nb
from iobuf_nb._jit import cache as cache_of_code
from iobuf_nb._jit import compile as compile_module
from iobuf_nb._jit.compile import kernel

pytestmark = [pytest.mark.compiled, pytest.mark.proof]

#: What makes code useless that was compiled before.
CHANGES = [
    (numba, "__version__", "0.1"),
    (llvmlite, "__version__", "0.1"),
    (numpy, "__version__", "0.1"),
    (sys.implementation, "cache_tag", "cpython-39"),
    (sys, "abiflags", "t"),
    (config, "OPT", 1),
    (config, "BOUNDSCHECK", 1),
]


def test_a_key_tells_apart_whatever_changes_the_code(monkeypatch):
    def key_of(dispatcher, options=""):
        return cache_of_code.CodeCache(dispatcher.py_func, "01234567", {"options": options})._key("signature", cpu)

    def function(x):
        return x.real

    def bound(value):
        return kernel(lambda x: x + value)

    cpu = cpu_target.target_context.codegen().magic_tuple()
    own = key_of(kernel(function))
    assert key_of(kernel(function)) == own and cache_of_code._path_of("", own) is not None
    keys = {repr(own), repr(key_of(kernel(function), "another"))}
    # One line, one name, and in Python 3.10 the same bytecode.
    keys |= {repr(key_of(each)) for each in (kernel(lambda x: x.imag), kernel(lambda x: x.real))}
    keys |= {repr(key_of(bound(value))) for value in (1, 2)}
    assert len(keys) == 6
    for place, name, value in CHANGES:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            changed_key = key_of(kernel(function))
        assert changed_key != own and cache_of_code._path_of("", changed_key) != cache_of_code._path_of("", own), name


CLOSURE = """
from numba import types
from iobuf_nb._jit.compile import hot, kernel

number_of_the_process = int(sys.argv[1])
types.UniTuple(types.int64, 100 + number_of_the_process), types.UniTuple(types.int64, 101)  # numba numbers its types

def over(*values):
    number, function, kind, pair = values

    @kernel
    def call(x):
        kind
        return function(x) + number + pair[0]

    return call

call = over(1, hot(lambda x: 2 * x), types.UniTuple(types.int64, 101), (3, 4))
print(call(5), sum(call.stats.cache_hits.values()))
"""


def test_a_function_that_closes_over_others_is_found_by_the_next_process(tmp_path):
    settings = {"file": tmp_path / "script.py", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert [run(CLOSURE, process, **settings) for process in (1, 2)] == ["14 0", "14 1"]


def writable_by_all(folder):
    folder.chmod(0o777)


def of_another_user(folder):
    os.chown(folder, 12345, 0)


def cache_hits():
    """Return how often compiled code is found for one more first call of a function, always the same."""
    function = kernel(lambda x: x + 1)
    assert function(1) == 2
    return sum(function.stats.cache_hits.values())


@pytest.mark.parametrize("open_up", [writable_by_all, pytest.param(of_another_user, marks=needs_root)])
def test_a_folder_that_others_can_write_to_is_not_used(open_up, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(iobuf_nb, "__path__", [str(package)])
    monkeypatch.setattr(cache_of_code, "place_to_write", cache_of_code.place_to_write.__wrapped__)

    assert (cache_hits(), cache_hits()) == (0, 1)
    before = files_in(tmp_path / "cache")
    open_up(tmp_path / "cache" / "iobuf_nb")
    assert (cache_hits(), cache_hits()) == (0, 1)  # once more, beside the package
    assert files_in(tmp_path / "cache") == before and files_in(package)


# ---- ready-made code -------------------------------------------------------------------------------------------------


def lacking(feature, cpu):
    triple, name, features = cpu
    return triple, name, ",".join(set(features.split(",")) - {feature})


def test_ready_made_code_is_used_only_where_all_fits(tmp_path, monkeypatch):
    codegen, compiled = cpu_target.target_context.codegen(), []
    cpu = triple, _, features = codegen.magic_tuple()
    if not set(features.split(",")) >= cache_of_code._BASELINE_FEATURES:
        pytest.skip("this processor has not all of the baseline")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(iobuf_nb, "__path__", [str(tmp_path)])
    monkeypatch.setattr(cache_of_code.CodeCache, "save_overload", lambda cache, *what: compiled.append((cache, *what)))
    assert cache_hits() == 0
    ((cache, sig, data),) = compiled
    ready_made = str(tmp_path / "_compiled")
    payload = data._replace(type_annotation="")._reduce()
    cache_of_code.save(ready_made, cache._key(sig, (triple, cache_of_code.BASELINE, "")), payload)
    before = files_in(tmp_path)
    assert cache_hits() == 1
    others = [lacking(feature, cpu) for feature in cache_of_code._BASELINE_FEATURES]
    others.append(("x86_64-another-system", *cpu[1:]))
    changes = [(codegen, "magic_tuple", lambda other=other: other) for other in others]
    changes += [*CHANGES, (compile_module, "FINGERPRINT", "01234567")]
    for change_ in changes:
        with monkeypatch.context() as patch:
            patch.setattr(*change_)
            assert cache_hits() == 0, change_
    function = kernel(lambda x: x + 2)  # other bytecode
    assert function(1) == 3 and not function.stats.cache_hits
    assert cache_hits() == 1 and files_in(tmp_path) == before
