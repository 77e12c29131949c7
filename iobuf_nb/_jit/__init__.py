"""How Python becomes kernels: numba's options, the code cache, faces, handles, atomic instructions, argument checks."""
