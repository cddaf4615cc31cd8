"""Posterior samples of one pass: the whitened residual, drawn by a sampler whose every estimate fits the scan."""

from __future__ import annotations

import math
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from medsr.degradation import Degradation
from medsr.diffusion.conditions import slice_correlation
from medsr.diffusion.denoiser import denoise_slices, mean_images
from medsr.diffusion.network import SliceNetwork
from medsr.diffusion.sampler import SAMPLERS, Noise, coupled, slice_generators, white
from medsr.diffusion.schedule import sigmas_for
from medsr.diffusion.slices import normal_axis, stacked, whole_or_tiled
from medsr.plan import Plan, evaluations_of_a_sample
from medsr.runner import Runner, Told, over_slices

SMALLEST = 1e-6  # deviation, in normalised units, below which a voxel is certain
COUPLING = 4  # power of the correlation of neighbouring slices' known detail that gives that of the unknown one


def draw_sample(
    y: Tensor,
    A: Degradation,
    u: Tensor,
    m: Tensor,
    deviation: Tensor,
    scale: float,
    lam: float,
    tolds: list[Told],
    plan: Plan,
    runner: Runner,
    *,
    sample: int,
    number: int,
) -> Tensor:
    """One posterior sample: the whitened residual is drawn with the chosen sampler; every estimate is consistent.

    m, deviation: as of ``_mean``, in units of scale. The sample is ``u + scale (m + deviation w)``.
    """
    device, request = runner.model.device, plan.request
    network = runner.model.sampler
    if network is None:
        raise ValueError("the model has no sampler")
    amplitude = deviation * scale
    mean = torch.add(u, m, alpha=scale)
    log_deviation = deviation.log()
    sigmas = sigmas_for(request.sampler, request.steps)
    planes = cycle(tolds)  # in turn: half the evaluations of an average over all at every step

    def denoise(w: Tensor, sigma: float) -> Tensor:
        told = next(planes)
        level = torch.tensor([sigma], device=device)
        run = partial(_denoised_slices, network=network, sigma=level, told=told.on(device), autocast=runner.autocast)
        ratio = scale / float(told.scale)
        volumes = [u, w, m * ratio, log_deviation + math.log(ratio)]
        (estimate,) = over_slices(volumes, told.plane, [0.0], runner, run, 1 / evaluations_of_a_sample(request))
        runner.evaluations += 1
        if plan.consistency == "off":
            return estimate
        # the estimate's own error shrinks with sigma, and with it the weight of noisy data (DDNM+, Wang et al. 2023)
        weight = lam * (1 + sigma**2) / sigma**2
        x = torch.addcmul(mean, amplitude, estimate)
        x.add_(A.pinv(y - A(x), weight))
        return torch.where(amplitude > SMALLEST, (x - mean) / amplitude.clamp_min(SMALLEST), estimate)

    noise = _noise(u, tolds, request.seed, sample * 64 + number)
    with runner.clock("network"):
        start = noise(u) * math.sqrt(1 + sigmas[0] ** 2)  # white data of unit variance under that much noise
        w = SAMPLERS[request.sampler](denoise, start, sigmas, noise)
    x = mean.addcmul_(amplitude, w)
    if plan.consistency != "off" and lam == 0:  # the last step of a sampler may leave the projected estimate
        x.add_(A.pinv(y - A(x)))
    return x


def _denoised_slices(
    images: Tensor,
    state: Tensor,
    correction: Tensor,
    log_deviation: Tensor,
    *,
    network: SliceNetwork,
    sigma: Tensor,
    told: Told,
    autocast: torch.dtype | None,
) -> Tensor:
    """Estimate of the whitened residual. images: (B, S, H, W) of u, the others (B, 1, H, W); sigma: (1,)."""

    def tile(part: Tensor) -> Tensor:
        many = len(part)
        conditions = told.conditions.expand(many, -1)
        return denoise_slices(network, part[:, :1], sigma.expand(many), part[:, 1:], conditions, autocast)

    seen = torch.cat([state, mean_images(images, told.scale.expand(len(images))), correction, log_deviation], dim=1)
    return whole_or_tiled(tile, seen.contiguous(memory_format=torch.channels_last))


def _noise(u: Tensor, tolds: list[Told], seed: int, stream: int) -> Noise:
    """Noise for a pass. Slices of a single plane would flicker if theirs were independent; two planes share a state."""
    noise = white(slice_generators(seed, len(u), stream))
    if len(tolds) > 1:
        return noise
    plane = tolds[0].plane
    return coupled(noise, normal_axis(plane), slice_correlation(stacked(u, plane)) ** COUPLING)
