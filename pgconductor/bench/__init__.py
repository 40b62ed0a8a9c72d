"""What ``pgconductor bench`` measures, and how; see docs/benchmarks.md."""
