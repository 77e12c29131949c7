"""The doctor: each thing that can be wrong is found, with its remedy; and the whole of it where much is wrong."""

import errno
import fcntl
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import config
from support import FORBID, needs_root, python, small_disk

from iobuf_nb import WouldBlock
from iobuf_nb.__main__ import main
from iobuf_nb._doctor import examination, installation, machine, system, trials
from iobuf_nb._doctor.finding import note, ok, problem
from iobuf_nb._jit import c_methods
from iobuf_nb._jit import cache as cache_of_code
from iobuf_nb._jit.compile import kernel
from iobuf_nb._memory import segment

PYPROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text()


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


def returns(value):
    return lambda *_, **__: value


def assert_found(finding, status, found, remedy):
    """A finding is as bad as it should be, and says what it is about, what that means and what helps."""
    assert (finding.status, bool(finding.means), bool(finding.remedy)) == (status, status != "ok", status != "ok")
    assert re.search(found, finding.found) and remedy in finding.remedy, finding


# ---- single findings -------------------------------------------------------------------------------------------------

REFUSED = OSError(errno.EPERM, "Operation not permitted")


def has_memfd():
    try:
        os.close(os.memfd_create("iobuf_nb"))
    except (OSError, AttributeError):
        return False
    return True


#: What this machine, such as a container of CI, is without; asked in another way than the doctor does.
LACKING = {
    name
    for name, there in [
        ("jit", not config.DISABLE_JIT),
        ("shm", os.access(segment.FOLDER, os.W_OK)),
        ("memfd", has_memfd()),
    ]
    if not there
}

#: numba warns where /dev/shm is missing, once.
numba_may_warn = pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaSystemWarning")

#: What is replaced in a module by what, the examination, and what it must find.
WRONG = [
    (
        installation,
        "OLDEST_PYTHON",
        (4, 0),
        installation.python,
        "problem",
        "with(out)? the GIL",
        "Python 4.0 or newer",
    ),
    (installation, "NEWEST_PYTHON", (3, 9), installation.python, "note", "with(out)? the GIL", "CPython 3.10 to 3.9"),
    (numba, "__version__", "0.60.1", installation.packages, "problem", "numba 0.60.1", "'numba>=0.61'"),
    (installation, "INTERPRETED", True, installation.jit, "problem", "JIT is off", "unset NUMBA_DISABLE_JIT"),
    (numba, "threading_layer", returns("workqueue"), installation.threading_layer, "note", "workqueue", "install tbb"),
    (numba, "get_num_threads", fails(ValueError("no\nhint")), installation.threading_layer, "note", "none: no$", "tbb"),
    (c_methods, "WHY_NOT", "no reason", installation.own_c_methods, "note", "not in use: no reason", "the GIL"),
    (c_methods, "METHODS", [], installation.own_c_methods, "note", "not in use: ", "the GIL"),
    (installation, "EXTRAS", {"x": ["os", "abcxyz"]}, installation.extras, "note", "installed: none", "'iobuf-nb[x]'"),
    (machine, "cpu_quota", returns(0.5), machine.own_processors, "note", r"cgroup is 0\.5", "workers=1)"),
    (os, "sysconf", returns(256), machine.cache_line, "note", "256 bytes, and (64|128) assumed", "report it"),
    (machine, "aligned_mem", fails(REFUSED), machine.pages, "note", "not permitted", "leave huge_pages out"),
    (machine, "aligned_mem", fails(REFUSED), machine.memlock, "note", "limit.*: Operation not permitted", "ulimit -l"),
    (system, "FUTEX", -1, system.futex, "note", "not known for", "Linux"),
    (system, "MEMBARRIER", -1, system.membarrier, "note", "not known for", "none"),
    (
        system,
        "register_heavy_fence",
        returns(False),
        system.membarrier,
        "note",
        "missing or refused",
        "seccomp=PROFILE",
    ),
    (
        segment,
        "FOLDER",
        "/proc/nowhere",
        system.shared_memory,
        "problem",
        "No such file.*/proc/nowhere",
        "mount -t tmpfs",
    ),
    pytest.param(
        system,
        "_SMALL_SHM",
        2**60,
        system.shared_memory,
        "note",
        "/dev/shm has [0-9,]+ of [0-9,]+ bytes free",
        "--shm-size=1g",
        marks=pytest.mark.skipif("shm" in LACKING, reason="needs /dev/shm"),
    ),
    (os, "memfd_create", fails(REFUSED), system.memfd, "problem", "not permitted", "allow memfd_create in the seccomp"),
    (sys, "platform", "darwin", system.shared_memory, "note", "need Linux, not darwin", "Linux"),
    (sys, "platform", "darwin", system.memfd, "note", "need Linux, not darwin", "Linux"),
    (tempfile, "gettempdir", fails(REFUSED), system.leases, "note", "in the folder of temporary files", "set TMPDIR"),
    (fcntl, "fcntl", fails(REFUSED), system.leases, "note", "no read leases in .*not permitted", "fs.leases-enable=1"),
]


