"""The model checker runs the library's source interpreted."""

import numba
import pytest
from support import NEEDS_INTERPRETER


def test_the_jit_is_off():
    if not numba.config.DISABLE_JIT:
        pytest.skip(NEEDS_INTERPRETER)
