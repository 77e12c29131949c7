"""Memory: aligned allocation, tiers, buffers and struct iovec, and how kernels borrow it."""
