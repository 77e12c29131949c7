"""Threads that wait for each other: outcomes, the GIL and signals, clocks, parking, back-off, fences, the C library."""
