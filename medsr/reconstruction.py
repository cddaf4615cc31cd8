"""One pass of the model over a volume: linear estimate, slice networks on every plane, consistency, sampling."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from medsr.degradation import Degradation, along, mmse_matrices
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
from medsr.diffusion.denoiser import denoise_slices, mean_and_variance, mean_images
from medsr.diffusion.loss import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE
from medsr.diffusion.model import Model
from medsr.diffusion.network import SliceNetwork
from medsr.diffusion.sampler import SAMPLERS, noise_like, slice_generators
from medsr.diffusion.schedule import sigmas_for
from medsr.diffusion.slices import (
    Plane,
    batches,
    normal_axis,
    stacked,
    tissue_slices,
    unstacked,
    whole_or_tiled,
    with_neighbours,
)
from medsr.image.profile import AxisProfiles
from medsr.image.volume import Modality
from medsr.passes import Pass
from medsr.plan import Plan

STATISTICS_SLICES = 48  # evenly spaced, of those of a plane
NOISY = 0.003  # share of the range above which even a known profile is projected softly
UNKNOWN_WEIGHT = 1.0  # error variance of an assumed profile over that of the estimate


@dataclass
class Runner:
    """What every pass of one run shares: the model, how to run it, and the counts for the sidecar."""

    model: Model
    modality: Modality
    autocast: torch.dtype | None
    shrink: int
    report: Callable[[str, float], None]
    timings: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0
    noise: float = math.nan
    _done: float = 0.0
    _work: float = 1.0

    def plan_work(self, passes: int) -> None:
        """How many passes the run will make, for the share in progress reports."""
        self._work = max(1, passes)

    def advance(self, share: float) -> None:
        """A share of one pass is done."""
        self._done += share
        self.report("network", min(1.0, self._done / self._work))

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time inside the block to ``stage``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class PassResult:
    """x and variance on the pass's target grid; noise: of the input; spread: RMS of the expected error. Normalised."""

    x: Tensor
    variance: Tensor
    noise: float
    spread: float


@dataclass(frozen=True, eq=False)
class Told:
    """What the networks are told of one plane: conditions (1, F) and the residual's scale (1,)."""

    plane: Plane
    conditions: Tensor
    scale: Tensor

    def on(self, device: torch.device) -> Told:
        """The same on another device."""
        return replace(self, conditions=self.conditions.to(device), scale=self.scale.to(device))


def run_pass(y: Tensor, step: Pass, plan: Plan, runner: Runner, *, sample: int | None, number: int) -> PassResult:
    """One pass. y: on ``step.source``, normalised. sample: None for the posterior mean, else which sample."""
    with runner.clock("linear"):
        A = Degradation.between(step.target, step.source, step.profiles)
        u, noise, tolds = _linear(y, A, step, runner)
    with runner.clock("network"):
        m, v, scale = _mean(u, tolds, runner)
    runner.noise = noise if math.isnan(runner.noise) else runner.noise
    x = torch.add(u, m, alpha=scale)
    deviation = (v / 2).exp_()
    spread = scale * float(deviation.square().mean().sqrt())
    lam = weight_of_consistency(plan, step.profiles, noise, spread)
    if plan.consistency != "off":
        with runner.clock("consistency"):
            x = x + A.pinv(y - A(x), lam)
    if sample is not None:
        x = _sample(x, y, A, u, deviation, scale, lam, tolds, plan, runner, sample=sample, number=number)
    return PassResult(x, deviation.square_().mul_(scale**2), noise, spread)


def weight_of_consistency(plan: Plan, profiles: AxisProfiles, noise: float, spread: float) -> float:
    """lambda of the projection: 0 for an exact one, else error variance of the data over that of the estimate.

    An exact projection that nobody asked for is relaxed when the scan is noisy: it would copy the noise.
    """
    if plan.request.consistency == "hard":
        return 0.0
    data = (noise / max(spread, 1e-6)) ** 2 if noise > NOISY else 0.0
    return data + (0.0 if all(p.known for p in profiles) else UNKNOWN_WEIGHT)


def _linear(y: Tensor, A: Degradation, step: Pass, runner: Runner) -> tuple[Tensor, float, list[Told]]:
    """Linear estimate u, the noise of y, and what each plane is told."""
    measured = [(plane, *_coarse_statistics(y, plane, A)) for plane in step.planes]
    noise = float(torch.stack([noise for _, noise, _, _ in measured]).mean())
    u = y
    for a, axis in A.scaled:
        ratios = [lam[0, plane.index(a)] for plane, _, _, lam in measured if a in plane]
        lam = torch.stack(ratios).mean().double()[None]
        valid = torch.ones(1, len(axis.positions), dtype=torch.bool)
        u = along(u, mmse_matrices(axis.matrix[None], axis.positions[None], valid, lam)[0], a)
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
    scale = statistics.gradient * residual_scale(conditions, runner.model.card.residual_scale)
    return Told(plane, conditions, scale)


