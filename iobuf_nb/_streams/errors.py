"""The error of a stream whose kernel failed."""

from __future__ import annotations

from .source import printable


class StreamError(RuntimeError):
    """A kernel raised an exception, which is the ``__cause__``.

    Attributes
    ----------
    filename : str
        The source, or the one of several that the piece comes from.
    offset : int
        Offset of the piece in that source, in bytes.
    """

    __module__ = "iobuf_nb"  # as tracebacks name it

    def __init__(self, filename: str, offset: int, cause: BaseException) -> None:
        super().__init__(filename, offset, cause)
        self.filename = filename
        self.offset = offset

    def __str__(self) -> str:
        cause = self.args[2]
        return f"the kernel failed on the piece at offset {self.offset} of {printable(self.filename)}: {cause!r}"
