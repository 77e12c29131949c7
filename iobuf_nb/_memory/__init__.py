"""Memory: aligned, in tiers, as buffers and as struct iovec, and how long kernels may use it."""
