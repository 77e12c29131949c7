"""User kernels, prepared so that workers compiled once can call any kernel of the same type."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any

from numba import jit, njit, typeof, types
from numba.core import cgutils, errors
from numba.core.dispatcher import Dispatcher
from numba.core.typeconv import Conversion
from numba.experimental.function_type import FunctionModel
from numba.extending import NativeValue, register_model, unbox
from numba.np.numpy_support import from_dtype
from numpy.typing import NDArray

from .._jit.compile import INTERPRETED, PACKAGE, compilations
from .pieces import NO_PLAN
from .work import EXTRAS, Form

_WORDS = types.int64[::1]
_CAN_COMPILE = "_can_compile"  # numba's own flag: False if the decorator was given signatures


class _Address(types.FunctionType):
    """A compiled kernel, which Python passes as the address of its code.

    For a dispatcher, numba runs Python code at each call that finds this address, and turns Ctrl-C in it into a
    TypeError.
    """


register_model(_Address)(FunctionModel)


@unbox(_Address)
def _unbox(kind: Any, address: Any, c: Any) -> Any:
    made = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    made.c_addr = made.py_addr = c.context.get_constant_null(types.voidptr)  # for functions without the other
    made.jit_addr = c.pyapi.long_as_voidptr(address)
    return NativeValue(made._getvalue())


class Prepared:
    """A kernel that is ready to be called by workers on arrays and states of certain types.

    Attributes
    ----------
    kernel
        Compiled for exactly these arguments: the user's, or one that calls it.
    """

    def __init__(self, kernel: Any, form: Form, like: NDArray[Any], output: NDArray[Any], state: Any) -> None:
        self._types = _arguments(form, like, output, state), typeof(output), typeof(like)
        self.kernel = _ready(kernel, form, self._types[0])
        self.form = form
        self.first = _first_overload(kernel)
        self._code = None if INTERPRETED else self.kernel.overloads[self._types[0]]  # stays while it may be called
        self._workers: dict[Any, Callable[..., Any]] = {}

    def worker(self, work: Any, *shared: types.Type, mapping: bool = False) -> Callable[..., Any]:
        """Return `work` for this kernel, compiled for any of its type and for other arguments of the types `shared`."""
        form = self.form._replace(mapping=1 if mapping else None)
        key = work, form, shared
        if key not in self._workers:
            if INTERPRETED:
                self._workers[key] = functools.partial(work, *form, self.kernel)
            else:
                self._workers[key] = _compiled(work, form, self._code, *self._types, *shared)
        return self._workers[key]


_REMEMBERED = "_iobuf_nb_prepared"  # an attribute of the kernel, so that what refers to it goes with it


def prepared(kernel: Any, form: Form, like: NDArray[Any], output: NDArray[Any], state: Any) -> Prepared:
    """Return a kernel ready for arrays like `like` and `output`, and states like `state`; it is remembered."""
    if INTERPRETED or not isinstance(kernel, Dispatcher):
        return Prepared(kernel, form, like, output, state)
    known: dict[Any, Prepared] = vars(kernel).setdefault(_REMEMBERED, {})
    key = form, like.dtype, like.ndim, output.dtype, output.ndim, typeof(state)
    if key not in known or known[key].first is not _first_overload(kernel):  # `recompile` makes new ones
        known[key] = Prepared(kernel, form, like, output, state)
    return known[key]


def _first_overload(kernel: Any) -> Any:
    return next(iter(compilations(kernel)), None)


def form_of(kernel: Any, lines: bool, turns: bool) -> Form:
    """Return the form of a stream over this kernel; whether it maps files is known only later."""
    code = getattr(getattr(kernel, "py_func", kernel), "__code__", None)
    parameters = code.co_varnames[4 : code.co_argcount] if code is not None else ()
    extras = " ".join(name for name in parameters if name in EXTRAS)
    return Form(1 if lines else None, 1 if turns else None, None, extras or None)


def _ready(kernel: Any, form: Form, arguments: tuple[types.Type, ...]) -> Any:
    """Return a kernel compiled for exactly the arguments that workers pass: `kernel` itself, or one that calls it."""
    if INTERPRETED and callable(kernel):
        return kernel
    if not isinstance(kernel, Dispatcher) or kernel.targetoptions.get("forceobj"):
        raise TypeError(f"kernel must be a function compiled by numba.njit, not {kernel!r:.60}")
    names = ["buffer", "n", "offset", "state", *form.names]
    wanted = f"({', '.join(f'{name}: {kind}' for name, kind in zip(names, arguments, strict=True))})"
    sentence = f"kernel must take {wanted}, which {kernel.py_func.__name__} does not"
    try:
        signature = inspect.signature(kernel.py_func)
        signature.bind(*arguments[:4], **dict(zip(form.names, arguments[4:], strict=True)))
        own = [each.signature.args for each in compilations(kernel)]
        fixed = not getattr(kernel, _CAN_COMPILE)
        if fixed and not any(_takes(kernel, each, arguments) for each in own):
            raise TypeError("it is compiled only for " + "; ".join(map(str, own)))
        kinds = [p.kind for p in signature.parameters.values()]
        plain = kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(arguments)
        if arguments not in kernel.overloads and not (plain and not fixed):
            kernel = _caller(kernel, form.names)
        if arguments not in kernel.overloads:
            kernel.compile(arguments)
    except (TypeError, RuntimeError, AttributeError, errors.NumbaError) as error:  # numba itself raises some
        raise TypeError(f"{sentence}: {error}\n{sentence}") from error
    result = kernel.overloads[arguments].signature.return_type
    if "output" in names and not isinstance(result, types.Integer):
        raise TypeError(f"kernel must return how many items it has put into output, an integer, not {result}")
    return kernel


def _compiled(
    work: Any, form: Form, code: Any, arguments: tuple[types.Type, ...], output: types.Type, like: types.Type,
    *shared: types.Type,
) -> Callable[..., Any]:  # fmt: skip
    """Return `work` compiled to call a kernel of this type, and bound to it; later processes find it in the cache."""
    own = code.signature
    constants = (types.none if each is None else types.literal(each) for each in form)
    fixed = *constants, _Address(own), typeof(NO_PLAN), _WORDS
    signature = (*fixed, *shared, output, like, arguments[3], _WORDS)
    if not (_known_everywhere(own.return_type) and _known_everywhere(arguments[3])):
        work = _uncached(work)
    work.compile(signature)
    address = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
    return functools.partial(work.get_overload(signature), *form, address)


class _Named(pickle.Pickler):
    """Collects the packages of all classes and functions in a pickle."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.packages: set[str] = set()

    def persistent_id(self, value: Any) -> None:
        if isinstance(value, (type, FunctionType)):
            self.packages.add(value.__module__.partition(".")[0])


