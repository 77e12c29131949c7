"""Numbers out of text: as many bytes as belong to the number are read, and where they end is returned, -1 for none.

Up to seven digits are read as one word, without a loop: each byte of the word is a digit, and three multiplications add
them up (D. Lemire, "Quickly parsing eight digits", 2018). Floating-point numbers of up to 53 bits whose power of ten is
exact take one rounding (W. D. Clinger, "How to read floating point numbers accurately", 1990); the C library reads the
others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .._jit import check
from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import compiled_as
from .._jit.instructions import plus, times, wrap
from .words import in_range, left, lending, load_byte, load_i64, lowest, right

MOST_DIGITS = 18  # after the point: 10**18 fits into an int64
_MOST, _LAST = divmod(2**63 - 1, 10)
_PLUS, _MINUS, _POINT, _ZERO, _E = b"+-.0e"
_ZEROS, _HIGHS = 0x3030303030303030, wrap(0x8080808080808080)
_SEVENS, _TO_HIGH = 0x7F7F7F7F7F7F7F7F, 0x7676767676767676  # what takes a byte of 10 or more to its highest bit


@hot
def _sum_of_digits(word):
    """Return the number whose eight digits are the low halves of the bytes of a word, the first the lowest byte."""
    word = (times(word & 0x0F0F0F0F0F0F0F0F, 2561) >> 8) & 0x00FF00FF00FF00FF
    word = (times(word, 6553601) >> 16) & 0x0000FFFF0000FFFF
    return (times(word, 42949672960001) >> 32) & 0xFFFFFFFF


@hot
def _parse_decimal(b, start, end, digits):
    if start + 8 > len(b):
        return _parse_slowly(b, start, end, digits)
    word = load_i64(b, start)
    sign = int((word & 0xFF) == _MINUS)
    word = right(word, sign << 3)
    digit = word ^ _ZEROS
    ends = (plus(digit & _SEVENS, _TO_HIGH) | digit) & _HIGHS  # the highest bit of each byte that is no digit
    room = end - start - sign
    if room < 8:
        ends |= left(_HIGHS, max(room, 0) << 3)
    if ends == 0:
        return _parse_slowly(b, start, end, digits)
    count = stop = lowest(ends) >> 3
    if digits > 0:
        below = left(1, stop << 3) - 1
        ends &= ends - 1
        # Other numbers of digits after the point are rare in one column.
        if (right(word, stop << 3) & 0xFF) != _POINT or ends == 0 or lowest(ends) >> 3 != stop + 1 + digits:
            return _parse_slowly(b, start, end, digits)
        word = (word & below) | (right(word, 8) & ~below)
        count += digits
        stop += digits + 1
    if count == 0 or sign + stop == 8:  # the zeros that came in are no end
        return _parse_slowly(b, start, end, digits)
    value = _sum_of_digits(left(word, 64 - (count << 3)))
    return (value ^ -sign) + sign, start + sign + stop


@kernel
def _parse_slowly(b, start, end, digits):
    """Do what `_parse_decimal` does, byte by byte."""
    out_of_line()
    i, negative = start, False
    if i < end and (load_byte(b, i) == _MINUS or load_byte(b, i) == _PLUS):
        negative = load_byte(b, i) == _MINUS
        i += 1
    value, first, after_point = 0, i, -1  # the value is kept negative, for -2**63
    while i < end and after_point < digits:
        digit = load_byte(b, i) - _ZERO
        if 0 <= digit <= 9:
            if value < -_MOST or (value == -_MOST and digit > _LAST + negative):
                return 0, -1
            value = value * 10 - digit
            after_point += after_point >= 0
        elif digit == _POINT - _ZERO and after_point < 0 < digits and (i > first or _digit_follows(b, i + 1, end)):
            after_point = 0
        else:
            break
        i += 1
    if i == first:
        return 0, -1
    for _ in range(digits - max(after_point, 0)):
        if value < -_MOST:
            return 0, -1
        value *= 10
    return value if negative else -value, i


@hot
def _digit_follows(b, i, end):
    return i < end and 0 <= load_byte(b, i) - _ZERO <= 9


_parse_decimal_in = lending(_parse_decimal)


@compiled_as(_parse_decimal_in)
def parse_decimal(b: Any, start: int, end: int, digits: int) -> tuple[int, int]:
    r"""Read the decimal number that ``b[start:end]`` begins with, as an integer multiple of ``10**-digits``.

    Parameters
    ----------
    b : uint8 array, 1-D, C-contiguous; from Python any bytes-like object
    start, end : int
        The range in bytes. Kernels do not check it: 0 <= start <= end <= len(b) must hold.
    digits : int
        From 0 to 18; no more digits are read after the point.

    Returns
    -------
    value : int
        0 if there is no number.
    next : int
        The index after the last byte of the number; -1 if the range does not begin with one, or if it does not fit into
        an int64. It is `end` if the whole range is a number.

    Raises
    ------
    TypeError, ValueError
        From Python, for invalid arguments.

    Notes
    -----
    A number is a sign, or none, and digits, with at most one point among them; only if `digits` is not 0 a point is
    read. Fastest are numbers of up to seven digits with exactly `digits` of them after the point.

    Examples
    --------
    >>> parse_decimal(b"-12.3\n", 0, 6, 1)
    (-123, 5)
    >>> parse_decimal(b"7", 0, 1, 2), parse_decimal(b"1.259", 0, 5, 2), parse_decimal(b"none", 0, 4, 2)
    ((700, 1), (125, 4), (0, -1))
    """
    return _parse_decimal_in(*in_range(b, start, end), check.integer("digits", digits, 0, MOST_DIGITS))


@hot
def _parse_int(b, start, end):
    return _parse_decimal(b, start, end, 0)


_parse_int_in = lending(_parse_int)


@compiled_as(_parse_int_in)
def parse_int(b: Any, start: int, end: int) -> tuple[int, int]:
    r"""Read the integer that ``b[start:end]`` begins with; parameters, results and errors as in `parse_decimal`.

    Examples
    --------
    >>> parse_int(b"-42,7", 0, 5), parse_int(b"9223372036854775808", 0, 19)
    ((-42, 3), (0, -1))
    """
    return _parse_int_in(*in_range(b, start, end))


# ---- floating-point numbers ------------------------------------------------------------------------------------------

_EXACT_POWERS = 10.0 ** np.arange(23)  # the powers of ten that are float64s
_LOWER = 0x20  # the bit that makes a letter lower-case
_NUMERIC = 2  # LC_NUMERIC_MASK
_newlocale = types.ExternalFunction("newlocale", types.int64(types.int32, types.int64, types.int64))
_strtod = types.ExternalFunction("strtod_l", types.float64(types.int64, types.int64, types.int64))


@kernel
def _exactly_in_kernel(b, start, end):
    out_of_line()
    text = np.zeros(end - start + 3, np.uint8)  # the name of a locale, and the number
    text[0] = 67
    for k in range(end - start):
        text[k + 2] = b[start + k]
    address = text.ctypes.data
    # The locale "C", which always exists and is not allocated: that of the process may have a comma for a point.
    value = _strtod(address + 2, 0, _newlocale(_NUMERIC, address, 0))
    text[0] = 0  # the memory is needed until here
    return value


@compiled_as(_exactly_in_kernel)
def _exactly(b: Any, start: int, end: int) -> float:
    """Return a number of any length and exponent, correctly rounded."""
    return float(b[start:end].tobytes())


@hot
def _begins_with(b, start, end, name):
    k = 0
    while k < len(name) and start + k < end and load_byte(b, start + k) | _LOWER == load_byte(name, k):
        k += 1
    return k == len(name)


@kernel
def _named(b, start, end):
    """Read "inf", "infinity" or "nan"."""
    out_of_line()
    if _begins_with(b, start, end, b"infinity"):
        return np.inf, start + 8
    if _begins_with(b, start, end, b"inf"):
        return np.inf, start + 3
    if _begins_with(b, start, end, b"nan"):
        return np.nan, start + 3
    return np.nan, -1


@hot
def _parse_float(b, start, end):
    i, negative = start, False
    if i < end and (load_byte(b, i) == _MINUS or load_byte(b, i) == _PLUS):
        negative = load_byte(b, i) == _MINUS
        i += 1
    first, mantissa, point = i, 0, -1
    while i < end:
        digit = load_byte(b, i) - _ZERO
        if 0 <= digit <= 9:
            mantissa = plus(times(mantissa, 10), digit)
        elif digit == _POINT - _ZERO and point < 0 and (i > first or _digit_follows(b, i + 1, end)):
            point = i
        else:
            break
        i += 1
    digits, power = i - first - (point >= 0), 0 if point < 0 else point + 1 - i
    if digits == 0:
        value, i = _named(b, i, end)
        return -value if negative else value, i
    if i < end and load_byte(b, i) | _LOWER == _E:
        k = i + 1
        if k < end and (load_byte(b, k) == _MINUS or load_byte(b, k) == _PLUS):
            k += 1
        if _digit_follows(b, k, end):
            sign, exponent = -1 if load_byte(b, k - 1) == _MINUS else 1, 0
            while _digit_follows(b, k, end):
                exponent = min(10 * exponent + load_byte(b, k) - _ZERO, 99999)
                k += 1
            power, i = power + sign * exponent, k
    if digits <= MOST_DIGITS and mantissa <= 2**53 and -23 < power < 23:
        value = mantissa * _EXACT_POWERS[power] if power >= 0 else mantissa / _EXACT_POWERS[-power]
    else:
        value = _exactly(b, first, i)
    return -value if negative else value, i


_parse_float_in = lending(_parse_float)


@compiled_as(_parse_float_in)
def parse_float(b: Any, start: int, end: int) -> tuple[float, int]:
    r"""Read the number that ``b[start:end]`` begins with as a float64, correctly rounded.

    Parameters
    ----------
    b, start, end
        As in `parse_decimal`.

    Returns
    -------
    value : float
        The float64 nearest to the number, of two the one with an even significand, as Python's ``float`` returns; an
        infinity beyond the largest; nan if there is no number.
    next : int
        The index after the last byte of the number, or -1 if the range does not begin with one.

    Raises
    ------
    TypeError, ValueError
        From Python, for invalid arguments.

    Notes
    -----
    A number is a sign, or none, and digits, with at most one point among them, and an exponent, or none; or "inf",
    "infinity" or "nan", in capitals or not. White space, underscores and hexadecimal digits are not read.

    Numbers of up to 15 digits and powers of ten from -22 to 22 take some nanoseconds. Others take some hundreds, in the
    C library's strtod_l(3), and a short allocation.

    Examples
    --------
    >>> parse_float(b"-1.5e3;", 0, 7)
    (-1500.0, 6)
    >>> parse_float(b"0.1", 0, 3), parse_float(b"x", 0, 1)
    ((0.1, 3), (nan, -1))
    """
    return _parse_float_in(*in_range(b, start, end))
