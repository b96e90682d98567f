"""Dunnett's p values and critical values compared with SciPy, published tables and Student's t."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regularization.study.analysis.dunnett import adjusted_p, critical_value


@pytest.mark.parametrize(
    ("t", "count", "df", "loading"),
    [(2.5, 6, 12, 0.5**0.5), (1.2, 3, 4, 0.5**0.5), (3.1, 2, 30, 0.3), (2.2, 5, 8, 0.85), (2.9, 11, 22, 0.5)],
)
def test_p_values_agree_with_the_multivariate_t_distribution(t: float, count: int, df: float, loading: float) -> None:
    shape = np.where(np.eye(count) > 0, 1.0, loading**2)
    inside = stats.multivariate_t.cdf(
        np.full(count, t), shape=shape, df=df, lower_limit=np.full(count, -t), maxpts=20_000 * count, random_state=0
    )
    assert adjusted_p(t, count, df, loading) == pytest.approx(1 - inside, abs=3e-4)
    assert adjusted_p(-t, count, df, loading) == adjusted_p(t, count, df, loading)


@pytest.mark.parametrize(
    ("df", "expected"),
    [
        (5, [2.57, 3.03, 3.29, 3.48, 3.62, 3.73, 3.82, 3.90, 3.97]),
        (10, [2.23, 2.57, 2.76, 2.89, 2.99, 3.07, 3.14, 3.19, 3.24]),
        (20, [2.09, 2.38, 2.54, 2.65, 2.73, 2.80, 2.86, 2.90, 2.95]),
        (1e7, [1.96, 2.21, 2.35, 2.44, 2.51, 2.57, 2.61, 2.65, 2.69]),
    ],
)
def test_critical_values_agree_with_the_published_table(df: float, expected: list[float]) -> None:
    """Dunnett 1964 (Biometrics 20), two-sided 5% points for 1 to 9 treatments and a control."""
    computed = [critical_value(0.05, count, df) for count in range(1, 10)]
    assert computed == pytest.approx(expected, abs=0.0101)


@pytest.mark.parametrize("df", [1, 2, 5.5, 40])
@pytest.mark.parametrize("loading", [0.1, 0.5**0.5, 0.9])
def test_one_comparison_is_students_t_test(df: float, loading: float) -> None:
    for t in (0.5, 2.7, 5.0):
        assert adjusted_p(t, 1, df, loading) == pytest.approx(2 * stats.t.sf(t, df), rel=1e-4)
    assert critical_value(0.05, 1, df, loading) == pytest.approx(stats.t.isf(0.025, df), rel=1e-4)


def test_small_p_values_have_small_relative_errors() -> None:
    """At 12 degrees of freedom and t = 10, p is 3.6e-7; as 1 minus a sum of 0.99…, it would be lost to rounding."""
    assert adjusted_p(10, 1, 12) == pytest.approx(2 * stats.t.sf(10, 12), rel=1e-4)
    # The largest of six statistics is at most, and nearly, six times as likely to exceed 10.
    assert 3 < adjusted_p(10, 6, 12) / adjusted_p(10, 1, 12) < 6
    assert adjusted_p(0, 6, 12) == pytest.approx(1)
    assert 0 < adjusted_p(100, 6, 12) < 1e-9


@given(
    ratio=st.floats(0.2, 3),
    count=st.integers(1, 12),
    df=st.integers(1, 60),
    loading=st.floats(0.05, 0.95),
    alpha=st.sampled_from([0.05, 0.04, 0.008, 0.001]),
)
def test_p_is_below_alpha_exactly_above_the_critical_value(
    ratio: float, count: int, df: int, loading: float, alpha: float
) -> None:
    critical = critical_value(alpha, count, float(df), loading)
    assert adjusted_p(critical, count, df, loading) == pytest.approx(alpha, abs=1e-8)
    if abs(ratio - 1) > 1e-6:
        assert (adjusted_p(ratio * critical, count, df, loading) < alpha) == (ratio > 1)


@given(count=st.integers(2, 12), df=st.integers(2, 60), loading=st.floats(0.05, 0.95))
def test_critical_values_lie_between_students_and_bonferronis(count: int, df: int, loading: float) -> None:
    critical = critical_value(0.05, count, float(df), loading)
    assert stats.t.isf(0.025, df) - 1e-3 < critical < stats.t.isf(0.025 / count, df) + 1e-3
    assert critical < critical_value(0.05, count + 1, float(df), loading)
