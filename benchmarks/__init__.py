"""Benchmarks: each prints ratios against a baseline of the same run. Start one with python -m benchmarks.NAME."""

from trails.platform import static_tls

static_tls.ensure()
