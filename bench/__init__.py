"""Benchmarks that run both sides of each comparison in one process and report ratios. ``python -m bench --help``."""