@functools.cache
def _known_everywhere(kind: Any) -> bool:
    """Whether a type refers to nothing defined by the program, such as a namedtuple or jitclass.

    Other programs share the cache; they may have another class of that name, or none, and could not load it.
    """
    named = _Named()
    try:
        named.dump(kind)
    except Exception:
        return False
    return named.packages <= {"numba", "numpy", PACKAGE, "copyreg", "builtins"}


@functools.cache
def _uncached(work: Any) -> Any:
    return jit(**work.targetoptions)(work.py_func)


def _arguments(form: Form, like: NDArray[Any], output: NDArray[Any], state: Any) -> tuple[types.Type, ...]:
    buffer, filled = (types.Array(from_dtype(each.dtype), each.ndim, "C") for each in (like, output))
    more = (filled if name == "output" else types.int64 for name in form.names)
    return buffer, types.int64, types.int64, typeof(state), *more


def _takes(kernel: Any, own: tuple[types.Type, ...], arguments: tuple[types.Type, ...]) -> bool:
    """Whether arguments convert to parameters of types `own` without loss."""
    conversions = [kernel.typingctx.can_convert(*pair) for pair in zip(arguments, own, strict=False)]
    return len(own) == len(arguments) and all(c is not None and c <= Conversion.safe for c in conversions)


def _caller(kernel: Any, names: list[str]) -> Any:
    """Return a kernel that only calls another, so that numba converts the arguments, and finds those by name."""
    first = "buffer, n, offset, state"
    passed = "".join(f", {name}={name}" for name in names)
    made: dict[str, Any] = {"kernel": kernel, "__name__": kernel.__module__}
    exec(f"def call({', '.join([first, *names])}):\n    return kernel({first}{passed})", made)
    return njit(nogil=True)(made["call"])
