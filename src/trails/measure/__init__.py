"""Measure: run a scorer over segmented chains and get traces."""
