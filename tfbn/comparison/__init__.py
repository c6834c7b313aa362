"""Several networks, the same batches, several seeds."""
