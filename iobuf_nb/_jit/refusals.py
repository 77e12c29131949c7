"""Errors for kernels that cannot be compiled: one sentence each, instead of numba's report on every attempt."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from numba.core import errors
from numba.core.bytecode import ByteCode
from numba.core.typeinfer import CallConstraint


class KernelTypingError(errors.TypingError, errors.ForceLiteralArg):
    """Why a kernel cannot be compiled, in one sentence that comes first and last.

    numba wraps any other TypingError in text of its own, once for every call that the error passes through. It hands
    a ForceLiteralArg on to the dispatcher, which asks for its `requested_args`; this error then raises itself.
    """

    def __init__(self, sentence: str) -> None:
        errors.NumbaError.__init__(self, sentence)
        self._sentence, self._where = sentence, ""

    def add_context(self, msg: str) -> KernelTypingError:
        """Keep the location of the outermost call, which numba adds last."""
        if msg.startswith("typing of "):
            self._where = f"During: {msg}\n"
        return self

    def __str__(self) -> str:
        return f"{self._sentence}\n{self._where}{self._sentence}"

    def fold_arguments(self, *_: Any) -> None:  # type: ignore[misc, override]
        """Pass through to the dispatcher, where numba asks which arguments to make literal."""
        raise self

    def bind_fold_arguments(self, _: Any) -> KernelTypingError:
        """Pass through the dispatcher of a function that the kernel calls."""
        return self

    def combine(self, _: Any) -> KernelTypingError:
        """Take precedence over other errors."""
        return self

    @property  # type: ignore[misc]
    def requested_args(self) -> Any:
        """Raise this error from the dispatcher of the kernel."""
        raise self.with_traceback(None) from None


class Usage(inspect.Signature):
    """How a function is called from kernels. Calls that do not fit are refused in one sentence."""

    name = ""

    @property
    def example(self) -> str:
        """A call with the names and defaults of all parameters."""
        shown = [str(each.replace(annotation=each.empty)) for each in self.parameters.values() if each.name != "self"]
        return f"{self.name}({', '.join(shown)})"

    def require(self, args: Any, kws: Any) -> None:
        """Refuse a call that does not fit, or that would if numba had not lost the names of its keywords."""
        self.bind(*args, **kws)
        names = [*self.parameters]
        for lost in _lost_keywords():
            if {*lost} <= {*names} and names[len(args) - len(lost) : len(args)] != [*lost]:
                raise KernelTypingError(
                    f"{self.example} must get {', '.join(lost)} by position inside try, not by name: numba on Python "
                    "3.11 and 3.12 drops the names of keywords there"
                )

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Bind arguments, or refuse a call that does not fit."""
        try:
            return super().bind(*args, **kwargs)
        except TypeError as error:
            raise KernelTypingError(f"{self.name} must be called as {self.example}: {error}") from None


def usage_of(function: Callable[..., Any], name: str, skip: int = 0, hidden: str = "") -> Usage:
    """Return how `function` is called by `name`, without its first `skip` parameters and the one that is `hidden`."""
    parameters = [*inspect.signature(function).parameters.values()][skip:]
    usage = Usage([each for each in parameters if each.name != hidden])
    usage.name = name
    return usage


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Make typing errors that are raised inside a `KernelTypingError`."""
    try:
        yield
    except errors.TypingError as error:
        sentence = error.msg  # type: ignore[attr-defined]
        raise error if isinstance(error, KernelTypingError) else KernelTypingError(sentence) from None


def caller(function: Callable[..., Any], depth: int) -> FrameType | None:
    """Return the innermost frame of `function` among the callers of this one, less than `depth` frames up."""
    frame: FrameType | None = sys._getframe(1)
    while frame and depth and frame.f_code is not function.__code__:
        frame, depth = frame.f_back, depth - 1
    return frame if depth else None


def _lost_keywords() -> list[tuple[str, ...]]:
    """Return the keywords of the call being typed, or of a similar call on its line, if numba lost their names."""
    frame = caller(CallConstraint.resolve, 20) if (3, 11) <= sys.version_info < (3, 13) else None
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
