"""Whether a stated uncertainty is true: spread against error, and how often the stated interval holds the reference.

Errors are prediction - reference. All arrays have one shape (I, J, K); only voxels of ``mask`` count. Every function
raises ValueError for unequal shapes, an empty mask, or figures that have no meaning.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from medsr.evaluation.metrics import Voxels

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


def spread_skill(error: Voxels, std: Voxels, *, mask: Mask) -> float:
    """Root mean square of the stated ``std`` over that of the error (Fortin et al. 2014): 1 is right, less is too sure.

    error: of the mean that ``std`` belongs to. For drawn samples: the error of their mean, and ``samples_std``.
    """
    errors, stated = _inside(mask, error, std)
    return float(np.sqrt(np.mean(stated**2) / _positive(np.mean(errors**2))))


def samples_std(samples: NDArray[np.floating]) -> Values:
    """Standard deviation of the error that the mean of ``samples`` (n, I, J, K) has, as they tell it: (I, J, K).

    The spread s of n samples about their own mean understates it: the truth is one draw more, and misses that mean by
    s sqrt((n + 1) / n), s^2 being the unbiased variance (Fortin et al. 2014, equation 15).
    """
    n = len(samples)
    if n < 2:
        raise ValueError(f"{n} sample tells no spread; draw at least two")
    return np.asarray(np.std(samples, axis=0, ddof=1, dtype=np.float64) * np.sqrt((n + 1) / n))


def mse_ratio(sample_error: Voxels, mean_error: Voxels, *, mask: Mask) -> float:
    """Mean squared error of one sample over that of the posterior mean: 2 for exact samples, as truth is one of them.

    Below 2 the samples vary too little, above it they are not of this posterior.
    """
    sample, mean = _inside(mask, sample_error, mean_error)
    return float(np.mean(sample**2) / _positive(np.mean(mean**2)))


def coverage(error: Voxels, std: Voxels, *, mask: Mask, level: float = 0.9) -> float:
    """Share of voxels whose central normal interval of probability ``level`` about the mean holds the reference."""
    errors, stated = _inside(mask, error, std)
    return float(np.mean(np.abs(errors) <= _half_width(level) * stated))


def calibration_factor(error: Voxels, std: Voxels, *, mask: Mask, level: float = 0.9) -> float:
    """The least factor on ``std`` with which the interval of ``level`` covers that share of the voxels.

    It is the quantile of |error| / std at ``level`` over the normal distribution's, to be measured on validation scans
    and used on others. Raises ValueError also where so many voxels claim certainty (std 0) and err that none helps.
    """
    errors, stated = _inside(mask, error, std)
    missed = np.where(errors == 0, 0.0, np.inf)
    in_std = np.divide(np.abs(errors), stated, out=missed, where=stated > 0)
    factor = float(np.quantile(in_std, level, method="inverted_cdf")) / _half_width(level)
    if not np.isfinite(factor):
        raise ValueError(f"std is 0 but the error is not at more than {1 - level:.0%} of the voxels; no factor helps")
    return factor


def _half_width(level: float) -> float:
    """Half of the central interval of a normal distribution, in standard deviations."""
    if not 0 < level < 1:
        raise ValueError(f"level {level:g} is no probability between 0 and 1")
    return NormalDist().inv_cdf((1 + level) / 2)


def _inside(mask: Mask, first: Voxels, second: Voxels) -> tuple[Values, Values]:
    if not first.shape == second.shape == mask.shape:
        raise ValueError(f"arrays {first.shape} and {second.shape} and mask {mask.shape} need one shape")
    if not mask.any():
        raise ValueError("the mask is empty; calibration needs at least one voxel")
    return first[mask].astype(np.float64), second[mask].astype(np.float64)


def _positive(mean_square: np.floating) -> np.floating:
    if mean_square == 0:
        raise ValueError("the mean has no error at all; there is nothing to compare a spread with")
    return mean_square
