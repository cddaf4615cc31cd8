"""Noise schedules: decreasing sequences of noise levels that end in 0, in units of the data's standard deviation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsr.errors import ConfigError

if TYPE_CHECKING:
    from medsr.request import SamplerName

# Samples start from the marginal of unit data under noise, so that the first level need not drown them; below the last
# one little is left to remove. Wider ranges cost accuracy where there are few steps.
SIGMA_MIN, SIGMA_MAX = 0.05, 10.0


def karras(
    steps: int, *, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> tuple[float, ...]:
    """Noise levels equally spaced in sigma^(1/rho), then 0 (Karras et al. 2022, equation 5).

    steps: number of levels above 0, so of sampler steps. Returns steps + 1 values. Raises ConfigError when steps < 1
    or the levels do not satisfy 0 < sigma_min < sigma_max.
    """
    _check_steps(steps)
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(f"noise levels from {sigma_max:g} to {sigma_min:g}; give 0 < sigma_min < sigma_max")
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps) ** rho
    ramp[0] = sigma_max  # the power of the root is not exact
    return _ending_in_zero(ramp)


def linear(
    steps: int, *, sigma_max: float = SIGMA_MAX, levels: int = 1000, betas: tuple[float, float] = (1e-4, 0.02)
) -> tuple[float, ...]:
    """The variance-preserving schedule with linear beta (Ho et al. 2020, section 4), written as sigmas.

    steps: sampler steps, spread evenly over those of the ``levels`` training levels that are at most sigma_max, both
    ends included. Returns steps + 1 values. Raises ConfigError when there are not as many levels as steps.
    """
    beta = np.linspace(*betas, levels)
    return _subsample(sigmas_from_alpha_bar(np.cumprod(1 - beta)), steps, sigma_max)


def cosine(
    steps: int, *, sigma_max: float = SIGMA_MAX, levels: int = 1000, offset: float = 0.008, max_beta: float = 0.999
) -> tuple[float, ...]:
    """The variance-preserving cosine schedule (Nichol & Dhariwal 2021, equation 17), written as sigmas.

    beta is clipped at ``max_beta`` as in the paper. Arguments and result otherwise as in ``linear``.
    """
    t = np.arange(levels + 1) / levels
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], max_beta)
    return _subsample(sigmas_from_alpha_bar(np.cumprod(1 - beta)), steps, sigma_max)


def sigmas_from_alpha_bar(alpha_bar: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The noise level of x / sqrt(alpha_bar) where x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n."""
    sigmas: NDArray[np.floating[Any]] = np.sqrt((1 - alpha_bar) / alpha_bar)
    return sigmas


def sigmas_for(sampler: SamplerName, steps: int, *, sigma_max: float = SIGMA_MAX) -> tuple[float, ...]:
    """The schedule that goes with a sampler: cosine for the ancestral one, Karras for those that solve the ODE."""
    return cosine(steps, sigma_max=sigma_max) if sampler == "ancestral" else karras(steps, sigma_max=sigma_max)


def _subsample(ladder: NDArray[np.floating[Any]], steps: int, sigma_max: float) -> tuple[float, ...]:
    """Spread ``steps`` evenly by index over the increasing levels that do not exceed sigma_max."""
    _check_steps(steps)
    kept = ladder[ladder <= sigma_max]
    if steps > len(kept):
        raise ConfigError(f"{steps} sampling steps; this noise schedule has {len(kept)} levels, ask for at most that")
    index = np.linspace(len(kept) - 1, 0, steps).round().astype(int)
    return _ending_in_zero(kept[index])


def _ending_in_zero(sigmas: Iterable[float]) -> tuple[float, ...]:
    return (*(float(sigma) for sigma in sigmas), 0.0)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"{steps} sampling steps; a sampler needs at least 1")
