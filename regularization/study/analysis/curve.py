"""Accuracy as a smooth function of λ: a Gaussian process over log λ, with λ = 0 as a point of its own.

The accuracy of a trial of arm i with seed j, in percentage points, is ``y = f(λ_i) + b_j + e``:

* f over log₁₀ λ is a Gaussian process with the Matérn 5/2 kernel, one length scale ℓ per axis and an unknown constant
  mean (Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, sections 2.7 and 4.2.1). f(0) is a free
  level. f tends to f(0) as λ → 0, but how far below the smallest λ is unknown: with an assumed distance, the interval
  of the gain is invalid if all λ help equally.
* b_j ~ N(0, s²σ²) is the effect of the seed. As f is the accuracy at the average of the seeds tried, the effects sum to
  zero: Cov(b) = s²σ²(I − 11ᵀ/J).
* e ~ N(0, r_i σ²), where r_i is the residual variance of arm i relative to all arms, shrunk towards 1.

σ² has an inverse gamma prior and is integrated out (Student's t). ℓ, s and the amplitude a of f, relative to σ, are
integrated over a grid with weak priors (section 5.2): their estimates from three seeds are too uncertain to be plugged
in. Arms that collapse are left out, and a smaller loss d is compressed to ``c·log(1 + d/c)``; draws are transformed
back. So a steep fall at strong λ does not make f rough everywhere.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Location = float | tuple[float, float]

GRID_POINTS = {1: 101, 2: 20}  # per axis, by the number of axes
COLLAPSE = 10.0  # an arm whose mean is further below the best, in percentage points, has collapsed
COMPRESSION, MIN_COMPRESSION = 6.0, 1.0  # c in standard deviations of the noise, and its minimum in percentage points
ZERO_GAP = 2.0  # with two axes, a value of 0 on one of them lies this many decades below its smallest positive value
# Prior of σ², as if one residual of 0.1 percentage points had been seen; of the relative variance of an arm, as if ten.
PRIOR_DEGREES, PRIOR_STD, NOISE_DEGREES = 1.0, 0.1, 10.0
LEVEL_VARIANCE = 1e4  # prior variance of the levels (constant mean, f(0)) over σ²: nearly flat
# Log-normal prior of ℓ around 1 decade; half-Cauchy prior of a (Gelman 2006, Bayesian Analysis 1); uniform prior of s.
LENGTHS, LENGTH_SPREAD = np.geomspace(0.3, 4, 5), 0.7
AMPLITUDES, AMPLITUDE_SCALE = np.geomspace(0.1, 60, 8), 2.0
SEED_RATIOS = (0.0, 1.0, 3.0, 9.0)
SETTINGS = 40  # number of hyperparameter settings from which f is drawn
INTERVAL = (0.025, 0.975)  # ends of all intervals


class Band(NamedTuple):
    """Posterior mean and ends of the pointwise 95% interval."""

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Curve:
    """Accuracy as a function of λ, as fractions. The accuracy is that at the average of the seeds tried.

    Attributes:
        values: λ on a geometric grid over the arms that have not collapsed, ``(M,)``; ``(M, 2)`` for two axes.
        mean: Posterior mean of the accuracy, ``(M,)``.
        low, high: Ends of its pointwise 95% interval, ``(M,)``.
        gain: Accuracy minus the accuracy at λ = 0, ``(M,)``; NaN if no trial has λ = 0 (on both axes).
        zero: Accuracy at λ = 0, ``()``; NaN likewise.
        best: λ with the highest mean; one number per axis.
        best_low, best_high: Ends of the 95% interval of the λ at which the accuracy is highest; one number per axis.
        collapsed: λ of the arms that were left out, ``(K,)`` or ``(K, 2)``.
    """

    values: Floats
    mean: Floats
    low: Floats
    high: Floats
    gain: Band
    zero: Band
    best: Location
    best_low: Location
    best_high: Location
    collapsed: Floats

    def scaled(self, unit: float) -> "Curve":
        """The curve of unit × accuracy; the gain keeps its sign. For a negative unit, the ends of bands are swapped."""
        mean, low, high = _scaled(Band(self.mean, self.low, self.high), unit)
        gain, zero = _scaled(self.gain, abs(unit)), _scaled(self.zero, unit)
        return replace(self, mean=mean, low=low, high=high, gain=gain, zero=zero)


@dataclass(frozen=True)
class _Levels:
    """Estimates ``(m,)`` of f at positions ``(m, D)`` under a ratio s: ``estimates ~ N(f, σ² · covariance)``."""

    positions: Floats
    estimates: Floats
    covariance: Floats
    squares: float  # residual sum of squares, with the prior's
    log_determinant: float  # of the trials' covariance, less that of the estimates
    degrees: float  # of freedom of σ²: one per trial and the prior's, less one per level


def fit_curve(values: Floats, seeds: Indices, accuracies: Floats, draws: int = 2000, seed: int = 0) -> Curve | None:
    """Fits the accuracy as a smooth function of log λ for one or two axes.

    Args:
        values: λ of each trial, ``(n,)``; ``(n, 2)`` for two axes.
        seeds: Seed of each trial, ``(n,)``. Arms may have different seeds.
        accuracies: Accuracy of each trial as a fraction, ``(n,)``.
        draws: Number of draws from the posterior.
        seed: Seed of the random generator.

    Returns:
        The curve; None if an axis has fewer than three different positive values that have not collapsed.
    """
    points, percent = np.asarray(values, dtype=np.float64).reshape(len(values), -1), 100.0 * np.asarray(accuracies)
    kept = _not_collapsed(points, percent)
    positive = [axis[axis > 0] for axis in points[kept].T]
    if min(len(np.unique(axis)) for axis in positive) < 3:
        return None
    axes = [np.geomspace(axis.min(), axis.max(), GRID_POINTS[len(positive)]) for axis in positive]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    levels, expand = _prepare(points[kept], np.asarray(seeds)[kept], percent[kept])
    zero = levels[0].positions[np.isnan(levels[0].positions).any(axis=1)]
    samples = expand(_sample(levels, np.concatenate([np.log10(grid), zero]), draws, np.random.default_rng(seed)))
    return _summarize(grid, samples / 100, np.unique(points[~kept], axis=0))


def _not_collapsed(points: Floats, percent: Floats) -> NDArray[np.bool_]:
    """Which trials ``(n,)`` belong to arms at most ``COLLAPSE`` below the best arm; λ = 0 is always kept."""
    arm = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    means = np.bincount(arm, percent) / np.bincount(arm)
    return np.asarray((means[arm] >= means.max() - COLLAPSE) | (points == 0).all(axis=1))


def _positions(points: Floats) -> Floats:
    """log₁₀ λ of points ``(n, D)``; NaN where all values are 0."""
    positive = np.where(points > 0, points, np.inf)
    logs = np.log10(np.where(points > 0, points, positive.min(axis=0) / 10**ZERO_GAP))
    return np.where((points == 0).all(axis=1, keepdims=True), np.nan, logs)


def _prepare(points: Floats, seeds: Indices, percent: Floats) -> tuple[list[_Levels], Callable[[Floats], Floats]]:
    """Compressed levels for each of ``SEED_RATIOS``, and the function that transforms f back to percentage points."""
    arms, arm = np.unique(points, axis=0, return_inverse=True)
    arm, seed = arm.reshape(-1), np.unique(seeds, return_inverse=True)[1]
    levels, effects, std, noise = _two_way(arm, seed, percent)
    scale, best = max(MIN_COMPRESSION, COMPRESSION * std), levels.max()
    y = percent - effects[seed] - best
    y = np.maximum(y, 0) - scale * np.log1p(np.maximum(-y, 0) / scale)
    # Compression reduces the variation of an arm by the slope of the logarithm.
    noise = noise / (1 + (best - levels) / scale) ** 2
    center = y.mean()

    def expand(f: Floats) -> Floats:
        loss = np.maximum(-f - center, 0)
        return np.asarray(best + np.maximum(f + center, 0) - scale * np.expm1(loss / scale))

    y = y - center + effects[seed]
    return [_reduce(_positions(arms), arm, seed, y, noise, ratio) for ratio in SEED_RATIOS], expand


def _reduce(positions: Floats, arm: Indices, seed: Indices, y: Floats, noise: Floats, ratio: float) -> _Levels:
    """Generalized least squares estimates of the arms' levels, which are sufficient for f."""
    count, one_hot = seed.max() + 1, np.eye(len(positions))[arm]
    effects = ratio**2 * (np.eye(count) - 1 / count)
    weights = np.linalg.inv(np.diag(noise[arm]) + effects[np.ix_(seed, seed)])
    precision = one_hot.T @ weights @ one_hot
    covariance = np.linalg.inv(precision).astype(np.float64)
    estimates = covariance @ (one_hot.T @ weights @ y)
    squares = PRIOR_DEGREES * PRIOR_STD**2 + float(y @ weights @ y - estimates @ precision @ estimates)
    log_determinant = float(np.linalg.slogdet(precision)[1] - np.linalg.slogdet(weights)[1])
    degrees = len(y) - 1 - int(np.isnan(positions).any()) + PRIOR_DEGREES
    return _Levels(positions, estimates, covariance, squares, log_determinant, degrees)


