"""Benchmarks: both sides of each comparison in one process run, ratios first. ``python -m bench --help``."""
