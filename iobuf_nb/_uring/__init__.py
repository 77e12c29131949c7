"""io_uring: liburing's functions, and what kernels do with a ring."""
