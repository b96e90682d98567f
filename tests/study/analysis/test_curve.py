"""The λ curve compared with scikit-learn, SciPy and synthetic studies with a known true curve."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from regularization.study.analysis import curve
from regularization.study.analysis.curve import Curve, Floats, fit_curve

VALUES = np.concatenate([[0.0], np.geomspace(1e-5, 1e-2, 7)])


def peak(values: Floats) -> Floats:
    """Gain over λ = 0 as a fraction: 0.65 percentage points at λ = 3e-4."""
    return np.asarray(0.0065 * np.exp(-0.5 * ((np.log10(np.maximum(values, 1e-30)) + 3.5) / 0.7) ** 2))


def draw_study(gains: Floats, seeds: int, generator: np.random.Generator) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Trials of all arms of ``VALUES`` with noise of 0.25 points and seed effects of 0.5 points that sum to zero."""
    effects = generator.normal(0, 0.005, seeds)
    accuracies = 0.8 + gains[:, None] + effects - effects.mean() + generator.normal(0, 0.0025, (len(gains), seeds))
    return np.repeat(VALUES, seeds), np.tile(np.arange(seeds), len(gains)), accuracies.ravel()


def fit_study(gains: Floats, seeds: int, generator: np.random.Generator) -> Curve:
    fitted = fit_curve(*draw_study(gains, seeds, generator))
    assert fitted is not None
    return fitted


def test_the_posterior_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    positions, points = np.linspace(-5, -2, 7)[:, None], np.linspace(-5, -2, 13)[:, None]
    arm = np.repeat(np.arange(7), 3)
    y, noise = generator.normal(size=21), generator.uniform(0.5, 2, 7)
    levels = curve._reduce(positions, arm, np.tile(np.arange(3), 7), y, noise, 0.0)
    kernel = ConstantKernel(curve.LEVEL_VARIANCE) + ConstantKernel(1.5**2) * Matern(length_scale=0.8, nu=2.5)
    reference = GaussianProcessRegressor(kernel, alpha=noise[arm], optimizer=None).fit(positions[arm], y)
    expected, expected_covariance = reference.predict(points, return_cov=True)
    _, _, mean, covariance = curve._posterior(levels, np.array([0.8]), 1.5, points)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_allclose(covariance, expected_covariance, atol=1e-6)


def test_weight_and_posterior_with_seed_effects_agree_with_the_covariance_of_all_trials() -> None:
    generator = np.random.default_rng(1)
    arm, seed = np.array([0, 0, 1, 1, 2, 2, 2, 3]), np.array([0, 1, 1, 2, 0, 1, 2, 3])
    positions, y = np.array([[-4.0], [-3.0], [-2.0], [np.nan]]), generator.normal(size=8)
    noise, ratio, length, amplitude = np.array([1.0, 0.5, 2.0, 1.0]), 3.0, np.array([1.2]), 2.0
    levels = curve._reduce(positions, arm, seed, y, noise, ratio)
    weight, squares, mean, _ = curve._posterior(levels, length, amplitude, positions)
    prior = curve._covariance(positions, length, amplitude)
    effects = ratio**2 * (np.eye(4) - 0.25)
    total = prior[np.ix_(arm, arm)] + effects[np.ix_(seed, seed)] + np.diag(noise[arm])
    quadratic = y @ np.linalg.solve(total, y)
    assert squares == pytest.approx(curve.PRIOR_STD**2 + quadratic)
    np.testing.assert_allclose(mean, prior[:, arm] @ np.linalg.solve(total, y), atol=1e-6)
    # |C| is computed from SciPy's normal density at 0. The degrees of freedom are 8 trials + 1 of the prior − 2 levels.
    expected = multivariate_normal(cov=total).logpdf(np.zeros(8)) + 4 * math.log(2 * math.pi)
    expected -= 7 / 2 * math.log(squares) + 0.5 * (math.log(1.2) / curve.LENGTH_SPREAD) ** 2
    assert weight == pytest.approx(expected + math.log(amplitude / (1 + (amplitude / curve.AMPLITUDE_SCALE) ** 2)))


def test_bands_and_the_interval_of_the_best_value_cover_the_truth() -> None:
    generator, covered, located = np.random.default_rng(2), [], []
    for _ in range(12):
        fitted = fit_study(peak(VALUES), 3, generator)
        truth = peak(fitted.values)
        covered.append([np.mean((fitted.low <= 0.8 + truth) & (0.8 + truth <= fitted.high))])
        covered.append([np.mean((fitted.gain.low <= truth) & (truth <= fitted.gain.high))])
        assert isinstance(fitted.best_low, float)
        assert isinstance(fitted.best_high, float)
        located.append(fitted.best_low <= 10**-3.5 <= fitted.best_high)
    assert np.mean(covered) >= 0.9
    assert np.mean(located) >= 0.9


