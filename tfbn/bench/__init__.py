"""Timing beside the peers: Keras, PyTorch and JAX."""
