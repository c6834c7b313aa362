"""Arms of two small networks for `blobs`."""

import tfbn


def build(use_batchnorm=True, **options):
    return lambda: tfbn.Model(8, 3, (6,), use_batchnorm=use_batchnorm, **options)


ARMS = {"batchnorm": build(True), "plain": build(False)}
