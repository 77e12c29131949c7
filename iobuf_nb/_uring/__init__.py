"""io_uring: the functions and structs of liburing, and the kernels that use a ring."""
