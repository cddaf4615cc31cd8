"""Training batches: crops, symmetries, contrast and degradation drawn for a whole batch on the training device.

A batch is a pure function of (sources, config, step): the same step gives the same batch on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
from medsr.training.draws import WINDOW, Draw, Source, draw_sample

__all__ = ["Batch", "Source", "make_batch"]


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
    sources: Sequence[Source], step: int, *, size: int, patch: int, context: int, seed: int, device: torch.device
) -> Batch:
    """Draw ``size`` samples for one step. patch: pixels a side, at most WINDOW - 2 MARGIN without loss of margin."""
    rng = np.random.default_rng((seed, step))
    draws = [draw_sample(sources, rng, patch=patch, context=context) for _ in range(size)]
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    x = torch.stack([_fine_window(d, device) for d in draws])
    x = _contrast(x, draws, rng)
    return _degraded(x, draws, patch, generator)


def _fine_window(draw: Draw, device: torch.device) -> Tensor:
    """(S, WINDOW, WINDOW) fine slices of one sample, resampled to the drawn pixel size, zero beyond the window."""
    voxels = torch.from_numpy(np.ascontiguousarray(draw.voxels)).to(device)
    for axis, d in enumerate(draw.axes):
        if d.resample > 1:
            n = d.stop - d.start
            positions = (torch.arange(d.start, d.stop, device=device) + 0.5) * d.resample - 0.5 - d.source_start
            one = torch.ones(1, device=device)
            rows = profile_matrices(
                torch.tensor([KINDS.index("gauss")], device=device),
                one * draw.antialias,
                positions[None].float(),
                one * d.resample,
                voxels.shape[axis + 1],
                one[:, None].expand(1, 2),
            )[0]
            voxels = torch.movedim(torch.tensordot(voxels, rows, dims=([axis + 1], [1])), -1, axis + 1)
            if voxels.shape[axis + 1] != n:
                raise ValueError("resampled window has the wrong size")
    out = torch.zeros(voxels.shape[0], WINDOW, WINDOW, device=device)
    out[:, : voxels.shape[1], : voxels.shape[2]] = voxels
    return out


def _contrast(x: Tensor, draws: Sequence[Draw], rng: np.random.Generator) -> Tensor:
    """Monotone contrast, inversion and a smooth coil gain for MR; a small gain for CT. x: (B, S, W, W)."""
    grid = torch.linspace(-1, 1, WINDOW, device=x.device)
    out = []
    for window, draw in zip(x, draws, strict=True):
        if draw.source.modality == "CT":
            out.append(window * float(rng.uniform(0.92, 1.08)))
            continue
        sample = window.clamp_min(0)
        if rng.random() < 0.5:
            sample = sample ** float(np.exp(rng.normal(0, 0.25)))
        if rng.random() < 0.1:
            sample = (1.05 - sample).clamp_min(0)
        if rng.random() < 0.4:
            a, b, c, e = rng.normal(0, [0.35, 0.35, 0.25, 0.25])
            field = a * grid[:, None] + b * grid[None, :] + c * grid[:, None] ** 2 + e * grid[None, :] ** 2
            sample = sample * field.clamp(-1.1, 1.1).exp()
        out.append(sample * float(np.exp(rng.normal(0, 0.2))))
    return torch.stack(out)


def _axis_matrices(
    draws: Sequence[Draw], axis: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """True operators (B, L, W), told operators, positions (B, L), valid samples (B, L), existing fine voxels (B, W)."""
    per = [d.axes[axis] for d in draws]
    rows = max(len(a.positions) for a in per)
    positions = np.zeros((len(per), rows), np.float32)
    valid = np.zeros((len(per), rows), bool)
    inside = np.zeros((len(per), WINDOW), np.float32)
    for i, a in enumerate(per):
        positions[i, : len(a.positions)] = a.positions
        valid[i, : len(a.positions)] = True
        inside[i, : a.stop - a.start] = 1
    at, ok, fine = (torch.from_numpy(v).to(device) for v in (positions, valid, inside))
    factor = torch.tensor([a.factor for a in per], dtype=torch.float32, device=device)
    periods = torch.tensor([[a.n_fine, a.n_coarse] for a in per], dtype=torch.float32, device=device)

    def operator(which: Sequence[tuple[int, float]]) -> Tensor:
        kind = torch.tensor([k for k, _ in which], device=device)
        width = torch.tensor([w for _, w in which], dtype=torch.float32, device=device)
        return profile_matrices(kind, width, at, factor, WINDOW, periods, fine) * ok[:, :, None]

    return operator([a.true for a in per]), operator([a.told for a in per]), at, ok, fine


def _degraded(x: Tensor, draws: Sequence[Draw], patch: int, generator: torch.Generator) -> Batch:
    device = x.device
    per_axis = [_axis_matrices(draws, axis, device) for axis in (0, 1)]
    y = per_axis[0][0][:, None] @ x @ per_axis[1][0][:, None].mT
    valid = (per_axis[0][3][:, :, None] & per_axis[1][3][:, None, :])[:, None].float()
    y = _noisy(y, draws, generator) * valid
    centre = x.shape[1] // 2
    middle = y[:, centre : centre + 1]
    foreground = valid * (middle > FOREGROUND)
    noise = estimate_noise(middle, valid)
    factors = torch.tensor([[a.factor for a in d.axes] for d in draws], dtype=torch.float32, device=device)
    ratio = noise_over_signal(middle, foreground, noise, factors)
    u, x_rows = y, x
    mask = torch.ones(len(draws), 1, 1, 1, device=device)
    for axis in (0, 1):
        _, told, at, ok, fine = per_axis[axis]
        same = (factors[:, axis] <= 1 + 1e-6)[:, None, None]
        R = mmse_matrices(told * fine[:, None, :], at, ok, ratio[:, axis])
        R = torch.where(same, torch.eye(WINDOW, R.shape[2], device=device), R)
        pick, exists = _patch_rows(draws, axis, patch, device)
        R = R.gather(1, pick[:, :, None].expand(-1, -1, R.shape[2]))
        index = pick[:, None, :, None] if axis == 0 else pick[:, None, None, :]
        shape = list(x_rows.shape)
        shape[axis + 2] = patch
        x_rows = x_rows.gather(axis + 2, index.expand(shape))
        u = R[:, None] @ u if axis == 0 else u @ R[:, None].mT
        mask = mask * (exists[:, None, :, None] if axis == 0 else exists[:, None, None, :])
    estimate = u[:, centre : centre + 1]
    gradient = gradient_rms(estimate, mask * (estimate > FOREGROUND))
    statistics = ScanStatistics(noise, log_roughness(middle, foreground), gradient)
    return Batch(
        u.contiguous(), x_rows[:, centre : centre + 1].contiguous(), mask, _told(draws, factors, statistics), gradient
    )


def _patch_rows(draws: Sequence[Draw], axis: int, patch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Window rows of the patch (last row repeated where the axis is shorter), and which of them exist."""
    rows = (
        torch.arange(patch, device=device)[None]
        + torch.tensor([d.axes[axis].patch_start - d.axes[axis].start for d in draws], device=device)[:, None]
    )
    sizes = torch.tensor([d.axes[axis].stop - d.axes[axis].start for d in draws], device=device)[:, None]
    return torch.minimum(rows, sizes - 1), (rows < sizes).float()


