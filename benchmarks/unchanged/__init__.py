"""Does a refactor change nothing? (``python -m benchmarks.unchanged``)."""
