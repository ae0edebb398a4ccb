"""How well new items are predicted from first ratings (``python -m benchmarks.new_items``)."""
