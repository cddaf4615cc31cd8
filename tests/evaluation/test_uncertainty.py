"""Stated uncertainties whose truth is known: Gaussian errors, and samples of the posterior that truth is one of."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsr.evaluation.uncertainty import calibration_factor, coverage, mse_ratio, samples_std, spread_skill

SHAPE = (60, 60, 60)
NORMAL = NormalDist()


def stated(factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Errors with standard deviation ``factor`` times the stated one, which varies tenfold over the volume."""
    rng = np.random.default_rng(seed)
    std = np.exp(rng.uniform(0, np.log(10), SHAPE))
    return factor * std * rng.normal(size=SHAPE), std


def everywhere() -> np.ndarray:
    return np.ones(SHAPE, bool)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_gaussian_errors(factor, level):
    error, std = stated(factor)
    z = NORMAL.inv_cdf((1 + level) / 2)
    share = 2 * NORMAL.cdf(z / factor) - 1
    assert spread_skill(error, std, mask=everywhere()) == pytest.approx(1 / factor, rel=0.02)
    assert coverage(error, std, mask=everywhere(), level=level) == pytest.approx(share, abs=0.005)
    assert calibration_factor(error, std, mask=everywhere(), level=level) == pytest.approx(factor, rel=0.02)


@settings(max_examples=25)
@given(level=st.floats(0.05, 0.99), seed=st.integers(0, 999), n=st.integers(1, 400))
def test_the_factor_is_the_least_that_covers(level, seed, n):
    """Whatever the distribution: with it the share is reached, with a little less it is not."""
    rng = np.random.default_rng(seed)
    error, std = rng.standard_cauchy((n, 1, 1)), rng.exponential(size=(n, 1, 1))
    mask = np.ones(error.shape, bool)
    factor = calibration_factor(error, std, mask=mask, level=level)
    assert coverage(error, (1 + 1e-9) * factor * std, mask=mask, level=level) >= level
    assert coverage(error, (1 - 1e-9) * factor * std, mask=mask, level=level) < level


@pytest.mark.parametrize("n", [2, 5, 20])
def test_samples_that_truth_is_one_of(n):
    """Their mean errs as their spread says, and one sample errs by 2 / (1 + 1/n) times as much as their mean."""
    rng = np.random.default_rng(1)
    mean, sd = rng.normal(size=SHAPE), rng.uniform(0.5, 3, SHAPE)
    truth, *samples = (mean + sd * rng.normal(size=SHAPE) for _ in range(n + 1))
    error = np.mean(samples, axis=0) - truth
    assert spread_skill(error, samples_std(np.stack(samples)), mask=everywhere()) == pytest.approx(1, rel=0.02)
    assert mse_ratio(samples[0] - truth, error, mask=everywhere()) == pytest.approx(2 / (1 + 1 / n), rel=0.02)
    assert mse_ratio(samples[0] - truth, mean - truth, mask=everywhere()) == pytest.approx(2, rel=0.02)


def test_only_the_mask_counts():
    error, std = stated(1.0)
    mask = everywhere()
    mask[30:] = False
    wild = np.where(mask, error, 1e6)
    for metric in (spread_skill, coverage, calibration_factor):
        assert metric(wild, std, mask=mask) == metric(error[:30], std[:30], mask=mask[:30])
    assert mse_ratio(wild, std, mask=mask) == mse_ratio(error[:30], std[:30], mask=mask[:30])


def test_certainty_that_is_right_is_covered_and_certainty_that_is_wrong_is_not():
    error, std = np.zeros((10, 1, 1)), np.zeros((10, 1, 1))
    mask = np.ones(error.shape, bool)
    assert coverage(error, std, mask=mask) == 1
    error[:3], std[:2] = 2.0, 1.0  # one voxel in ten claims certainty and errs
    assert coverage(error, std, mask=mask) == pytest.approx(0.7)
    assert calibration_factor(error, std, mask=mask) == pytest.approx(2 / NORMAL.inv_cdf(0.95))
    with pytest.raises(ValueError, match="no factor helps"):
        calibration_factor(error, std, mask=mask, level=0.95)


@pytest.mark.parametrize(
    ("error", "mask", "message"),
    [
        (np.ones((4, 4, 5)), np.ones((4, 4, 4), bool), "one shape"),
        (np.ones((4, 4, 4)), np.zeros((4, 4, 4), bool), "empty"),
        (np.zeros((4, 4, 4)), np.ones((4, 4, 4), bool), "no error"),
    ],
)
def test_refusals(error, mask, message):
    with pytest.raises(ValueError, match=message):
        spread_skill(error, np.ones((4, 4, 4)), mask=mask)


def test_what_is_no_level_and_no_spread():
    error = np.ones((4, 4, 4))
    for level in (0.0, 1.0, 90.0):
        with pytest.raises(ValueError, match="level"):
            coverage(error, error, mask=error > 0, level=level)
    with pytest.raises(ValueError, match="at least two"):
        samples_std(error[None])
