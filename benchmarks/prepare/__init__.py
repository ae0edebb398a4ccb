"""Preparing logs of many rows: seconds and memory, beside other programs."""
