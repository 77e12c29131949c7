"""Machine code of kernels over words, for the tests that look at it."""

from numba import njit, types

WORDS = types.Array(types.int64, 1, "C")


def compiled(function):
    kernel = njit(nogil=True, error_model="numpy")(function)
    kernel.compile((WORDS,))
    return kernel


def instructions(assembly):
    """Return the instructions of the first function: the kernel itself, without its Python wrapper."""
    lines = assembly.split("@function")[1].split(".cfi_endproc")[0].splitlines()
    return "\n".join(line.strip() for line in lines if line.startswith("\t") and not line.startswith("\t."))


def assembly(function):
    return instructions(next(iter(compiled(function).inspect_asm().values())))
