"""From volumes to what can be said of a method: means over subjects, their uncertainty, and who is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medsr.evaluation.record import METRICS

LEVEL = 0.95
RESAMPLES = 10_000

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """One metric, or one difference of metrics, over a group of volumes.

    n: volumes. subjects: people (volumes of a person are averaged first). mean, median: over subjects. low, high: 95 %
    bootstrap interval of the mean, which is the mean itself for one subject. wins: volumes with a value above 0. p: of
    the two-sided Wilcoxon signed-rank test over subjects that values lie about 0. The last two say something of
    differences, positive for the better, and nothing of a metric by itself.
    """

    n: int
    subjects: int
    mean: float
    median: float
    low: float
    high: float
    wins: int
    p: float


def summarise(
    values: Sequence[float], subjects: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> Summary:
    """values: one a volume, finite. subjects: who was scanned in each. The same input gives the same interval.

    Raises ValueError for no values, another number of subjects than of values, or a value that is not finite.
    """
    if not values or len(values) != len(subjects):
        raise ValueError(f"{len(values)} values of {len(subjects)} volumes; each volume has one, and there is one")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"not every value is finite: {[v for v in values if not math.isfinite(v)]}")
    means = subject_means(values, subjects)
    low, high = bootstrap_interval(means, seed=seed, resamples=resamples)
    return Summary(
        n=len(values),
        subjects=len(means),
        mean=float(means.mean()),
        median=float(np.median(means)),
        low=low,
        high=high,
        wins=sum(v > 0 for v in values),
        p=signed_rank_p(means),
    )


def subject_means(values: Sequence[float], subjects: Sequence[str]) -> Values:
    """The mean of each subject's values, subjects in alphabetical order, so that the order of files decides nothing."""
    by_subject: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        by_subject.setdefault(subject, []).append(value)
    # Exactly rounded sums: a subject's volumes may come in any order.
    return np.array([math.fsum(own) / len(own) for _, own in sorted(by_subject.items())])


def bootstrap_interval(
    means: Values, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile interval of the mean over subjects drawn with replacement (Efron & Tibshirani 1993, section 13.3).

    means: (N,) one a subject. With few subjects it is too narrow: of five or six, a 95 % interval covers about 85 %.
    """
    draws = np.random.default_rng(seed).integers(0, len(means), (resamples, len(means)))
    low, high = np.quantile(means[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed_rank_p(differences: Values) -> float:
    """Two-sided p of the Wilcoxon signed-rank test that differences (N,) lie about 0; differences of 0 are dropped.

    Exact up to 50 differences that have no two of one size, else by the normal approximation. The least p of n
    differences is 2 / 2^n: five subjects cannot reach 0.05.
    """
    told = differences[differences != 0]
    if not told.size:
        return 1.0
    return float(stats.wilcoxon(told).pvalue)


def improvement(metric: str, value: float, baseline: float) -> float:
    """How much better ``value`` is than ``baseline``, by what is good in ``METRICS``; negative where it is worse."""
    better = METRICS[metric].better
    if better == "higher":
        return value - baseline
    if better == "lower":
        return baseline - value
    aim = 0.0 if better == "zero" else 1.0
    return abs(baseline - aim) - abs(value - aim)


def best(metric: str, values: Mapping[str, float]) -> str:
    """The method with the best value of a metric; of equals the first. Raises ValueError for none."""
    names = list(values)
    if not names:
        raise ValueError("no method has a value; the best of none cannot be told")
    chosen = names[0]
    for name in names[1:]:
        if improvement(metric, values[name], values[chosen]) > 0:
            chosen = name
    return chosen
