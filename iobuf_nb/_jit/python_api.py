"""CPython's C functions, declared for kernels: for the C methods, and to release the GIL.

An object is the address of its ``PyObject``. All functions but those of the thread state need the GIL.
"""

from __future__ import annotations

import sys

from numba import types

from .compile import c_function

# In Python 3.10 PyObject_Vectorcall is a static inline function, which the library does not export.
_VECTORCALL = "PyObject_Vectorcall" if sys.version_info >= (3, 11) else "_PyFunction_Vectorcall"
_RUNNING = "PyThreadState_GetUnchecked" if sys.version_info >= (3, 13) else "_PyThreadState_UncheckedGet"
#: Symbols that the C methods need; linking code without them aborts the process.
NEEDED = (
    f"PyLong_AsSsize_t PyLong_FromSsize_t PyErr_Clear Py_DecRef PyTuple_Size PyDescr_NewMethod {_VECTORCALL}".split()
)

_word = types.int64
to_int = c_function("PyLong_AsSsize_t", _word, _word)
from_int = c_function("PyLong_FromSsize_t", _word, _word)
clear_error = c_function("PyErr_Clear", types.void)
release = c_function("Py_DecRef", types.void, _word)
tuple_size = c_function("PyTuple_Size", _word, _word)
vectorcall = c_function(_VECTORCALL, _word, _word, _word, _word, _word)

own_thread_state = c_function("PyGILState_GetThisThreadState", _word)
running_thread_state = c_function(_RUNNING, _word)
save_thread = c_function("PyEval_SaveThread", _word)
restore_thread = c_function("PyEval_RestoreThread", types.void, _word)
