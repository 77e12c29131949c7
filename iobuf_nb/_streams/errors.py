"""The error of a stream whose kernel failed."""

from __future__ import annotations

from .source import printable


class StreamError(RuntimeError):
    """A kernel raised an exception, which is the ``__cause__``, or filled its output as it must not.

    Attributes
    ----------
    filename : str
        The source, or the one of several that the piece comes from.
    offset : int
        Offset of the piece in that source, in bytes.
    where : str
        Where it ran, if that was not in this process, such as ``on worker tcp://10.0.0.2:40331``.
    """

    __module__ = "iobuf_nb"  # as tracebacks name it

    def __init__(self, filename: str, offset: int, cause: BaseException, where: str = "") -> None:
        super().__init__(filename, offset, cause, where)
        self.filename = filename
        self.offset = offset
        self.where = where

    def __str__(self) -> str:
        where = f", {self.where}" if self.where else ""
        piece = f"the piece at offset {self.offset} of {printable(self.filename)}"
        return f"the kernel failed on {piece}{where}: {self.args[2]!r}"
