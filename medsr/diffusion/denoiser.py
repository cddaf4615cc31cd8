"""The contract of sampling, preconditioning, and the images that the slice networks see."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medsr.diffusion.conditions import fine_detail
from medsr.diffusion.network import SliceNetwork, VarianceHead

Denoiser = Callable[[Tensor, float], Tensor]
"""``(x, sigma) -> estimate of x0``: all that a sampler sees. x: the state, in units of its standard deviation."""

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -9.0, 5.0  # of the normalised residual


def mean_images(u: Tensor, scale: Tensor) -> Tensor:
    """What the mean network sees. u: (B, S, H, W), the slice in the middle of its neighbours; scale: (B,)."""
    centre = u.shape[1] // 2
    return torch.cat([u, fine_detail(u[:, centre : centre + 1]) / scale[:, None, None, None]], dim=1)


def mean_and_variance(
    mean: SliceNetwork, variance: VarianceHead | None, images: Tensor, conditions: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Normalised residual ``E[(x - u) / s | y]`` and its log variance, (B, 1, H, W) each, in float32.

    This is the denoiser at sigma = infinity: the noise channel is absent, c_skip = 0 and c_out = 1.
    """
    features = mean.features(images, conditions)
    log_variance = None
    if variance is not None:
        log_variance = variance(features.detach()).float().clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
    return mean.read_out(features).float(), log_variance


def precondition(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise of Karras et al. 2022, Table 1, with sigma_data = 1. sigma: (B,)."""
    root = (1 + sigma.square()).sqrt()
    return 1 / root.square(), sigma / root, 1 / root, sigma.log() / 4


def denoise_slices(
    sampler: SliceNetwork, x: Tensor, sigma: Tensor, images: Tensor, conditions: Tensor, autocast: torch.dtype | None
) -> Tensor:
    """Estimate of the whitened residual x0 from ``x = x0 + sigma n``. x: (B, 1, H, W), sigma: (B,).

    images: (B, C - 1, H, W), the mean's images, its correction and log standard deviation; conditions: (B, FEATURES).
    """
    c_skip, c_out, c_in, c_noise = (c[:, None, None, None] for c in precondition(sigma))
    told = torch.cat([conditions, c_noise[:, :, 0, 0]], dim=1)
    with torch.autocast(x.device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        output: Tensor = sampler(torch.cat([c_in * x, images], dim=1), told)
    return c_skip * x + c_out * output.float()


def edm_weight(sigma: Tensor) -> Tensor:
    """Loss weight ``(sigma^2 + 1) / sigma^2`` that gives every noise level the same share at the start (ibid.)."""
    return (sigma.square() + 1) / sigma.square()


def log_normal_sigma(n: int, generator: torch.Generator, mean: float = -0.5, std: float = 1.3) -> Tensor:
    """(n,) training noise levels on the generator's device, ``ln sigma ~ N(mean, std)``, at most 20."""
    return (mean + std * torch.randn(n, generator=generator, device=generator.device)).clamp(max=math.log(20.0)).exp()
