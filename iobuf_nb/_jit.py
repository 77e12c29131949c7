"""How this library is compiled: the one place that fixes numba's options.

Two kinds of function exist. `hot` ones are a few instructions long and are inlined into whatever calls them; called
from Python they return at once, so they keep the GIL. `kernel` ones may run for long or wait, so they release it.
"""

from __future__ import annotations

import ctypes
import inspect
import marshal
import os
import pkgutil
import sys
import zlib
from collections.abc import Callable
from types import FrameType
from typing import Any

from llvmlite import ir
from numba import config, njit, typeof, types
from numba.core import errors
from numba.core.bytecode import ByteCode
from numba.core.typeinfer import CallConstraint
from numba.core.typing import templates
from numba.extending import intrinsic, overload, overload_attribute, overload_method

from ._cache import CodeCache, NoCache

#: True when numba runs kernels as plain Python (the environment variable ``NUMBA_DISABLE_JIT``).
INTERPRETED = bool(config.DISABLE_JIT)


def _fingerprint() -> str:
    """Return what changes with any source of this package, wherever its modules come from: a folder, a zip, .pyc files.

    Where they do not tell, no two processes have it in common.
    """
    package = sys.modules[__package__]
    found: list[Any] = [package.__spec__]
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        found.append(module.module_finder.find_spec(f"{__package__}.{module.name}"))  # type: ignore[call-arg]
    checksum = 0
    try:
        for spec in found:
            loader: Any = spec.loader
            try:
                data = loader.get_data(loader.get_filename(spec.name))
            except (AttributeError, OSError):  # frozen
                data = marshal.dumps(loader.get_code(spec.name))
            checksum = zlib.crc32(data, checksum)
    except (AttributeError, ImportError, ValueError):
        found = []
    return f"{checksum:08x}" if len(found) > 1 else os.urandom(4).hex()


#: Goes into the name of every numba type here, and into every cache file. numba takes cached code for fresh as long as
#: the file of its function is unchanged: without this, kernels of a user, and functions here, would go on running what
#: was inlined into them, constants included, from another version of the other files.
FINGERPRINT = _fingerprint()

_INLINE = {"forceinline": True, "error_model": "numpy"}


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def compile_(function: Callable[..., Any]) -> Any:
        compiled = njit(**options)(function)
        if not INTERPRETED:
            try:
                compiled._cache = CodeCache(function, FINGERPRINT)
            except (RuntimeError, OSError) as error:
                compiled._cache = NoCache(error)
        return compiled

    return compile_


hot = _compiler(**_INLINE)
# A caller's forceinline is inherited if nothing is said.
kernel = _compiler(nogil=True, error_model="numpy", forceinline=False)


class KernelTypingError(errors.TypingError, errors.ForceLiteralArg):
    """Why a kernel cannot be compiled, in one sentence that comes first and last.

    Around each other TypingError numba wraps a text of its own, once for every call that it comes out of. A
    ForceLiteralArg it hands on to the dispatcher, which asks for its `requested_args`; this one then raises itself.
    """

    def __init__(self, sentence: str) -> None:
        errors.NumbaError.__init__(self, sentence)
        self._sentence, self._where = sentence, ""

    def add_context(self, msg: str) -> KernelTypingError:
        """Keep where the outermost call stands: numba goes from the inside out."""
        if msg.startswith("typing of "):
            self._where = f"During: {msg}\n"
        return self

    def __str__(self) -> str:
        return f"{self._sentence}\n{self._where}{self._sentence}"

    def fold_arguments(self, *_: Any) -> None:  # type: ignore[misc, override]
        """Go on to the dispatcher, from where numba asks which arguments to look at."""
        raise self

    def bind_fold_arguments(self, _: Any) -> KernelTypingError:
        """Go on through the dispatcher of a function that the kernel calls."""
        return self

    def combine(self, _: Any) -> KernelTypingError:
        """Prevail over any other."""
        return self

    @property  # type: ignore[misc]
    def requested_args(self) -> Any:
        """End at the dispatcher of the kernel."""
        raise self.with_traceback(None) from None


class _Parameters(inspect.Signature):
    """The parameters of an overload, by which numba binds arguments before it asks for a body."""

    name = ""

    @property
    def usage(self) -> str:
        """How to call it."""
        shown = [str(each.replace(annotation=each.empty)) for each in self.parameters.values() if each.name != "self"]
        return f"{self.name}({', '.join(shown)})"

    def refuse_lost_keywords(self, n: int) -> None:
        """Refuse a call with `n` arguments by position, some of which had names that numba has lost."""
        names = [*self.parameters]
        for lost in _lost_keywords():
            if {*lost} <= {*names} and names[n - len(lost) : n] != [*lost]:
                raise KernelTypingError(
                    f"{self.usage} must get {', '.join(lost)} by position inside try, not by name: numba on Python "
                    "3.11 and 3.12 drops the names of keywords there"
                )

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Bind arguments, or refuse them."""
        try:
            return super().bind(*args, **kwargs)
        except TypeError as error:
            raise KernelTypingError(f"{self.name} must be called as {self.usage}: {error}") from None


def refusing(choose: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Let an overload's errors, and those of calls that do not fit `name`, reach the user as a `KernelTypingError`."""
    parameters = _Parameters([*inspect.signature(choose).parameters.values()])
    parameters.name = name

    def chosen(*args: Any, **named: Any) -> Any:
        parameters.bind(*args, **named)  # old versions of numba have not
        try:
            return choose(*args, **named)
        except errors.TypingError as error:
            raise KernelTypingError(error.msg) from None  # type: ignore[attr-defined]

    chosen.__signature__ = parameters  # type: ignore[attr-defined]
    return chosen


