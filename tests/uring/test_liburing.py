"""io_uring where it is missing, forbidden or limited: each says why."""

import errno
import sys
from pathlib import Path

import pytest
from ring_faces import IMPORTS
from support import run, said, why_no_io_uring

from iobuf_nb import uring
from iobuf_nb._uring import liburing
from iobuf_nb.uring import Ring

pytestmark = pytest.mark.skipif(bool(why_no_io_uring()), reason=why_no_io_uring() or "io_uring works")


MISSING = """
import sys
sys.modules["liburing"] = None
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    import iobuf_nb.uring
print(len(recorder.buffer))
try:
    iobuf_nb.uring.Ring()
except ImportError as error:
    print(error)
"""


def test_without_the_extra_it_is_named():
    compiled, sentence = said("-c", MISSING).split("\n")
    assert compiled == "0"
    assert "pip install 'iobuf-nb[uring]'" in sentence


@pytest.mark.parametrize(
    "code, switch, sentence",
    [
        (errno.EPERM, "2", "kernel.io_uring_disabled is 2"),
        (errno.EPERM, "0", "a seccomp filter or a security module forbids io_uring here"),
        (errno.ENOSYS, "0", "this Linux has no io_uring, or a seccomp filter hides it"),
        (errno.ENOMEM, "0", r"RLIMIT_MEMLOCK allows -?\d+ bytes"),
        (errno.EINVAL, "0", "needs Linux 6.0 or newer"),
    ],
)
def test_where_io_uring_is_forbidden_it_says_why(monkeypatch, code, switch, sentence):
    monkeypatch.setattr(uring, "call", lambda *arguments: -code)
    monkeypatch.setattr(Path, "read_text", lambda path: switch + "\n")
    with pytest.raises(OSError, match=rf"Ring\(4\) is refused by io_uring \(.*{sentence}") as caught:
        Ring(4)
    assert caught.value.errno == code


def test_elsewhere_than_on_linux_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    liburing._library.cache_clear()
    with pytest.raises(OSError, match="io_uring is a part of Linux, and this system is darwin"):
        Ring()


def test_a_liburing_that_lacks_a_function_is_refused(monkeypatch):
    monkeypatch.setattr(liburing, "_FUNCTIONS", "io_uring_submit io_uring_of_tomorrow")
    liburing._library.cache_clear()
    with pytest.raises(ImportError, match="needs a newer liburing: .* has no io_uring_of_tomorrow"):
        Ring()


LIMITED = """
import resource
pool, small, ring = BufferPool(64, 65536), BufferPool(1, 4096), Ring()
RegisteredPool(small, ring).close()
ring.close()
resource.setrlimit(resource.RLIMIT_MEMLOCK, (2**20, 2**20))
if os.getuid() == 0:
    os.setuid(65534)
ring = Ring()
try:
    RegisteredPool(pool, ring)
except OSError as error:
    print(error)
RegisteredPool(small, ring).close()
"""


def test_the_limit_of_locked_memory_is_named():
    sentence = run(IMPORTS + LIMITED)
    assert "pinning 4194304 bytes is refused" in sentence and "RLIMIT_MEMLOCK allows 1048576 bytes" in sentence