def _covariance(positions: Floats, length: Floats, amplitude: float) -> Floats:
    """Prior covariance ``(m, m)`` of f, in units of σ²: constant mean, Matérn 5/2 kernel, and the free level f(0)."""
    zero = np.isnan(positions).any(axis=1)
    scaled = math.sqrt(5) * np.nan_to_num(positions) / length
    distance = cdist(scaled, scaled)
    kernel = (1 + distance + distance**2 / 3) * np.exp(-distance)
    kernel *= amplitude**2 * np.outer(~zero, ~zero)
    return np.asarray(LEVEL_VARIANCE * (1 + np.outer(zero, zero)) + kernel)


def _two_way(arm: Indices, seed: Indices, y: Floats) -> tuple[Floats, Floats, float, Floats]:
    """Fits ``y = arm + seed`` by least squares: levels of the arms ``(m,)``, effects of the seeds ``(J,)``, standard
    deviation of the noise (from the median over arms), and the arms' relative noise variances ``(m,)``.
    """
    count, design = arm.max() + 1, np.hstack([np.eye(arm.max() + 1)[arm], np.eye(seed.max() + 1)[seed]])
    # The ridge chooses the smallest seed effects where arms and seeds cannot be told apart.
    ridge = np.diag(np.where(np.arange(design.shape[1]) < count, 0.0, 1e-6))
    solution = np.linalg.solve(design.T @ design + ridge, design.T)
    coefficients = solution @ y
    squares = np.bincount(arm, (y - design @ coefficients) ** 2)
    degrees = np.bincount(arm, 1 - np.sum(design * solution.T, axis=1))
    usable = degrees > 0.5
    variance = float(np.median(squares[usable] / degrees[usable])) if usable.any() else 0.0
    if variance < 1e-6:
        return coefficients[:count], coefficients[count:], PRIOR_STD, np.ones(count)
    variance /= (1 - 2 / (9 * float(np.median(degrees[usable])))) ** 3  # median of χ²/d (Wilson and Hilferty 1931)
    relative = (NOISE_DEGREES + squares / variance) / (NOISE_DEGREES + degrees)
    return coefficients[:count], coefficients[count:], math.sqrt(variance), relative


