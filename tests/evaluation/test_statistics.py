"""Means over subjects, intervals and tests against closed forms and scipy; noise ceilings are in test_noise.py."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medsr.evaluation.record import METRICS
from medsr.evaluation.statistics import (
    best,
    bootstrap_interval,
    improvement,
    signed_rank_p,
    summarise,
)


def test_a_subject_with_many_volumes_counts_once():
    summary = summarise([1.0, 2.0, 3.0, 10.0, -4.0], ["a", "a", "a", "b", "c"])
    assert (summary.n, summary.subjects, summary.wins) == (5, 3, 4)
    assert summary.mean == pytest.approx((2 + 10 - 4) / 3)
    assert summary.median == 2
    assert summary.low == pytest.approx(-4)  # all three draws of c: 1 in 27, more than 2.5 %
    assert summary.high == pytest.approx(10)


def test_one_subject_has_no_interval():
    summary = summarise([1.5, 2.5], ["a", "a"])
    assert (summary.mean, summary.low, summary.high, summary.p) == (2, 2, 2, 1)


@given(
    values=st.lists(st.tuples(st.floats(-50, 50), st.sampled_from("abcde")), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_the_volumes_changes_nothing(values, order):
    shuffled = values.copy()
    order.shuffle(shuffled)
    one, other = (summarise([v for v, _ in x], [s for _, s in x], resamples=200) for x in (values, shuffled))
    assert one == other
    assert one.low <= one.mean + 1e-9
    assert one.mean <= one.high + 1e-9


def test_interval_equals_scipys_bootstrap():
    means = np.random.default_rng(3).gamma(2.0, size=17)
    oracle = stats.bootstrap((means,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    low, high = bootstrap_interval(means)
    assert (low, high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.02 * (high - low))


def test_interval_of_many_subjects_is_the_normal_one():
    means = np.random.default_rng(0).normal(2.0, 3.0, 4000)
    half = 1.96 * means.std() / np.sqrt(len(means))
    assert bootstrap_interval(means, resamples=4000) == pytest.approx(
        (means.mean() - half, means.mean() + half), abs=0.01
    )


def test_the_seed_decides():
    means = np.arange(9.0) ** 2
    assert bootstrap_interval(means) == bootstrap_interval(means)
    assert bootstrap_interval(means, seed=1, resamples=99) != bootstrap_interval(means, seed=2, resamples=99)


@pytest.mark.parametrize("n", [1, 3, 5, 6, 10])
def test_least_p_of_a_signed_rank_test(n):
    assert signed_rank_p(np.arange(1.0, n + 1)) == pytest.approx(2 / 2**n)


def test_signed_rank_p_counts_all_signs():
    """The definition: of all 2^n signs, those whose sum of positive ranks is as far from its mean."""
    differences = np.array([0.3, -1.2, 2.2, 0.9, -0.1, 1.7, 3.1])
    ranks = stats.rankdata(np.abs(differences))
    middle = ranks.sum() / 2
    sums = np.array([ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=len(ranks))])
    expected = np.mean(np.abs(sums - middle) >= abs(ranks[differences > 0].sum() - middle))
    assert signed_rank_p(differences) == pytest.approx(expected)


def test_equal_pairs_say_nothing():
    assert signed_rank_p(np.zeros(4)) == 1
    assert signed_rank_p(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == pytest.approx(2 / 2**6)


@given(value=st.floats(-10, 10), baseline=st.floats(-10, 10), metric=st.sampled_from(sorted(METRICS)))
def test_improvement_is_antisymmetric_and_knows_its_aim(value, baseline, metric):
    gain = improvement(metric, value, baseline)
    assert gain == -improvement(metric, baseline, value)
    aim = {"higher": 1e6, "lower": -1e6, "zero": 0.0, "one": 1.0}[METRICS[metric].better]
    assert improvement(metric, aim, baseline) >= 0


def test_best():
    assert best("psnr", {"cubic": 30.0, "linear MMSE": 31.0, "nearest": 28.0}) == "linear MMSE"
    assert best("hfen", {"cubic": 0.4, "nearest": 0.6}) == "cubic"
    assert best("bias_soft", {"a": -3.0, "b": 1.0}) == "b"
    assert best("between_slices", {"a": 0.5, "b": 1.2}) == "b"
    assert best("psnr", {"first": 30.0, "second": 30.0}) == "first"


@pytest.mark.parametrize(
    ("values", "subjects", "message"),
    [
        ([], [], "0 values"),
        ([1.0], ["a", "b"], "1 values of 2"),
        ([1.0, float("inf")], ["a", "b"], "finite"),
        ([float("nan")], ["a"], "finite"),
    ],
)
def test_refusals(values, subjects, message):
    with pytest.raises(ValueError, match=message):
        summarise(values, subjects)
    with pytest.raises(ValueError, match="best of none"):
        best("psnr", {})
