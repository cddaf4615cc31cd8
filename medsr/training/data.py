"""Training batches: drawn on the host, made as a whole on the training device, contrast and degradation included.

A batch is a pure function of (sources, config, step), each of its samples of its own number beside: the same step gives
the same batch on every run, and processes that share it make the samples that one process would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medsr.degradation import KINDS, mmse_matrices, profile_matrices
from medsr.diffusion.conditions import (
    FOREGROUND,
    ScanStatistics,
    condition_vector,
    estimate_noise,
    gradient_rms,
    log_roughness,
    noise_over_signal,
)
from medsr.training.draws import MARGIN, AxisDraw, Draw, Source, draw_batch

__all__ = ["Batch", "Source", "batch_of_draws", "make_batch", "scan_of_draws"]


@dataclass(frozen=True)
class Batch:
    """u: (B, S, P, P) estimate and neighbour slices; x: (B, 1, P, P) truth; mask: (B, 1, P, P); conditions: (B, F).

    Normalised units. gradient: (B,) root-mean-square gradient of u, the unit of the residual's scale.
    """

    u: Tensor
    x: Tensor
    mask: Tensor
    conditions: Tensor
    gradient: Tensor


def make_batch(
    sources: Sequence[Source],
    step: int,
    *,
    size: int,
    patch: int,
    context: int,
    seed: int,
    device: torch.device,
    share: tuple[int, int] = (0, 1),
) -> Batch:
    """The batch of one step, or this process' share of it. patch: pixels a side. context: neighbour slices a side.

    share: (rank, processes); the process makes the samples rank, rank + processes, ... of the ``size`` samples.
    """
    draws = draw_batch(sources, step, size=size, patch=patch, context=context, seed=seed, share=share)
    return batch_of_draws(draws, patch, device)


def batch_of_draws(draws: Sequence[Draw], patch: int, device: torch.device) -> Batch:
    """All that follows the drawing: a few copies to the device, then nothing that the host would have to wait for."""
    samples, axes = _Samples.of(draws, device), _Axes.of(draws, device)
    x, y, told = _scanned(draws, samples, axes, patch + 2 * MARGIN)
    return _degraded(x, y, told, samples, axes, patch)


def scan_of_draws(draws: Sequence[Draw], patch: int, device: torch.device) -> Tensor:
    """(B, 1, P, P) the scan that the batch of the same draws is estimated from, each pixel its nearest sample."""
    samples, axes = _Samples.of(draws, device), _Axes.of(draws, device)
    _, y, _ = _scanned(draws, samples, axes, patch + 2 * MARGIN)
    pixel = axes.offset[..., None] + torch.arange(patch, device=device)
    nearest = ((pixel - axes.first[..., None]) / axes.factor[..., None]).round().clamp_min(0)
    rows, columns = torch.minimum(nearest, axes.count[..., None] - 1).long()
    sample = torch.arange(len(y), device=device)[:, None, None]
    return y[sample, y.shape[1] // 2, rows[:, :, None], columns[:, None, :]][:, None]


def _scanned(draws: Sequence[Draw], samples: _Samples, axes: _Axes, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fine windows (B, S, W, W), the scan of them with its noise, and the told operators."""
    x = _contrast(_enhanced(_fine_windows(draws, samples, axes, side), samples.enhancement, axes), samples)
    true, told = _operators(draws, axes, side)
    return x, _noisy(_both_axes(true, x), _noise(draws, side, x.device), samples.is_ct), told


# --- from the host to the device --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Samples:
    """One number a sample, (B,) each. resample: fine pixel size over source voxel size. Flags are 0 or 1."""

    is_ct: Tensor
    resample: Tensor
    antialias: Tensor
    enhancement: Tensor
    unknown: Tensor
    neighbour: Tensor
    exponent: Tensor
    inverted: Tensor
    gain: Tensor
    slope_row: Tensor
    slope_column: Tensor
    bend_row: Tensor
    bend_column: Tensor

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> _Samples:
        return cls(*_on(device, [cls._numbers(d) for d in draws]).unbind(-1))

    @staticmethod
    def _numbers(d: Draw) -> tuple[float, ...]:
        is_ct, resample = d.source.modality == "CT", d.axes[0].resample
        c = d.contrast
        contrast = (c.exponent, c.inverted, c.gain, *c.coil)
        return (is_ct, resample, d.antialias, d.enhancement, d.unknown, d.neighbour, *contrast)


