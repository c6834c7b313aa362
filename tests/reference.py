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


class Layer:
    """The whole layer with all its options, state included, one group of rows after the other."""

    def __init__(self, shape, axis=-1, momentum=0.99, epsilon=1e-3, **options):
        axes = [axis] if isinstance(axis, int) else axis
        self.channels = sorted(a % len(shape) for a in axes)
        self.order = [a for a in range(len(shape)) if a not in self.channels] + self.channels
        self.lengths = [shape[a] for a in self.channels]
        self.momentum, self.epsilon, self.options = momentum, epsilon, options
        size = int(np.prod(self.lengths))
        self.gamma, self.beta = np.ones(size), np.zeros(size)
        self.moving_mean, self.moving_variance = np.zeros(size), np.ones(size)
        self.moving_stddev, self.renorm_mean, self.renorm_stddev = (
            np.ones(size),
            np.zeros(size),
            np.ones(size),
        )
        self.values = self.updates = np.zeros(size)

    def _rows(self, x):
        return np.transpose(x, self.order).reshape(-1, self.gamma.size)

    def _back(self, rows, shape):
        return rows.reshape([shape[a] for a in self.order]).transpose(np.argsort(self.order))

    def weights(self):
        return {
            name: getattr(self, name).reshape(self.lengths) for name in ("moving_mean", "moving_variance")
        }

    def averages(self):
        mean, variance = self.moving_mean, self.moving_variance
        if self.options.get("debias"):
            moved = self.updates > 0
            weight = np.where(moved, 1 - float(self.momentum) ** self.updates, 1)
            mean, variance = mean / weight, variance / weight
        return mean, variance

    def infer(self, x, mask=None):
        if self.options.get("test_local_stats"):
            return self.train(x, mask, update=False, ghosts=False)
        rows, (mean, variance) = self._rows(np.asarray(x, np.float64)), self.averages()
        return self._back(
            self.gamma * (rows - mean) / np.sqrt(variance + self.epsilon) + self.beta, x.shape
        )

    def train(self, x, mask=None, update=True, ghosts=True):
        x = np.asarray(x, np.float64)
        weight = np.ones(x.shape)
        if mask is not None:  # its axes are the first of x
            weight *= np.reshape(mask, np.shape(mask) + (1,) * (x.ndim - np.ndim(mask)))
        rows, weight = self._rows(x), self._rows(weight)
        kept = np.where(weight > 0, rows, 0)
        size = self.options.get("virtual_batch_size") if ghosts else None
        step = max(size * (len(rows) // max(len(x), 1)) if size else len(rows), 1)
        y, seen = np.empty_like(rows), []
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            n = weight[part].sum(0)
            safe = np.maximum(n, 1)
            mean = kept[part].sum(0) / safe
            variance = (weight[part] * (kept[part] - mean) ** 2).sum(0) / safe
            used_mean, used_variance = mean, variance
            if self.options.get("single_value") == "moving":
                few, (moving_mean, moving_variance) = n <= 1, self.averages()
                used_mean = np.where(few, moving_mean, mean)
                used_variance = np.where(few, moving_variance, variance)
                n = np.where(few, 0, n)
            x_hat = (rows[part] - used_mean) / np.sqrt(used_variance + self.epsilon)
            if self.options.get("renorm"):
                x_hat = self._renorm(x_hat, mean, variance)
            y[part] = self.gamma * x_hat + self.beta
            if self.options.get("unbiased"):
                variance = variance * n / np.maximum(n - 1, 1)
            seen.append((n, mean, variance))
        if update and seen:
            self._update(seen)
        return self._back(y, x.shape)

    def _renorm(self, x_hat, mean, variance):
        clipping = self.options.get("renorm_clipping") or {}
        stddev = np.sqrt(variance + self.epsilon)
        floor = np.maximum(self.renorm_stddev, np.sqrt(self.epsilon))
        r, d = self.frozen_renorm or (stddev / floor, (mean - self.renorm_mean) / floor)
        self.last_renorm = r, d
        r = np.clip(r, clipping.get("rmin", 0), clipping.get("rmax", np.inf))
        return x_hat * r + np.clip(d, -clipping.get("dmax", np.inf), clipping.get("dmax", np.inf))

    frozen_renorm = None  # r and d are constants to the gradient

    def _update(self, seen):
        n = sum(count for count, _, _ in seen)
        safe = np.maximum(n, 1)
        mean = sum(count * value for count, value, _ in seen) / safe
        variance = sum(count * value for count, _, value in seen) / safe
        keep = self.momentum
        if keep is None:
            keep = self.values / np.maximum(self.values + n, 1)
        first = (self.updates == 0) if self.options.get("debias") else np.zeros(n.shape, bool)

        def moved(average, value, keep):
            return np.where(n > 0, keep * np.where(first, 0, average) + (1 - keep) * value, average)

        self.moving_mean = moved(self.moving_mean, mean, keep)
        if self.options.get("renorm"):
            other, stddev = self.options.get("renorm_momentum", 0.99), np.sqrt(variance + self.epsilon)
            self.renorm_mean = moved(self.renorm_mean, mean, other)
            self.renorm_stddev = moved(self.renorm_stddev, stddev, other)
            self.moving_stddev = moved(self.moving_stddev, stddev, keep)
            variance, keep = np.maximum(self.moving_stddev**2 - self.epsilon, 0), 0.0
        self.moving_variance = moved(self.moving_variance, variance, keep)
        self.values, self.updates = self.values + n, self.updates + (n > 0)
