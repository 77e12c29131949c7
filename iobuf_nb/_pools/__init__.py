"""Pools: queues and pools as objects in Python and in kernels, magazines, coroutines, forks."""
