"""Hydra presets."""
