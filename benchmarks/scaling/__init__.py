"""What more workers bring and cost (``python -m benchmarks.scaling``)."""