@numba_may_warn
@pytest.mark.parametrize("place, name, value, examine, status, found, remedy", WRONG)
def test_what_is_wrong_is_found(place, name, value, examine, status, found, remedy, monkeypatch):
    monkeypatch.setattr(place, name, value)
    assert_found(examine(), status, found, remedy)


def test_huge_pages_that_are_switched_off(monkeypatch):
    monkeypatch.setattr(machine, "_read", returns("always madvise [never]"))
    monkeypatch.setattr(machine, "aligned_mem", returns(None))  # not every Linux has huge pages
    assert_found(machine.pages(), "note", "pages: never", "echo madvise")


@numba_may_warn
@pytest.mark.parametrize("name", [name for name in examination.EXAMINATIONS if not name.startswith("test_")])
def test_nothing_but_what_is_lacking_is_a_problem(name):
    finding = examination.EXAMINATIONS[name]()
    assert (finding.status == "problem") == (name in LACKING) and finding.found and finding.figures


def test_without_the_jit_kernels_are_slow_and_nothing_says_otherwise(monkeypatch):
    monkeypatch.setattr(installation, "INTERPRETED", True)
    monkeypatch.setattr(c_methods, "WHY_NOT", "the JIT is off")
    assert "slower" in installation.jit().means and "fast" not in installation.own_c_methods().means


@pytest.mark.compiled
@pytest.mark.skipif(system.FUTEX < 0, reason="needs futex(2)")
def test_a_futex_that_is_refused_is_a_problem(monkeypatch):
    assert_found(system.futex(), "ok", "works", "")
    monkeypatch.setattr(system, "_woken", returns(-1))
    assert_found(system.futex(), "problem", r"futex\(2\) is refused", "allow futex")


@pytest.mark.parametrize(
    "error, switch, found, remedy",
    [
        (ImportError("io_uring needs the package liburing"), "0", "needs the package", "pip install 'iobuf-nb[uring]'"),
        (REFUSED, "0", "not permitted", "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp"),
        (REFUSED, "2", "not permitted", "sysctl kernel.io_uring_disabled=0"),
        (OSError(errno.ENOSYS, "no io_uring"), "2", "no io_uring", "seccomp"),
        (OSError(errno.ENOMEM, "RLIMIT_MEMLOCK"), "0", "RLIMIT_MEMLOCK", "ulimit -l unlimited"),
        (OSError(errno.EINVAL, "too old"), "0", "too old", "Linux 6.0 or newer"),
    ],
)
def test_each_obstacle_to_io_uring_has_its_remedy(error, switch, found, remedy, monkeypatch):
    monkeypatch.setattr("iobuf_nb.uring.Ring", fails(error))
    monkeypatch.setattr(system, "sysctl_disabled", returns(switch))
    finding = system.io_uring()
    assert_found(finding, "note", found, remedy)
    assert finding.figures == {"works": False, "sysctl_io_uring_disabled": int(switch)}


