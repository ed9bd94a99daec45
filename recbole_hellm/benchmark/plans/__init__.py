"""Benchmarks as data: which runs a table or a figure needs, and what the paper printed there."""
