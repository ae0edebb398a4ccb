"""Distributed, large-scale meta-training for cold-start recommendation."""