@needs_root
def test_a_shm_that_is_tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "FOLDER", str(tmp_path))
    with small_disk(tmp_path, "4k"):
        assert_found(system.shared_memory(), "problem", "has no room for [0-9]+ bytes", "docker run --shm-size=1g")
    with small_disk(tmp_path, "64m"):
        finding = system.shared_memory()
        assert_found(finding, "note", "67,[0-9]+,[0-9]+ of 67,108,864 bytes free", "docker run --shm-size=1g")
        assert finding.figures["bytes"] == 64 << 20 and not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"/proc/self/cgroup": "0::/"}, None),
        ({"/proc/self/cgroup": "0::/", "cpu.max": "max 100000"}, None),
        ({"/proc/self/cgroup": "0::/", "cpu.max": "150000 100000"}, 1.5),
        ({"/proc/self/cgroup": "0::/a/b", "cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3),
        ({"/proc/self/cgroup": "4:cpuset:/\n3:cpu,cpuacct:/a", "cpu/a/cpu.cfs_quota_us": "-1"}, None),
        (
            {
                "/proc/self/cgroup": "3:cpu,cpuacct:/a",
                "cpu/a/cpu.cfs_quota_us": "50000",
                "cpu/a/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
    ],
)
def test_the_quota_of_a_cgroup(files, quota, monkeypatch):
    def read(path):
        return files.get(os.path.normpath(path).removeprefix(f"{machine.CGROUPS}/"), "")

    monkeypatch.setattr(machine, "_read", read)
    assert machine.cpu_quota() == quota


def test_what_is_said_of_versions_and_extras_is_what_is_installed():
    assert f'requires-python = ">={installation._dotted(installation.OLDEST_PYTHON)}"' in PYPROJECT
    assert f"Python :: {installation._dotted(installation.NEWEST_PYTHON)}" in PYPROJECT
    assert f"Python :: 3.{installation.NEWEST_PYTHON[1] + 1}" not in PYPROJECT
    assert f'"numba>={installation._dotted(installation.OLDEST_NUMBA)}"' in PYPROJECT
    extras = PYPROJECT.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    required = {
        extra: tuple(name for name in re.findall(r'"([\w-]+)', packages) if name != "iobuf-nb")
        for extra, packages in re.findall(r"^(\w+) = \[(.*?)\]$", extras, re.MULTILINE | re.DOTALL)
    }
    for_developers = {"bench", "dev", "docs", "test"}
    assert {extra: names for extra, names in required.items() if extra not in for_developers} == installation.EXTRAS


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folders, writable, chosen, status, found, remedy",
    [
        ({}, False, "", "problem", "cold: no entries; nowhere", "export NUMBA_CACHE_DIR=FOLDER"),
        ({"/warm": 3}, False, "", "note", "3 entries in /warm; nowhere", "export NUMBA_CACHE_DIR=FOLDER"),
        ({}, True, "", "note", "cold: no entries; new ones go to /warm", "python -m iobuf_nb warm"),
        ({"/warm": 3}, True, "", "ok", "3 entries in /warm; new ones go to /warm", ""),
        ({"/warm": 3}, True, "/other", "note", "new ones go to /warm", "export NUMBA_CACHE_DIR=FOLDER"),
        ({"/warm": 3}, True, "/other/../warm", "ok", "new ones go to /warm", ""),
        ({"/a/_compiled": 3}, True, "/warm", "ok", "in /a/_compiled .of the wheel, for x86-64-v2", ""),
    ],
)
def test_a_cache(folders, writable, chosen, status, found, remedy, monkeypatch):
    monkeypatch.setattr(installation, "INTERPRETED", False)
    monkeypatch.setattr(installation, "builds", returns(folders))
    place = returns("/warm/iobuf_nb") if writable else fails(OSError("nowhere"))
    monkeypatch.setattr(installation, "place_to_write", place)
    monkeypatch.setattr(config, "CACHE_DIR", chosen)
    finding = installation.cache()
    assert_found(finding, status, found, remedy)
    assert finding.figures["entries"] == sum(folders.values()) and bool(finding.figures["writable"]) == writable


@pytest.mark.compiled
def test_a_cache_is_warm_once_something_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys.modules["iobuf_nb"], "__path__", [str(tmp_path / "package")])
    for module in (installation, cache_of_code):
        monkeypatch.setattr(module, "place_to_write", cache_of_code.place_to_write.__wrapped__)
    assert installation.cache().figures["folders"] == []
    assert kernel(lambda x: x + 1)(1) == 2
    (folder,) = (tmp_path / "iobuf_nb").iterdir()
    finding = installation.cache()
    assert_found(finding, "ok", f"1 entries in {folder}; new ones go to {tmp_path}/iobuf_nb", "")
    assert finding.figures["folders"] == [str(folder)]


