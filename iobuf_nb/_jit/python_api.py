"""CPython's C functions, declared for kernels: for the C methods, and to release the GIL.

An object is the address of its ``PyObject``. All functions but those of the thread state need the GIL.
"""

from __future__ import annotations

import sys

from numba import types

from .compile import c_function

# In Python 3.10 PyObject_Vectorcall is a static inline function, which the library does not export.
VECTORCALL = "PyObject_Vectorcall" if sys.version_info >= (3, 11) else "_PyFunction_Vectorcall"
_RUNNING = "PyThreadState_GetUnchecked" if sys.version_info >= (3, 13) else "_PyThreadState_UncheckedGet"
#: Symbols that the C methods need; linking code without them aborts the process.
NEEDED = (
    "PyLong_AsSsize_t PyLong_FromSsize_t PyErr_Clear Py_IncRef Py_DecRef PyTuple_Size PyDescr_NewMethod "
    "PyBytes_Size PyBytes_AsString PyByteArray_Size PyByteArray_AsString PyDict_GetItemWithError PyType_GenericAlloc "
    f"{VECTORCALL}"
).split()

_word = types.int64
to_int = c_function("PyLong_AsSsize_t", _word, _word)
from_int = c_function("PyLong_FromSsize_t", _word, _word)
clear_error = c_function("PyErr_Clear", types.void)
incref = c_function("Py_IncRef", types.void, _word)
decref = c_function("Py_DecRef", types.void, _word)
dict_get = c_function("PyDict_GetItemWithError", _word, _word, _word)
allocate = c_function("PyType_GenericAlloc", _word, _word, _word)
bytes_size, bytes_data = (c_function(f"PyBytes_{name}", _word, _word) for name in ("Size", "AsString"))
bytearray_size, bytearray_data = (c_function(f"PyByteArray_{name}", _word, _word) for name in ("Size", "AsString"))

own_thread_state = c_function("PyGILState_GetThisThreadState", _word)
running_thread_state = c_function(_RUNNING, _word)
save_thread = c_function("PyEval_SaveThread", _word)
restore_thread = c_function("PyEval_RestoreThread", types.void, _word)
