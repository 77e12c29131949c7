"""A plugin of pytest for runs with the JIT off: a test that hangs is told, with where its threads are, and ends it all.

It looks from Python, where no thread runs meanwhile; faulthandler looks while they run, which may crash it. The lines
that were reached so far are kept.
"""

import os
import signal
import sys
import threading
import traceback

import coverage
import pytest

SECONDS = float(os.environ.get("SECONDS_FOR_A_TEST", 200))
_output = os.dup(1)  # before pytest captures it


def tell(item):
    """Write which test hangs, and where, and end."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    with open(_output, "w") as output:
        print(f"\n{item.nodeid} hangs; the tests behind it have not run", file=output)
        for number, frame in sys._current_frames().items():
            print(f"\n{names.get(number, number)}:", file=output)
            traceback.print_stack(frame, file=output)
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.stop()
        measured.save()
    os._exit(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    signal.signal(signal.SIGALRM, lambda *_: tell(item))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)  # a test that sets it, too, is left to faulthandler
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