@dataclass(frozen=True)
class _Axes:
    """One number for each of the two axes of a sample, (2, B) each; first, size, offset: fine pixels of the window.

    first, count: of the coarse samples. size: of the window's part that exists. offset: of the patch. source_first,
    source_size: the window's first pixel in source voxels, and their number.
    """

    factor: Tensor
    n_fine: Tensor
    n_coarse: Tensor
    first: Tensor
    count: Tensor
    size: Tensor
    offset: Tensor
    source_first: Tensor
    source_size: Tensor
    told_kind: Tensor
    told_width: Tensor

    @classmethod
    def of(cls, draws: Sequence[Draw], device: torch.device) -> _Axes:
        return cls(*_on(device, [[cls._numbers(d.axes[axis]) for d in draws] for axis in (0, 1)]).unbind(-1))

    @staticmethod
    def _numbers(a: AxisDraw) -> tuple[float, ...]:
        coarse = (a.factor, a.n_fine, a.n_coarse, a.positions[0], len(a.positions))
        fine = (a.stop - a.start, a.patch_start - a.start)
        source = ((a.start + 0.5) * a.resample - 0.5 - a.source_start, a.source_stop - a.source_start)
        return (*coarse, *fine, *source, max(a.told[0] - 1, 0), a.told[1])

    def periods(self) -> Tensor:
        """(2, B, 2) fine and coarse voxels of the whole axis."""
        return torch.stack([self.n_fine, self.n_coarse], dim=-1)


def _on(device: torch.device, values: Sequence[object], dtype: torch.dtype = torch.float32) -> Tensor:
    """One copy, which the host waits for on no device: CUDA's are made from page-locked memory."""
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


def _padded(stacks: Sequence[np.ndarray], shape: tuple[int, int], device: torch.device) -> Tensor:
    """(N, S, *shape) stacks of S slices, 0 beyond their own rows and columns, in one copy. N may be 0."""
    slices = len(stacks[0]) if stacks else 0
    host = torch.zeros(len(stacks), slices, *shape, pin_memory=device.type == "cuda")
    for place, voxels in zip(host.numpy(), stacks, strict=True):
        place[:, : voxels.shape[1], : voxels.shape[2]] = voxels
    return host.to(device, non_blocking=True)


def _fine_windows(draws: Sequence[Draw], samples: _Samples, axes: _Axes, side: int) -> Tensor:
    """(B, S, W, W) fine slices at the drawn pixel size; what lies beyond the axis has no meaning."""
    device = axes.size.device
    by_size = sorted(range(len(draws)), key=lambda i: (draws[i].axes[0].resample > 1, draws[i].voxels.size))
    kept = sum(d.axes[0].resample == 1 for d in draws)
    middle = (kept + len(draws)) // 2  # two parts of like sizes each, so that little is padded
    windows = [
        _padded([draws[i].voxels for i in by_size[:kept]], (side, side), device),
        _enlarged(draws, by_size[kept:middle], samples, axes, side),
        _enlarged(draws, by_size[middle:], samples, axes, side),
    ]
    order = sorted(range(len(draws)), key=by_size.__getitem__)
    return torch.cat([w for w in windows if len(w)])[_on(device, order, torch.int64)]


def _enlarged(draws: Sequence[Draw], which: Sequence[int], samples: _Samples, axes: _Axes, side: int) -> Tensor:
    """(N, S, W, W) fine slices of the samples whose pixels are larger than the source's."""
    device = axes.size.device
    extent = [max((draws[i].voxels.shape[axis] for i in which), default=1) for axis in (1, 2)]
    x = _padded([draws[i].voxels for i in which], (extent[0], extent[1]), device)
    at = _on(device, which, torch.int64)
    pixel, width = samples.resample[at], samples.antialias[at]
    operators = [
        profile_matrices(
            "gauss",
            width,
            _spaced(axes.source_first[axis, at], pixel, axes.size[axis, at], side),
            pixel,
            n,
            axes.periods()[axis, at],
            _up_to(n, axes.source_size[axis, at]).float(),
        )
        for axis, n in enumerate(extent)
    ]
    return _both_axes(operators, x)


