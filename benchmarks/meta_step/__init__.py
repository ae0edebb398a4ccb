"""Users a second and memory of whole meta steps (``python -m benchmarks.meta_step``)."""
