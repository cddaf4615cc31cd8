"""The three losses: mean (L2), log variance (Gaussian likelihood), sampler (EDM on the whitened residual)."""

from __future__ import annotations

import torch
from torch import Tensor

from medsr.diffusion.denoiser import (
    denoise_slices,
    edm_weight,
    log_normal_sigma,
    mean_and_variance,
    mean_images,
)
from medsr.diffusion.network import SliceNetwork, VarianceHead


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, 1, H, W) values where mask is 1."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def residual(u: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """``r = (x - u) / s`` of the middle slice, (B, 1, H, W)."""
    centre = u.shape[1] // 2
    return (x - u[:, centre : centre + 1]) / scale[:, None, None, None]


def sample_weight(r: Tensor, mask: Tensor) -> Tensor:
    """(B, 1, 1, 1) weight of a sample's squared error. r, mask: (B, 1, H, W).

    A sample whose residual is larger than its predicted scale is divided by its own size instead: a badly predicted
    scale must not rule the gradient.
    """
    size = ((r.square() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1)).sqrt()
    return 1 / size.clamp_min(1.0).square()[:, None, None, None]


def mean_loss(
    mean: SliceNetwork,
    u: Tensor,
    x: Tensor,
    mask: Tensor,
    conditions: Tensor,
    scale: Tensor,
    autocast: torch.dtype | None,
) -> Tensor:
    """Squared error of the normalised residual, whose minimiser is ``E[r | y]``; weighted by ``sample_weight``."""
    with torch.autocast(u.device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        estimate, _ = mean_and_variance(mean, None, mean_images(u, scale), conditions)
    r = residual(u, x, scale)
    return masked_mean((estimate - r).square() * sample_weight(r, mask), mask)


def variance_loss(
    mean: SliceNetwork,
    variance: VarianceHead,
    u: Tensor,
    x: Tensor,
    mask: Tensor,
    conditions: Tensor,
    scale: Tensor,
    autocast: torch.dtype | None,
) -> Tensor:
    """Gaussian negative log likelihood ``(v + (r - m)^2 exp(-v)) / 2``, the mean held fixed."""
    with torch.autocast(u.device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        estimate, v = mean_and_variance(mean, variance, mean_images(u, scale), conditions)
    if v is None:
        raise ValueError("the variance stage needs a variance head")
    error = (residual(u, x, scale) - estimate.detach()).square()
    return masked_mean((v + error * (-v).exp()) / 2, mask)


def sampler_loss(
    mean: SliceNetwork,
    variance: VarianceHead,
    sampler: SliceNetwork,
    u: Tensor,
    x: Tensor,
    mask: Tensor,
    conditions: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    autocast: torch.dtype | None,
) -> Tensor:
    """EDM loss on ``w = (r - m) exp(-v / 2)`` (Karras et al. 2022; CorrDiff, Mardani et al. 2023); sigma_data = 1."""
    images = mean_images(u, scale)
    with torch.no_grad(), torch.autocast(u.device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        m, v = mean_and_variance(mean, variance, images, conditions)
    if v is None:
        raise ValueError("the sampler stage needs a variance head")
    w = ((residual(u, x, scale) - m) * (-v / 2).exp()).clamp(-6, 6)
    sigma = log_normal_sigma(len(u), generator)
    noise = torch.randn(w.shape, generator=generator, device=u.device)
    noisy = w + sigma[:, None, None, None] * noise
    told = torch.cat([images, m, v / 2], dim=1)
    estimate = denoise_slices(sampler, noisy, sigma, told, conditions, autocast)
    return masked_mean(edm_weight(sigma)[:, None, None, None] * (estimate - w).square(), mask)