def _operators(draws: Sequence[Draw], axes: _Axes, side: int) -> tuple[Tensor, Tensor]:
    """The true and the told operators, (2, B, W, W) each; rows from ``count`` on repeat the last."""
    device = axes.factor.device
    wanted = [
        (draw.axes[axis].told if told else draw.axes[axis].true, axis * len(draws) + i)
        for told in (False, True)
        for axis in (0, 1)
        for i, draw in enumerate(draws)
    ]
    distinct = sorted(set(wanted))  # by kind first: each formula runs once, on neighbouring rows
    kinds = [(kind, len(list(run))) for kind, run in groupby(profile[0] for profile, _ in distinct)]
    row = {operator: index for index, operator in enumerate(distinct)}
    which = _on(device, [row[operator] for operator in wanted], torch.int64)
    at = _on(device, [axis for _, axis in distinct], torch.int64)
    per_row = (
        _on(device, [profile[1] for profile, _ in distinct]),
        _spaced(axes.first, axes.factor, axes.count, side).flatten(0, 1)[at],
        axes.factor.flatten()[at],
        axes.periods().flatten(0, 1)[at],
        _up_to(side, axes.size).flatten(0, 1)[at].float(),
    )
    runs = zip(*(values.split([length for _, length in kinds]) for values in per_row), strict=True)
    matrices = [
        profile_matrices(KINDS[kind], width, positions, factor, side, periods, inside)
        for (kind, _), (width, positions, factor, periods, inside) in zip(kinds, runs, strict=True)
    ]
    true, told = torch.cat(matrices)[which].unflatten(0, (2, 2, -1))
    return true, told


def _noise(draws: Sequence[Draw], side: int, device: torch.device) -> Tensor:
    """(2, B, S, W, W) real and imaginary part, 0 where there is none; each sample's from its seed, in its own shape."""
    generator, slices = torch.Generator(device), len(draws[0].voxels)
    noise = torch.zeros(2, len(draws), slices, side, side, device=device)
    for i, draw in enumerate(draws):
        if draw.noise:
            rows, columns = (len(a.positions) for a in draw.axes)
            generator.manual_seed(draw.noise_seed)
            white = torch.randn(2, slices, rows + 1, columns + 1, generator=generator, device=device)
            own = _coloured(white) if draw.coloured else white[..., 1:, 1:]
            noise[:, i, :, :rows, :columns] = draw.noise * own
    return noise


# --- on the device: nothing below reads a value back ------------------------------------------------------------


def _up_to(n: int, size: Tensor) -> Tensor:
    """(..., n): which of 0, 1, ..., n - 1 are below ``size``."""
    return torch.arange(n, device=size.device) < size[..., None]


def _spaced(first: Tensor, spacing: Tensor, count: Tensor, n: int) -> Tensor:
    """(..., n) equally spaced positions; those from ``count`` on repeat the last."""
    index = torch.minimum(torch.arange(n, device=first.device), count[..., None] - 1)
    return first[..., None] + spacing[..., None] * index


def _both_axes(operators: Iterable[Tensor], x: Tensor) -> Tensor:
    """``rows x columns^T`` of every slice. operators: rows (B, M, R) and columns (B, N, C); x: (B, S, R, C)."""
    rows, columns = operators
    across: Tensor = (x.flatten(1, 2) @ columns.mT).unflatten(1, x.shape[1:3])
    return rows[:, None] @ across


def _enhanced(x: Tensor, enhancement: Tensor, axes: _Axes) -> Tensor:
    """``x + a (x - blurred x)``, the blur [1 2 1] / 4 along both axes; the outermost pixels stay. x: (B, S, W, W)."""
    blurred = functional.pad(x, [1, 1, 1, 1], mode="replicate")
    for axis in (2, 3):
        n = blurred.shape[axis] - 2
        ends = blurred.narrow(axis, 0, n) + blurred.narrow(axis, 2, n)
        blurred = (ends + 2 * blurred.narrow(axis, 1, n)) / 4
    inner = _up_to(x.shape[-1], axes.size - 1)
    inner[..., 0] = False
    within = (inner[0, :, :, None] & inner[1, :, None, :])[:, None]
    return x + enhancement[:, None, None, None] * (x - blurred) * within