# ---- the self-test ---------------------------------------------------------------------------------------------------

STEPS = [trials.pool_in_python, trials.pool_in_kernels, trials.queue_in_kernels, trials.stream_of_a_file]


class Fewer:
    """What a stream that lost some of a file would return."""

    state = np.array([1 << 16])
    gb_per_s = 1.0


@pytest.mark.parametrize("step", STEPS)
def test_a_step_has_figures(step):
    finding = trials.tried(step)
    assert_found(finding, "ok", "took .*kernels", "")
    assert finding.figures["seconds"] > 0 and min(finding.figures.values()) >= 0


@pytest.mark.parametrize(
    "step, replaced, found",
    [
        (trials.pool_in_python, {"BufferPool": fails(MemoryError("no room"))}, "MemoryError: no room"),
        (trials.pool_in_kernels, {"_count": returns(None)}, "RuntimeError: rounds: 0, not "),
        (
            trials.queue_in_kernels,
            {"_send": returns(None), "_receive": lambda queue, rounds, misplaced: misplaced.fill(1)},
            "items out of order: 1, not 0",
        ),
        (
            trials.queue_in_kernels,
            {"_send": fails(WouldBlock("the queue is full")), "_receive": returns(None)},
            "WouldBlock: the queue is full",
        ),
        (trials.stream_of_a_file, {"stream": returns(Fewer)}, "sum of all bytes: 65536, not "),
    ],
)
def test_a_step_that_fails_is_a_problem(step, replaced, found, monkeypatch):
    for name, value in replaced.items():
        monkeypatch.setattr(trials, name, value)
    assert_found(trials.tried(step), "problem", f"failed: .*{found}", "NUMBA_CACHE_DIR set to an empty folder")


# ---- all of it -------------------------------------------------------------------------------------------------------


def warn():
    warnings.warn("it is slow\nhere", RuntimeWarning, stacklevel=1)
    return ok("fine", figure=1)


FOUND = {
    "good": warn,
    "better": lambda: note("half of it is there", "All of it would be better. " * 9, "make install-" + "all " * 40),
    "bad": lambda: problem("nothing is there", "Nothing works.", "install it"),
    "worse": fails(ZeroDivisionError("by zero")),
}


@pytest.mark.parametrize(
    "names, status, last",
    [
        ([], 0, "All is well."),
        (["better"], 0, "1 note"),
        (["good", "better"], 0, "2 notes"),
        (["good", "better", "bad", "worse"], 1, "2 problems and 2 notes"),
    ],
)
def test_the_text_is_readable_and_the_status_tells_of_problems(names, status, last, monkeypatch, capsys):
    monkeypatch.setattr(examination, "EXAMINATIONS", {name: FOUND[name] for name in names})
    assert main(["doctor"]) == status
    out, err = capsys.readouterr()
    first, *lines = out.splitlines()
    assert err == "" and first.startswith("iobuf_nb 0.") and lines[-1] == last
    assert max(map(len, out.splitlines())) < 80 and "\x1b" not in out and out.isascii()
    assert [line.split()[1] for line in lines[:-1] if line[0] != " "] == [*(f"{name}:" for name in names), "warnings:"]
    assert ("note     warnings: it is slow" in lines) == ("good" in names)
    if "worse" in names:
        at = lines.index("problem  worse: ZeroDivisionError: by zero")
        assert lines[at - 3 : at] == [
            "problem  bad: nothing is there",
            " " * 9 + "Nothing works.",
            " " * 9 + "Remedy: install it",
        ]