def _noisy(y: Tensor, draws: Sequence[Draw], generator: torch.Generator) -> Tensor:
    """Magnitude after the operator and Rician noise (MR), Gaussian noise, in part coloured (CT)."""
    out = []
    for slices, draw in zip(y, draws, strict=True):
        first = torch.randn(slices.shape, generator=generator, device=y.device) * draw.noise if draw.noise else None
        if draw.source.modality == "CT":
            if first is not None and draw.coloured:
                first = (first + first.roll(1, 1) + first.roll(1, 2) + first.roll((1, 1), (1, 2))) / 2
            out.append(slices if first is None else slices + first)
        elif first is None:
            out.append(slices.abs())
        else:
            second = torch.randn(slices.shape, generator=generator, device=y.device) * draw.noise
            out.append(torch.hypot(slices + first, second))
    return torch.stack(out)


def _told(draws: Sequence[Draw], factors: Tensor, statistics: ScanStatistics) -> Tensor:
    device = factors.device
    kinds = torch.tensor([[max(a.told[0] - 1, 0) for a in d.axes] for d in draws], device=device)
    widths = torch.tensor([[a.told[1] for a in d.axes] for d in draws], dtype=torch.float32, device=device)
    unknown = torch.tensor([float(d.unknown) for d in draws], device=device)
    is_ct = torch.tensor([float(d.source.modality == "CT") for d in draws], device=device)
    neighbour = torch.tensor([d.neighbour for d in draws], dtype=torch.float32, device=device)
    return condition_vector(factors, kinds, widths, unknown, is_ct, neighbour, statistics).float()