def caller(function: Callable[..., Any], depth: int) -> FrameType | None:
    """Return the innermost frame of `function` that calls the one that asks, less than `depth` frames out."""
    frame: FrameType | None = sys._getframe(1)
    while frame and depth and frame.f_code is not function.__code__:
        frame, depth = frame.f_back, depth - 1
    return frame if depth else None


def _lost_keywords() -> list[tuple[str, ...]]:
    """Return the keywords of the call that is typed, or of one like it in its line, if numba has lost their names."""
    frame = caller(CallConstraint.resolve, 20)
    if frame is None or frame.f_locals["self"].kws:
        return []
    call, function = frame.f_locals["self"], frame.f_locals["typeinfer"].func_ir.func_id
    lost: list[tuple[str, ...]] = []
    if function.code.co_exceptiontable:
        bytecode, names = ByteCode(function), ()
        for instruction in bytecode.table.values():
            if instruction.opname == "KW_NAMES":  # of the next call
                names = function.code.co_consts[instruction.arg]
            elif instruction.opname == "CALL":
                like_it = (instruction.lineno, instruction.arg) == (call.loc.line, len(call.args))
                if names and like_it and bytecode.find_exception_entry(instruction.offset):
                    lost.append(names)
                names = ()
    return lost


def _looking_first(get_implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Return what finds the body of an overload, but looks for lost keywords first: for known types nobody is asked."""

    def look(self: Any, args: Any, kws: Any) -> Any:
        parameters = getattr(self._overload_func, "__signature__", None)
        if isinstance(parameters, _Parameters):
            parameters.refuse_lost_keywords(len(args))
        return get_implementation(self, args, kws)

    return look


if (3, 11) <= sys.version_info < (3, 13):
    templates._OverloadFunctionTemplate._get_impl = _looking_first(templates._OverloadFunctionTemplate._get_impl)


def _same_lines(body: Any) -> Callable[..., Any]:
    """Return an overload that answers every combination of argument types with `body`."""
    body = getattr(body, "py_func", body)

    def choose(*_args: Any, **_kwargs: Any) -> Callable[..., Any]:
        return body

    choose.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return refusing(choose, body.__name__)


def kernel_method(numba_type: type, name: str, body: Callable[..., Any]) -> None:
    """Give values of `numba_type` the method `name` inside kernels, compiled from the lines of `body`."""
    overload_method(numba_type, name, jit_options=_INLINE)(_same_lines(body))


def kernel_face(numba_type: type, python_type: type, names: str) -> None:
    """Give values of `numba_type` the named methods and properties of `python_type`, compiled from their very lines."""
    for name in names.split():
        member = inspect.getattr_static(python_type, name)
        if isinstance(member, property):
            overload_attribute(numba_type, name, jit_options=_INLINE)(_same_lines(member.fget))
        else:
            kernel_method(numba_type, name, member)


def compiled_as(body: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a plain Python function whose place is taken by `body` inside kernels."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=_INLINE)(_same_lines(body))
        return function

    return mark


def kernel_overload(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a chooser by argument type for `function`; string constants reach it as literals."""

    def register(choose: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=_INLINE, prefer_literal=True, strict=False)(refusing(choose, function.__name__))
        return choose

    return register


@intrinsic
def _out_of_line(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for attribute in ("cold", "noinline"):
            builder.function.attributes.add(attribute)
        return context.get_dummy_value()

    return types.void(), codegen


#: Called in a kernel that is seldom called: leave it where it is, so that the code around its calls stays short.
out_of_line: Callable[[], None] = (lambda: None) if INTERPRETED else _out_of_line


def cfunc(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a function for C code to call; RuntimeError or OSError where there is no place for a cache."""
    from numba.core.ccallback import CFunc  # most of what is compiled is not for C

    callback: Any = CFunc(function, (signature.args, signature.return_type), {}, {})
    callback._cache = CodeCache(function, FINGERPRINT)
    callback.compile()
    return callback


def compile_for(function: Any, *arguments: Any) -> None:
    """Compile a kernel, or load it from the cache, for arguments like these: now, not when its result is due."""
    if not INTERPRETED:
        function.compile(tuple(typeof(argument) for argument in arguments))


def c_function(name: str, result: types.Type, *arguments: types.Type, library: str | None = None) -> Any:
    """Return the C function `name` as kernels call it: linked by name, or interpreted, through ctypes.

    `library` is the path of one that llvmlite has loaded; by default the function is one of the C library's.
    """
    if not INTERPRETED:
        return types.ExternalFunction(name, result(*arguments))
    function = getattr(ctypes.CDLL(library, use_errno=True), name)
    # Pointers travel as integers here, so every C type is an integer of some width.
    function.restype = None if result == types.void else getattr(ctypes, f"c_{result}")
    function.argtypes = [getattr(ctypes, f"c_{argument}") for argument in arguments]
    return function
