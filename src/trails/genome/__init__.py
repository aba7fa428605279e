"""The curriculum genome: a course written as YAML, compiled over the chains of a home into rows in an exact order.

    source (YAML with places) → model (what it may say) → course (rows over a shelf of chains) → compile (export)

Published work finds that curricula made by people mostly do not help; this package makes a course exact, so that what its order
is worth can be tested.
"""
