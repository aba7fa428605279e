"""Pre-registered experiments: a claim, its arms and controls at matched tokens and steps, and a sentence that says what came out.

Each experiment is declared before it runs (:class:`trails.experiments.base.Experiment`): hypothesis, arms, criteria with
direction and threshold. The plan with its hash is written first, then one JSON line per (arm, seed); a report in Markdown
compares arms seed by seed. Experiments 1 (minimal steps), 2 (anchor), 3 (depth-limited LoRA), 6 (volatility) and 10 (cheap
paths), and one on masks and orders.
"""
