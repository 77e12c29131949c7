"""Pools: queues and pools as objects for Python and kernels, magazines, coroutines, repairs after a fork."""
