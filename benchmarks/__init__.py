"""Figures, never tests: see ``python -m benchmarks --help``."""
