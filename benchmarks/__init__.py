"""Benchmarks, run by name: ``python -m benchmarks.<name> --json FILE``."""
