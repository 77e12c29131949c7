"""Waiting: statuses, the GIL and signals, clocks, parking, back-off, fences, the C library."""
