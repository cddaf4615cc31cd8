"""One pass of the model over a volume: linear estimate, slice networks on every plane, consistency, sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from medsr.degradation import Degradation, linear_mmse
from medsr.diffusion.conditions import (
    FOREGROUND,
    TOLD_KINDS,
    ScanStatistics,
    condition_vector,
    estimate_noise,
    gradient_rms,
    log_roughness,
    noise_over_signal,
    residual_scale,
)
from medsr.diffusion.denoiser import MIN_LOG_VARIANCE, mean_and_variance, mean_images
from medsr.diffusion.slices import Plane, normal_axis, stacked, whole_or_tiled
from medsr.image.profile import AxisProfiles
from medsr.passes import Pass
from medsr.plan import Plan
from medsr.runner import Runner, Told, over_slices
from medsr.sampling import draw_sample

STATISTICS_SLICES = 48  # evenly spaced, of those of a plane
NOISY = 0.003  # share of the range above which even a known profile is projected softly
UNKNOWN_WEIGHT = 0.6  # of data whose profile is assumed: between k-space crops (0 is best) and blur (infinity)


@dataclass(frozen=True, eq=False)
class PassResult:
    """x and variance on the pass's target grid; noise: of the input; spread: RMS of the expected error. Normalised."""

    x: Tensor
    variance: Tensor | None
    noise: float
    spread: float


def run_pass(y: Tensor, step: Pass, plan: Plan, runner: Runner, *, sample: int | None, number: int) -> PassResult:
    """One pass. y: on ``step.source``, normalised. sample: None for the posterior mean, else which sample."""
    with runner.clock("linear"):
        A = Degradation.between(step.target, step.source, step.profiles)
        u, noise, tolds = _linear(y, A, step, runner)
    keep = sample is not None or plan.request.uncertainty
    with runner.clock("network"):
        m, deviation, scale, spread = _mean(u, tolds, runner, keep_deviation=keep)
    runner.noise = noise if math.isnan(runner.noise) else runner.noise
    lam = weight_of_consistency(plan, step.profiles, noise, spread)
    if sample is None or deviation is None:
        x = u.add_(m, alpha=scale)
        if plan.consistency != "off":
            with runner.clock("consistency"):
                x.add_(A.pinv(y - A(x), lam))
    else:
        x = draw_sample(y, A, u, m, deviation, scale, lam, tolds, plan, runner, sample=sample, number=number)
    return PassResult(x, None if deviation is None else deviation.mul_(scale).square_(), noise, spread)


def whitened_pass(y: Tensor, step: Pass, runner: Runner) -> tuple[Tensor, Tensor, Tensor, Plane]:
    """u, posterior mean before any projection, expected error of it, and the first plane of one pass; for studies."""
    A = Degradation.between(step.target, step.source, step.profiles)
    u, _, tolds = _linear(y, A, step, runner)
    m, deviation, scale, _ = _mean(u, tolds, runner, keep_deviation=True)
    if deviation is None:
        raise ValueError("no deviation was kept")
    return u, torch.add(u, m, alpha=scale), deviation.mul_(scale), tolds[0].plane


def weight_of_consistency(plan: Plan, profiles: AxisProfiles, noise: float, spread: float) -> float:
    """lambda of the projection: 0 for an exact one, else error variance of the data over that of the estimate.

    An exact projection that nobody asked for is relaxed when the scan is noisy: it would copy the noise.
    """
    if plan.request.consistency == "hard":
        return 0.0
    data = (noise / max(spread, 1e-6)) ** 2 if noise > NOISY else 0.0
    return data if all(p.known for p in profiles) else max(data, UNKNOWN_WEIGHT)


def _linear(y: Tensor, A: Degradation, step: Pass, runner: Runner) -> tuple[Tensor, float, list[Told]]:
    """Linear estimate u, the noise of y, and what each plane is told."""
    measured = [(plane, *_coarse_statistics(y, plane, A)) for plane in step.planes]
    noise = float(torch.stack([noise for _, noise, _, _ in measured]).mean())
    ratios = {
        a: float(torch.stack([lam[0, plane.index(a)] for plane, _, _, lam in measured if a in plane]).mean())
        for a, _ in A.scaled
    }
    u = linear_mmse(y, A, ratios)
    tolds = []
    for plane, own_noise, roughness, _ in measured:
        slices = _subsampled(u, plane)
        gradient = gradient_rms(slices, (slices > FOREGROUND).float())
        statistics = ScanStatistics(own_noise, roughness, gradient)
        tolds.append(_told(plane, A, step, statistics, runner))
    return u.contiguous(), noise, tolds