def _posterior(
    levels: _Levels, lengths: Floats, amplitude: float, points: Floats
) -> tuple[float, float, Floats, Floats]:
    """The posterior given the hyperparameters, with C the covariance of the accuracies over σ².

    Returns:
        Log of the weight, ``prior · |C|^(−1/2) · (νσ₀² + yᵀC⁻¹y)^(−degrees/2)``; the bracket, which is divided by a
        draw from χ²(degrees) to draw σ²; mean ``(M,)`` and covariance over σ² ``(M, M)`` of f at points ``(M, D)``
        (equations 2.25 and 2.26).
    """
    count = len(levels.positions)
    prior = _covariance(np.concatenate([levels.positions, points]), lengths, amplitude)
    factor = cho_factor(prior[:count, :count] + levels.covariance, lower=True)
    solution = cho_solve(factor, np.column_stack([levels.estimates, prior[:count, count:]]))
    squares = levels.squares + float(levels.estimates @ solution[:, 0])
    log_determinant = levels.log_determinant + 2 * float(np.log(np.diag(factor[0])).sum())
    log_prior = math.log(amplitude / (1 + (amplitude / AMPLITUDE_SCALE) ** 2))
    log_prior -= float(np.sum((np.log(lengths) / LENGTH_SPREAD) ** 2)) / 2
    log_weight = log_prior - (log_determinant + levels.degrees * math.log(squares)) / 2
    cross = prior[count:, :count]
    return log_weight, squares, cross @ solution[:, 0], prior[count:, count:] - cross @ solution[:, 1:]


