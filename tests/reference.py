"""Batch normalization in float64 NumPy, step by step as the paper has it: the oracle of these tests.

Ioffe and Szegedy 2015: forward by Algorithm 1, backward by the six equations of section 3, before anything
is contracted. It shares nothing with the package.
"""

import numpy as np


def forward(x, gamma, beta, epsilon, axis=-1, weight=None):
    """Output, mean, biased variance; `weight` is 1 where a value counts in the moments, else 0."""
    x = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    weight = np.ones_like(x) if weight is None else np.moveaxis(np.asarray(weight, np.float64), axis, -1)
    rows, weights = x.reshape(-1, x.shape[-1]), weight.reshape(-1, x.shape[-1])
    m = weights.sum(0)
    mean = (weights * rows).sum(0) / m
    variance = (weights * (rows - mean) ** 2).sum(0) / m
    y = gamma * (x - mean) / np.sqrt(variance + epsilon) + beta
    return np.moveaxis(y, -1, axis), mean, variance


def backward(x, dy, gamma, epsilon, axis=-1, weight=None):
    """dx, dgamma, dbeta, for the derivative `dy` of the loss by the output."""
    moved = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    weight = (
        np.ones_like(moved) if weight is None else np.moveaxis(np.asarray(weight, np.float64), axis, -1)
    )
    shape = moved.shape
    x, w = moved.reshape(-1, shape[-1]), weight.reshape(-1, shape[-1])
    dy = np.moveaxis(np.asarray(dy, np.float64), axis, -1).reshape(-1, shape[-1])
    m = w.sum(0)
    mean = (w * x).sum(0) / m
    variance = (w * (x - mean) ** 2).sum(0) / m

    dx_hat = dy * gamma
    dvariance = (dx_hat * (x - mean)).sum(0) * -0.5 * (variance + epsilon) ** -1.5
    dmean = -dx_hat.sum(0) / np.sqrt(variance + epsilon) + dvariance * (-2 * w * (x - mean)).sum(0) / m
    dx = dx_hat / np.sqrt(variance + epsilon) + w * (dvariance * 2 * (x - mean) + dmean) / m
    dgamma = (dy * (x - mean) / np.sqrt(variance + epsilon)).sum(0)
    dbeta = dy.sum(0)
    return np.moveaxis(dx.reshape(shape), -1, axis), dgamma, dbeta


def error(measured, expected):
    """The largest difference, relative to the scale of what is expected."""
    expected = np.asarray(expected, np.float64)
    scale = np.abs(expected).max()
    return np.abs(np.asarray(measured, np.float64) - expected).max() / (scale if scale else 1)