def _over_slices(
    volumes: list[Tensor], plane: Plane, air: list[float], runner: Runner, run: Callable[..., Tensor], share: float
) -> list[Tensor]:
    """``run(*batches of slices)`` over the tissue slices of ``volumes[0]``; one volume per value in ``air``.

    air: what an output is in slices that hold nothing but air, which need no network.
    """
    device = runner.model.device
    slices = [stacked(v, plane) for v in volumes]
    found = tissue_slices(slices[0])
    out = [torch.full(slices[0].shape, value) for value in air]
    groups = list(batches(found, slices[0][0].numel(), device, runner.shrink))
    for group in groups:
        context = runner.model.card.context
        inputs = [with_neighbours(slices[0], group, context), *(s[group][:, None] for s in slices[1:])]
        result = run(*(t.to(device) for t in inputs)).float().cpu()
        for channel, target in enumerate(out):
            target[group] = result[:, channel]
        runner.advance(share / len(groups))
    if not groups:
        runner.advance(share)
    return [unstacked(t, plane) for t in out]


def _mean(u: Tensor, tolds: list[Told], runner: Runner) -> tuple[Tensor, Tensor, float]:
    """Mean correction and log variance in units of the (common) scale, averaged over the planes."""
    model = runner.model
    scale = math.exp(sum(float(t.scale.log()) for t in tolds) / len(tolds))
    m, v = torch.zeros(u.shape), torch.zeros(u.shape)
    for told in tolds:
        run = partial(_mean_of_slices, told=told.on(model.device), runner=runner)
        air = [0.0] if model.variance is None else [0.0, MIN_LOG_VARIANCE]
        parts = _over_slices([u], told.plane, air, runner, run, 1 / len(tolds))
        ratio = float(told.scale) / scale
        m.add_(parts[0], alpha=ratio / len(tolds))
        if len(parts) == 2:
            v.add_(parts[1].clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE) + 2 * math.log(ratio), alpha=1 / len(tolds))
        runner.evaluations += 1
    return m, v, scale


def _mean_of_slices(images: Tensor, *, told: Told, runner: Runner) -> Tensor:
    """Mean correction and, where the model has one, log variance as a second channel. images: (B, S, H, W) of u."""
    model = runner.model

    def tile(part: Tensor) -> Tensor:
        conditions = told.conditions.expand(len(part), -1)
        with torch.autocast(model.device.type, dtype=runner.autocast, enabled=runner.autocast is not None):
            mean, log_variance = mean_and_variance(model.mean, model.variance, part, conditions)
        return mean if log_variance is None else torch.cat([mean, log_variance], dim=1)

    seen = mean_images(images, told.scale.expand(len(images)))
    return whole_or_tiled(tile, seen.contiguous(memory_format=torch.channels_last))


def _sample(
    mean: Tensor,
    y: Tensor,
    A: Degradation,
    u: Tensor,
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
    """One posterior sample: the whitened residual is drawn with the chosen sampler; every estimate is consistent."""
    device, request = runner.model.device, plan.request
    network = runner.model.sampler
    if network is None:
        raise ValueError("the model has no sampler")
    amplitude = deviation * scale
    correction = (mean - u) / scale
    log_deviation = deviation.log()
    sigmas = sigmas_for(request.sampler, request.steps)
    calls = 2 * len(sigmas) - 3 if request.sampler == "heun" else len(sigmas) - 1

    def denoise(w: Tensor, sigma: float) -> Tensor:
        estimate = torch.zeros(w.shape)
        level = torch.tensor([sigma], device=device)
        for told in tolds:
            run = partial(
                _denoised_slices, network=network, sigma=level, told=told.on(device), autocast=runner.autocast
            )
            ratio = scale / float(told.scale)
            volumes = [u, w, correction * ratio, log_deviation + math.log(ratio)]
            (part,) = _over_slices(volumes, told.plane, [0.0], runner, run, 1 / len(tolds) / calls)
            estimate.add_(part, alpha=1 / len(tolds))
        runner.evaluations += len(tolds)
        if plan.consistency == "off":
            return estimate
        x = mean + amplitude * estimate
        # a soft projection trusts the data less while the estimate is still uncertain (DDNM+, Wang et al. 2023, eq. 17)
        x = x + A.pinv(y - A(x), lam)
        return torch.where(amplitude > 1e-6, (x - mean) / amplitude.clamp_min(1e-6), estimate)

    generators = slice_generators(request.seed, len(u), sample * 64 + number)
    with runner.clock("network"):
        noise = noise_like(u, generators) * sigmas[0]
        w = SAMPLERS[request.sampler](denoise, noise, sigmas, generators)
    return mean + amplitude * w


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