def _sample(levels: list[_Levels], points: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Draws of f at points ``(M, D)``, ``(draws, M)``: hyperparameters by systematic sampling, then σ², then f."""
    lengths = itertools.product(LENGTHS[:: points.shape[1]].tolist(), repeat=points.shape[1])
    grid = itertools.product(levels, map(np.array, lengths), AMPLITUDES.tolist())
    settings = [(level, length, float(amplitude)) for level, length, amplitude in grid]
    log_weights = np.array([_posterior(*setting, points[:0])[0] for setting in settings])
    shares = np.cumsum(np.exp(log_weights - log_weights.max()))
    drawn = np.searchsorted(shares / shares[-1], (np.arange(SETTINGS) + generator.random()) / SETTINGS)
    samples = []
    for index in np.unique(drawn):
        setting = settings[int(index)]
        _, squares, mean, covariance = _posterior(*setting, points)
        # Rounding errors may make the smallest eigenvalues negative; adding 1e-4 σ² has no visible effect.
        factor = np.linalg.cholesky((covariance + covariance.T) / 2 + 1e-4 * np.eye(len(points)))
        number = int(np.sum(drawn == index)) * math.ceil(draws / SETTINGS)
        stds = np.sqrt(squares / generator.chisquare(setting[0].degrees, (number, 1)))
        samples.append(mean + stds * (generator.standard_normal((number, len(points))) @ factor.T))
    return np.concatenate(samples)


def _summarize(grid: Floats, samples: Floats, collapsed: Floats) -> Curve:
    """The curve from draws ``(draws, M)``, or ``(draws, M + 1)`` with λ = 0 in the last column."""
    f = samples[:, : len(grid)]
    zero = samples[:, len(grid) :] if samples.shape[1] > len(grid) else np.full((len(samples), 1), np.nan)
    best = int(f.mean(axis=0).argmax())
    ends = np.quantile(grid[f.argmax(axis=1)], INTERVAL, axis=0, method="nearest")
    top, low, high = (_location(value) for value in (grid[best], *ends))
    if grid.shape[1] == 1:
        grid, collapsed = grid[:, 0], collapsed[:, 0]
    return Curve(grid, *_band(f), _band(f - zero), _band(zero[:, 0]), top, low, high, collapsed)


def _band(samples: Floats) -> Band:
    """Mean and ends of the interval of draws ``(draws, ...)``."""
    low, high = np.quantile(samples, INTERVAL, axis=0)
    return Band(samples.mean(axis=0), low, high)


def _scaled(band: Band, unit: float) -> Band:
    low, high = (band.low, band.high) if unit > 0 else (band.high, band.low)
    return Band(unit * band.mean, unit * low, unit * high)


def _location(value: Floats) -> Location:
    """λ as one number, or as two for two axes."""
    return float(value[0]) if len(value) == 1 else (float(value[0]), float(value[1]))
