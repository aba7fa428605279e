"""Benchmarks: each prints ratios against a baseline of the same run. Start one with python -m benchmarks.NAME."""
