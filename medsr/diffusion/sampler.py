"""Samplers: plain functions that carry noise to a sample of the data by calling a denoiser at decreasing noise levels.

All share one signature. ``x`` is noise of standard deviation ``sigmas[0]``, in units of sigma_data, of any shape (the
state of a volume is (I, J, K)); ``sigmas`` decrease and end in 0; the result is the estimate of x0, same shape.
"""

# ruff: noqa: ARG001  the noise of the deterministic samplers: all have one signature

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

from medsr.errors import ConfigError

if TYPE_CHECKING:
    from medsr.diffusion.denoiser import Denoiser
    from medsr.request import SamplerName

Generators: TypeAlias = Generator | Sequence[Generator]  # a sequence: one for each index of the first axis
Noise: TypeAlias = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape, device and dtype of a tensor; every call draws anew."""


def sample_euler(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise = torch.randn_like) -> Tensor:
    """Integrate the probability-flow ODE with Euler's method, which in sigma is DDIM (Song et al. 2021, equation 12).

    Deterministic: no noise is drawn. Costs len(sigmas) - 1 evaluations.
    """
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        x = x + (sigma_next - sigma) * slope
    return x


def sample_heun(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise = torch.randn_like) -> Tensor:
    """Integrate the probability-flow ODE with Heun's method (Karras et al. 2022, Algorithm 1, no churn).

    Deterministic: no noise is drawn. Costs 2 * len(sigmas) - 3 evaluations.
    """
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


def sample_dpmpp2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise = torch.randn_like) -> Tensor:
    """DPM-Solver++(2M) in lambda = -ln sigma (Lu et al. 2022, Algorithm 2, with alpha = 1).

    The first step and the step to 0 are of first order. Deterministic: no noise is drawn. Costs
    len(sigmas) - 1 evaluations.
    """
    previous: Tensor | None = None
    h_previous = math.nan
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0
        h = math.log(sigma / sigma_next)
        # the estimate at the middle of the step, extrapolated from this one and the one before
        middle = x0 if previous is None else x0 + (x0 - previous) * (h / (2 * h_previous))
        x = (sigma_next / sigma) * x - math.expm1(-h) * middle
        previous, h_previous = x0, h
    return x


def sample_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise = torch.randn_like,
    variance: Literal["large", "small"] = "large",
) -> Tensor:
    """Ancestral sampling: DDPM (Ho et al. 2020, Algorithm 2), SR3's iterative refinement (Saharia et al. 2021, eq. 11).

    Written for x = x_t / sqrt(alpha_bar_t). Every step draws x_next from the gaussian posterior of Ho et al., equation
    7. ``large`` is their beta_t, SR3's choice: exact at any number of steps for gaussian data of standard deviation 1,
    as the whitened residual is. ``small`` is their beta-tilde_t, exact when the data are the denoiser's answer itself.
    Costs len(sigmas) - 1 evaluations.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0
        ratio = (sigma_next / sigma) ** 2
        data = (1 + sigma_next**2) / (1 + sigma**2)
        spread = math.sqrt((sigma**2 - sigma_next**2) * (data if variance == "large" else ratio))
        x = x0 + ratio * (x - x0) + spread * noise(x)
    return x


SAMPLERS: dict[SamplerName, Callable[[Denoiser, Tensor, Sequence[float], Noise], Tensor]] = {
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp2m": sample_dpmpp2m,
    "ancestral": sample_ancestral,
}


def white(generator: Generators) -> Noise:
    """Independent noise: the same numbers from the same seed on every device.

    Drawn on the CPU in float32. With one generator for each index of the first axis, a slice's noise depends neither
    on the other slices nor on how many there are. Raises ValueError when their number is another.
    """

    def noise(x: Tensor) -> Tensor:
        if isinstance(generator, Generator):
            drawn = torch.randn(x.shape, generator=generator)
        else:
            if len(generator) != len(x):
                raise ValueError(f"{len(generator)} generators for {len(x)} slices; give one for each")
            drawn = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generator])
        return drawn.to(device=x.device, dtype=x.dtype)

    return noise


def coupled(noise: Noise, axis: int, correlation: float) -> Noise:
    """Noise in which neighbours along ``axis`` have a correlation: a first-order autoregression.

    Across that axis it is as white as ``noise``, so what is drawn from it slice by slice keeps its distribution, and
    slices differ from their neighbours as much as they should. correlation: 0 (independent) to below 1. Raises
    ValueError beyond.
    """
    if not 0 <= correlation < 1:
        raise ValueError(f"correlation {correlation} of neighbouring slices; give 0 to below 1")
    if correlation == 0:
        return noise

    def drawn(x: Tensor) -> Tensor:
        fresh = noise(x)
        slices = fresh.unbind(axis)  # views: what follows changes ``fresh``
        innovation = math.sqrt(1 - correlation**2)
        for before, here in pairwise(slices):
            here.mul_(innovation).add_(before, alpha=correlation)
        return fresh

    return drawn


def slice_generators(seed: int, slices: int, sample: int = 0) -> tuple[Generator, ...]:
    """One generator for each slice, their streams independent of each other and of those of another seed or sample.

    Raises ConfigError when the seed is negative.
    """
    if seed < 0:
        raise ConfigError(f"seed {seed}; give a whole number from 0 up")
    states = (np.random.SeedSequence(seed, spawn_key=(sample, index)) for index in range(slices))
    return tuple(Generator().manual_seed(int(state.generate_state(1, np.uint64)[0])) for state in states)
