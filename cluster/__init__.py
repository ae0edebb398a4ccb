"""Files for whoever runs a cluster, and their checker: ``python -m cluster.check FILE…``."""