def _contrast(x: Tensor, samples: _Samples) -> Tensor:
    """The drawn ``Contrast`` of every sample, on magnitudes for MR. x: (B, S, W, W)."""
    grid = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    rows = samples.slope_row[:, None] * grid + samples.bend_row[:, None] * grid.square()
    columns = samples.slope_column[:, None] * grid + samples.bend_column[:, None] * grid.square()
    coil = (rows[:, :, None] + columns[:, None, :]).clamp(-1.1, 1.1).exp() * samples.gain[:, None, None]
    is_ct, exponent, inverted = (v[:, None, None, None] for v in (samples.is_ct, samples.exponent, samples.inverted))
    lowest = torch.where(is_ct > 0, -torch.inf, 0.0)
    x = torch.maximum(x, lowest)
    x = torch.where(exponent == 1, x, x**exponent)
    x = torch.maximum(1.05 * inverted + (1 - 2 * inverted) * x, lowest)
    return x * coil[:, None]


def _coloured(white: Tensor) -> Tensor:
    """White noise (..., H + 1, W + 1) to noise (..., H, W) of the same variance, whose neighbours correlate by 1/2."""
    pairs = white[..., 1:, :] + white[..., :-1, :]
    return (pairs[..., 1:] + pairs[..., :-1]) / 2


def _noisy(y: Tensor, noise: Tensor, is_ct: Tensor) -> Tensor:
    """Magnitude with Rician noise (MR), Gaussian noise (CT). y: (B, S, L, L), noise: (2, B, S, L, L)."""
    real, imaginary = noise
    real = y + real
    return torch.where(is_ct[:, None, None, None] > 0, real, torch.hypot(real, imaginary))


def _degraded(x: Tensor, y: Tensor, told: Tensor, samples: _Samples, axes: _Axes, patch: int) -> Batch:
    """The linear estimate of y, the scan of fine windows x, (B, S, W, W) each, and what the scan shows of itself."""
    centre, factors = x.shape[1] // 2, axes.factor.T
    sampled = _up_to(x.shape[-1], axes.count)
    valid = (sampled[0, :, :, None] & sampled[1, :, None, :])[:, None].float()
    y = y * valid
    middle = y[:, centre : centre + 1]
    foreground = valid * (middle > FOREGROUND)
    seen_noise = estimate_noise(middle, valid)
    R = _estimators(told, sampled, noise_over_signal(middle, foreground, seen_noise, factors), axes)
    wanted = axes.offset[..., None] + torch.arange(patch, device=x.device)
    exists = (wanted < axes.size[..., None]).float()
    pixel = torch.minimum(wanted, axes.size[..., None] - 1).long()  # the last one again where the axis is shorter
    u = _both_axes(R.gather(2, pixel[..., None].expand(-1, -1, -1, R.shape[3])), y)
    truth = x[torch.arange(len(x), device=x.device)[:, None, None], centre, pixel[0, :, :, None], pixel[1, :, None, :]]
    mask = (exists[0, :, :, None] * exists[1, :, None, :])[:, None]
    estimate = u[:, centre : centre + 1]
    gradient = gradient_rms(estimate, mask * (estimate > FOREGROUND))
    statistics = ScanStatistics(seen_noise, log_roughness(middle, foreground), gradient)
    told_kind, told_width = axes.told_kind.T, axes.told_width.T
    conditions = condition_vector(
        factors, told_kind, told_width, samples.unknown, samples.is_ct, samples.neighbour, statistics
    )
    return Batch(u, truth[:, None], mask, conditions, gradient)


def _estimators(told: Tensor, sampled: Tensor, ratio: Tensor, axes: _Axes) -> Tensor:
    """(2, B, W, W) from coarse samples to fine pixels; told: (2, B, W, W), sampled: (2, B, W), ratio: (B, 2)."""
    positions = _spaced(axes.first, axes.factor, axes.count, told.shape[2])
    R = mmse_matrices(told.flatten(0, 1), positions.flatten(0, 1), sampled.flatten(0, 1), ratio.T.flatten())
    same = torch.eye(R.shape[1], device=R.device)
    return torch.where(axes.factor[..., None, None] > 1 + 1e-6, R.unflatten(0, (2, -1)), same)
