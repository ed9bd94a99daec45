"""Benchmarks: planned runs, their records and comparisons of them."""
