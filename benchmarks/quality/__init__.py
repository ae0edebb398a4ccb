"""How good recommendations are: data sets × models × seeds (``python -m benchmarks.quality``)."""