@pytest.mark.parametrize(
    "terminal, settings, coloured", [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)]
)
def test_colours_are_for_terminals(terminal, settings, coloured, monkeypatch, capsys):
    monkeypatch.setattr(examination, "EXAMINATIONS", {"bad": FOUND["bad"]})
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", returns(terminal), raising=False)
    assert main(["doctor"]) == 1
    assert ("\x1b[31mproblem  \x1b[0mbad: nothing is there\n" in capsys.readouterr().out) == coloured


def test_json_has_the_same(monkeypatch, capsys):
    monkeypatch.setattr(examination, "EXAMINATIONS", {name: FOUND[name] for name in ("good", "better", "bad")})
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["iobuf_nb", "system", "status", "findings"] and told["status"] == "problem"
    assert list(told["findings"]) == ["good", "better", "bad", "warnings"]
    assert told["findings"]["good"] == {
        "status": "ok",
        "found": "fine",
        "means": "",
        "remedy": "",
        "figures": {"figure": 1},
    }
    assert told["findings"]["bad"]["remedy"] == "install it"


#: A process that may lock no memory, use neither membarrier(2) nor io_uring, and write no code; /dev/shm is gone.
RESTRICTED = (
    FORBID
    + """
import resource, sys
from iobuf_nb import __main__
from iobuf_nb._jit import cache
from iobuf_nb._memory import segment
from iobuf_nb._threads.libc import MEMBARRIER

class ReadOnly:
    def TemporaryFile(dir):
        raise OSError(30, "Read-only file system", dir)
cache.tempfile = ReadOnly
cache.place_to_write.cache_clear()
segment.FOLDER = "/proc/nowhere"
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None)
assert libc.capget(header, data) == 0
data[0] &= ~(1 << 14)  # of the effective capabilities, CAP_IPC_LOCK
if MEMBARRIER < 0 or libc.capset(header, data) != 0 or not forbid(MEMBARRIER, 425):  # io_uring_setup(2)
    sys.exit("nothing can be forbidden")
sys.exit(__main__.main(["doctor", "--json"]))
"""
)


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="about Linux")
def test_where_nearly_all_is_forbidden_each_is_found_with_its_remedy():
    done = python("-m", "iobuf_nb", "doctor", "--json")  # which also fills the cache
    whole = json.loads(done.stdout)
    assert list(whole["findings"]) == [*examination.EXAMINATIONS, "warnings"]
    assert (done.returncode == 1) == (whole["status"] == "problem") and done.stderr == ""
    assert all(whole["findings"][name]["status"] == "ok" for name in whole["findings"] if name.startswith("test_"))

    done = python("-c", RESTRICTED)
    if done.stderr == "nothing can be forbidden\n":
        pytest.skip("needs membarrier(2), capset(2) and seccomp(2)")
    assert (done.returncode, done.stderr) == (1, "")
    found = {
        name: finding for name, finding in json.loads(done.stdout)["findings"].items() if finding["status"] != "ok"
    }
    for name, status, text, remedy in [
        ("cache", "note", "Read-only file system", "export NUMBA_CACHE_DIR="),
        ("memlock", "note", "limit of 0 bytes: lock=True cannot lock", "ulimit -l unlimited"),
        ("membarrier", "note", "refused, and a seccomp filter is active", "allow membarrier in the seccomp profile"),
        ("io_uring", "note", "io_uring", "seccomp" if whole["findings"]["io_uring"]["figures"]["works"] else ""),
        ("shm", "problem", "No such file or directory: '/proc/nowhere'", "mount -t tmpfs"),
    ]:
        finding = found.pop(name)
        assert finding["status"] == status and text in finding["found"] and remedy in finding["remedy"], finding
    assert all(whole["findings"][name]["status"] != "ok" for name in found), found
