"""The parts of tests/benchmarks/prove.py: tastes, labelers, prompts, arms, what is measured, checked and drawn."""