def test_a_peak_is_found_and_beats_zero() -> None:
    fitted = fit_study(peak(VALUES), 10, np.random.default_rng(3))
    assert fitted.best == pytest.approx(10**-3.5, rel=0.8)
    assert float(fitted.gain.low.max()) > 0
    assert fitted.zero.low < 0.8 < fitted.zero.high
    assert fitted.values.shape == fitted.mean.shape == fitted.gain.high.shape == (101,)


def test_a_flat_curve_does_not_beat_zero() -> None:
    generator = np.random.default_rng(4)
    curves = [fit_study(np.zeros(8), 10, generator) for _ in range(8)]
    assert np.mean([np.mean((fitted.gain.low <= 0) & (fitted.gain.high >= 0)) for fitted in curves]) >= 0.85
    # A flat curve does not determine where its maximum is.
    widths = [np.log10(fitted.best_high) - np.log10(fitted.best_low) for fitted in curves]
    assert np.median(widths) > 2


def test_collapsed_arms_leave_the_rest_as_it_is() -> None:
    values, seeds, accuracies = draw_study(peak(VALUES), 3, np.random.default_rng(5))
    collapsed = np.where(values > 2e-3, 0.1, accuracies)
    fitted, without = (
        fit_curve(values, seeds, collapsed),
        fit_curve(values[values < 2e-3], seeds[values < 2e-3], accuracies[values < 2e-3]),
    )
    assert fitted is not None
    assert without is not None
    np.testing.assert_array_equal(fitted.mean, without.mean)
    np.testing.assert_allclose(fitted.collapsed, VALUES[-2:])
    assert fitted.values.max() == pytest.approx(1e-3)


def test_a_steep_fall_does_not_widen_the_band_near_the_peak() -> None:
    gains = peak(VALUES)
    flat_end = fit_study(gains, 3, np.random.default_rng(6))
    falling = fit_study(gains - np.where(VALUES > 5e-3, 0.08, 0), 3, np.random.default_rng(6))
    near = np.abs(np.log10(flat_end.values) + 3.5) < 0.6
    assert np.median((falling.high - falling.low)[near]) < 2 * np.median((flat_end.high - flat_end.low)[near])


def test_incomplete_designs() -> None:
    values, seeds, accuracies = draw_study(peak(VALUES), 10, np.random.default_rng(7))
    kept = np.random.default_rng(8).random(len(values)) < 0.5
    fitted = fit_curve(values[kept], seeds[kept], accuracies[kept])
    assert fitted is not None
    assert fitted.gain.mean.max() > 0.003
    # Without λ = 0 and with one seed per arm, each of which is used once, there is a curve but no gain.
    alone = fit_curve(VALUES[1:], np.arange(7), 0.8 + peak(VALUES[1:]))
    assert alone is not None
    assert np.isfinite(alone.mean).all()
    assert np.isnan(alone.gain.mean).all()
    assert np.isnan(alone.zero.mean)


def test_degenerate_studies() -> None:
    ones = np.ones(4, dtype=np.int64)
    assert fit_curve(np.array([0, 1e-3, 1e-3, 1e-2]), ones, np.full(4, 0.5)) is None
    equal = fit_curve(np.array([0, 1e-4, 1e-3, 1e-2]), ones, np.full(4, 0.5))
    assert equal is not None
    np.testing.assert_allclose(equal.mean, 0.5, atol=1e-3)


def test_the_surface_of_two_axes_has_its_optimum_at_the_peak() -> None:
    axis = np.array([0, 1e-5, 1e-4, 1e-3, 1e-2])
    arms = np.array(list(itertools.product(axis, axis)))
    generator = np.random.default_rng(9)
    accuracies = 0.8 + peak(arms[:, :1]) + peak(arms[:, 1:] / 10) + generator.normal(0, 0.002, (25, 2))
    fitted = fit_curve(np.repeat(arms, 2, axis=0), np.tile([0, 1], 25), accuracies.ravel())
    assert fitted is not None
    assert fitted.values.shape == (400, 2)
    assert isinstance(fitted.best, tuple)
    assert isinstance(fitted.best_low, tuple)
    assert isinstance(fitted.best_high, tuple)
    assert fitted.best_low[0] <= 10**-3.5 <= fitted.best_high[0]
    assert fitted.best_low[1] <= 10**-2.5 <= fitted.best_high[1]
    assert float(fitted.gain.low.max()) > 0
    truth = 0.8 + peak(fitted.values[:, 0]) + peak(fitted.values[:, 1] / 10)
    assert np.mean((fitted.low <= truth) & (truth <= fitted.high)) > 0.85
