"""Pictures of what a training has reached: the same few samples of the training volumes each time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medsr.diffusion.conditions import residual_scale
from medsr.diffusion.denoiser import denoise_slices, mean_and_variance, mean_images
from medsr.diffusion.sampler import sample_heun
from medsr.diffusion.schedule import karras
from medsr.image.render import Picture, contact_sheet, display_window, render_slice, stack_sheets
from medsr.training.data import Batch, Source, batch_of_draws, scan_of_draws
from medsr.training.draws import draw_batch
from medsr.training.networks import Networks
from medsr.training.setup import TrainingConfig

SAMPLES = 4
SEED = 2_000_003  # added to the configuration's, so that no training batch is shown
STEPS = 10  # of the sampler
ERROR_GAIN = 5
HEIGHT = 192  # pixels of a panel, at least


def preview(
    sources: Sequence[Source],
    config: TrainingConfig,
    networks: Networks,
    scale: Sequence[float],
    *,
    with_sample: bool,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Picture:
    """A row for each sample: scan, linear estimate, mean, sample if wanted, truth, error of the mean times ERROR_GAIN.

    scale: coefficients of the residual's scale.
    """
    draws = draw_batch(sources, 0, size=SAMPLES, patch=config.patch, context=config.context, seed=config.seed + SEED)
    batch = batch_of_draws(draws, config.patch, device)
    size = residual_scale(batch.gradient, batch.conditions, scale)
    images = {"scan": scan_of_draws(draws, config.patch, device)}
    images |= estimates(networks, batch, size, with_sample=with_sample, dtype=dtype)
    truth = batch.x * batch.mask
    rows = []
    for i in range(SAMPLES):
        shown = {name: (image * batch.mask)[i, 0].cpu().numpy() for name, image in images.items()}
        window = display_window(truth[i, 0].cpu().numpy(), "MR")
        panels = {name: render_slice(image, window) for name, image in shown.items()}
        error = (images["mean"] - batch.x).abs() * batch.mask
        panels["truth"] = render_slice(truth[i, 0].cpu().numpy(), window)
        span = (window[1] - window[0]) / ERROR_GAIN
        panels[f"error x {ERROR_GAIN}"] = render_slice(error[i, 0].cpu().numpy(), (0.0, span))
        rows.append(contact_sheet([(p, (1.0, 1.0)) for p in panels.values()], list(panels), HEIGHT))
    return stack_sheets(rows)


@torch.no_grad()
def estimates(
    networks: Networks, batch: Batch, scale: Tensor, *, with_sample: bool, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """What the networks make of a batch, (B, 1, P, P) each: ``linear``, ``mean`` and, if wanted, ``sample``.

    scale: (B,) of the residual.
    """
    images = mean_images(batch.u, scale)
    with torch.autocast(batch.u.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        mean, log_variance = mean_and_variance(networks.mean, networks.variance, images, batch.conditions)
    centre = batch.u.shape[1] // 2
    linear = batch.u[:, centre : centre + 1]
    unit = scale[:, None, None, None]
    made = {"linear": linear, "mean": linear + unit * mean}
    if with_sample and log_variance is not None:
        told = torch.cat([images, mean, log_variance / 2], dim=1)

        def denoise(w: Tensor, sigma: float) -> Tensor:
            level = torch.full((len(w),), sigma, device=w.device)
            return denoise_slices(networks.sampler, w, level, told, batch.conditions, dtype)

        sigmas = karras(STEPS)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED)).to(mean.device)
        w = sample_heun(denoise, noise * math.hypot(1, sigmas[0]), sigmas)
        made["sample"] = made["mean"] + unit * (log_variance / 2).exp() * w
    return made
