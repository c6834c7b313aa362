"""A model in, a model out: fold, convert, without_batchnorm, from_torch."""
