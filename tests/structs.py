"""A structref with an array in it."""

from numba import njit, types
from numba.experimental import structref


@structref.register
class StructType(types.StructRef):
    pass


class Struct(structref.StructRefProxy):
    def __new__(cls, array):
        return structref.StructRefProxy.__new__(cls, array)


structref.define_proxy(Struct, StructType, ["array"])
struct_array = njit(lambda struct: struct.array)
