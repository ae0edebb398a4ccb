"""Rules for cluster files, one module for each kind of file."""
