from ._text.numbers import parse_decimal, parse_int
from ._text.search import count_byte, find_any, find_byte, rfind_byte, split_fields, trim
from ._text.words import load_f64, load_i64, load_u16, load_u32, load_u64
from ._text.byte_table import ByteTable