def _subsampled(x: Tensor, plane: Plane) -> Tensor:
    """(1, S, H, W): evenly spaced slices of a plane, as channels."""
    slices = stacked(x, plane)
    index = torch.linspace(0, len(slices) - 1, min(STATISTICS_SLICES, len(slices))).round().long()
    return slices[index][None].contiguous()


def _coarse_statistics(y: Tensor, plane: Plane, A: Degradation) -> tuple[Tensor, Tensor, Tensor]:
    slices = _subsampled(y, plane)
    valid = torch.ones_like(slices)
    foreground = (slices > FOREGROUND).float()
    noise = estimate_noise(slices, valid)
    factors = torch.tensor([[A.axes[a].factor if A.axes[a] else 1.0 for a in plane]])  # type: ignore[union-attr]
    return noise, log_roughness(slices, foreground), noise_over_signal(slices, foreground, noise, factors)


def _told(plane: Plane, A: Degradation, step: Pass, statistics: ScanStatistics, runner: Runner) -> Told:
    axes = [A.axes[a] for a in plane]
    profiles = [step.profiles[a] for a in plane]
    factors = torch.tensor([[1.0 if axis is None else axis.factor for axis in axes]])
    kinds = torch.tensor([[TOLD_KINDS.index(p.kind) if p.kind in TOLD_KINDS else 0 for p in profiles]])
    widths = torch.tensor([[p.width for p in profiles]])
    spacing = step.target.spacing
    distance = spacing[normal_axis(plane)] / math.sqrt(spacing[plane[0]] * spacing[plane[1]])
    unknown = any(not p.known for p, axis in zip(profiles, axes, strict=True) if axis is not None)
    conditions = condition_vector(
        factors,
        kinds,
        widths,
        torch.tensor([float(unknown)]),
        torch.tensor([float(runner.modality == "CT")]),
        torch.tensor([distance]),
        statistics,
    ).float()
    scale = residual_scale(statistics.gradient, conditions, runner.model.card.residual_scale)
    return Told(plane, conditions, scale)


def _mean(
    u: Tensor, tolds: list[Told], runner: Runner, *, keep_deviation: bool
) -> tuple[Tensor, Tensor | None, float, float]:
    """Mean correction and, if kept, its standard deviation in units of the (common) scale; the scale; the RMS error.

    Both are averaged over the planes (the deviation geometrically).
    """
    scale = math.exp(sum(float(t.scale.log()) for t in tolds) / len(tolds))
    total: Tensor | None = None
    logs: Tensor | None = None
    squares = 0.0
    for told in tolds:
        error: list[float] = []
        run = partial(_mean_of_slices, told=told.on(runner.model.device), runner=runner, error=error)
        air = [0.0, MIN_LOG_VARIANCE / 2] if keep_deviation else [0.0]
        parts = over_slices([u], told.plane, air, runner, run, 1 / len(tolds))
        ratio = float(told.scale) / scale
        parts[0].mul_(ratio / len(tolds))
        total = parts[0] if total is None else total.add_(parts[0])
        if keep_deviation:
            parts[1].add_(math.log(ratio)).div_(len(tolds))
            logs = parts[1] if logs is None else logs.add_(parts[1])
        squares += ratio**2 * sum(error) / u.numel() / len(tolds)
        runner.evaluations += 1
    if total is None:
        raise ValueError("a pass needs a plane")
    return total, None if logs is None else logs.exp_(), scale, scale * math.sqrt(squares)


def _mean_of_slices(images: Tensor, *, told: Told, runner: Runner, error: list[float]) -> Tensor:
    """Mean correction and log standard deviation as two channels. images: (B, S, H, W) of u.

    error: the sum of the predicted variances is appended to it.
    """
    model = runner.model

    def tile(part: Tensor) -> Tensor:
        conditions = told.conditions.expand(len(part), -1)
        with torch.autocast(model.device.type, dtype=runner.autocast, enabled=runner.autocast is not None):
            mean, log_variance = mean_and_variance(model.mean, model.variance, part, conditions)
        if log_variance is None:
            log_variance = torch.zeros_like(mean)
        return torch.cat([mean, log_variance / 2], dim=1)

    seen = mean_images(images, told.scale.expand(len(images)))
    result = whole_or_tiled(tile, seen.contiguous(memory_format=torch.channels_last))
    error.append(float((2 * result[:, 1]).exp().sum(dtype=torch.float64)))
    return result
