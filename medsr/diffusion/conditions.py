"""What the network is told beside the image: one vector a slice, measured on the scan in the same way everywhere.

Training measures it on crops, inference on whole volumes; every entry is of order one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medsr.degradation import CORRELATION

FEATURES = 18
REGRESSORS = FEATURES + 10  # of the residual's scale
TOLD_KINDS = ("sinc", "gauss", "box")
NOISE_QUANTILE = 0.1  # the quietest blocks hold noise and little else
NOISE_QUANTILE_BIAS = 0.75  # mean absolute value in the quietest tenth of 6 x 6 blocks of white noise over that of all
NOISE_BLOCK = 6
SMALLEST_RESIDUAL = 1e-4  # normalised units: 0.2 HU
STATISTICS_PAIRS = 24  # of neighbouring slices, evenly spaced
FOREGROUND = 0.08  # normalised units: above air, below tissue (MR and CT alike)
DETAIL_SIGMA = 2.0  # pixels; what is finer is shown to the network in units of the expected residual
_DETAIL_RADIUS = 6


@dataclass(frozen=True)
class ScanStatistics:
    """Measured on the coarse slices y and the estimate u, per sample (B,), in normalised units.

    noise: standard deviation. roughness: (B, 2) log ratio of second to first differences along each axis of y.
    gradient: root mean square of the first differences of u over the foreground.
    """

    noise: Tensor
    roughness: Tensor
    gradient: Tensor


def _differences(x: Tensor, valid: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean squared first and second differences of x (B, S, H, W) along an axis, over valid (B, 1, H, W): (B,) each."""
    n = x.shape[axis]
    first = (x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1)).square()
    ok1 = valid.narrow(axis, 1, n - 1) * valid.narrow(axis, 0, n - 1)
    if n < 3:
        mean = (first * ok1).sum((1, 2, 3)) / (ok1.sum((1, 2, 3)) * x.shape[1] / valid.shape[1]).clamp_min(1)
        return mean, mean
    second = (x.narrow(axis, 2, n - 2) - 2 * x.narrow(axis, 1, n - 2) + x.narrow(axis, 0, n - 2)).square()
    ok2 = ok1.narrow(axis, 1, n - 2) * ok1.narrow(axis, 0, n - 2)
    repeat = x.shape[1] / valid.shape[1]
    return (
        (first * ok1).sum((1, 2, 3)) / (ok1.sum((1, 2, 3)) * repeat).clamp_min(1),
        (second * ok2).sum((1, 2, 3)) / (ok2.sum((1, 2, 3)) * repeat).clamp_min(1),
    )


def fine_detail(u: Tensor) -> Tensor:
    """u (B, 1, H, W) less its Gaussian average of DETAIL_SIGMA pixels (edges repeated)."""
    d = torch.arange(-_DETAIL_RADIUS, _DETAIL_RADIUS + 1, dtype=u.dtype, device=u.device)
    kernel = torch.exp(-(d**2) / (2 * DETAIL_SIGMA**2))
    kernel = kernel / kernel.sum()
    smooth = functional.pad(u, [_DETAIL_RADIUS] * 4, mode="replicate")
    smooth = functional.conv2d(functional.conv2d(smooth, kernel[None, None, :, None]), kernel[None, None, None, :])
    return u - smooth


def slice_correlation(u: Tensor) -> float:
    """Correlation, 0 to 0.98, of the fine detail of neighbouring slices of (N, H, W), over their foreground."""
    if len(u) < 2:
        return 0.0
    index = torch.linspace(0, len(u) - 2, min(STATISTICS_PAIRS, len(u) - 1)).round().long().unique()
    here, there = (fine_detail(u[i][:, None]) * (u[i][:, None] > FOREGROUND) for i in (index, index + 1))
    power = (here.square().sum() * there.square().sum()).sqrt()
    return float(((here * there).sum() / power.clamp_min(1e-12)).clamp(0, 0.98))


def gradient_rms(x: Tensor, valid: Tensor) -> Tensor:
    """Root mean square of first differences of x (B, S, H, W), both axes together, over valid (B, 1 or S, H, W)."""
    squares = [_differences(x, valid, axis)[0] for axis in (2, 3)]
    return ((squares[0] + squares[1]) / 2).clamp_min(1e-10).sqrt()


def log_roughness(y: Tensor, valid: Tensor) -> Tensor:
    """(B, 2) log of mean squared second over first differences: ln 3 for white noise, below -3 for a smooth scan."""
    ratios = []
    for axis in (2, 3):
        first, second = _differences(y, valid, axis)
        ratios.append(((second + 1e-9) / (first + 1e-9)).log())
    return torch.stack(ratios, dim=1)


def estimate_noise(y: Tensor, valid: Tensor) -> Tensor:
    """Standard deviation of white noise in y (B, S, H, W): mean |Laplacian difference| in the quietest tenth of blocks.

    The mask [1 -2 1; -2 4 -2; 1 -2 1] (Immerkaer 1996) has gain 6 on white noise. Blocks count where they are valid
    and in the foreground; without any, 0.
    """
    b, s, h, w = y.shape
    if min(h, w) < NOISE_BLOCK + 2:
        return torch.zeros(b, dtype=y.dtype, device=y.device)
    response = y.reshape(b * s, 1, h, w)
    for axis in (2, 3):
        n = response.shape[axis] - 2
        response = response.narrow(axis, 0, n) + response.narrow(axis, 2, n) - 2 * response.narrow(axis, 1, n)
    inside = (valid * (y > FOREGROUND)).to(y.dtype).reshape(b * s, 1, h, w)
    pooled = functional.avg_pool2d(response.abs(), NOISE_BLOCK).reshape(b, -1)
    # a block of responses looks at two pixels more a side
    whole = functional.avg_pool2d(inside, NOISE_BLOCK + 2, stride=NOISE_BLOCK).reshape(b, -1) > 0.999
    ordered = torch.where(whole, pooled, torch.full_like(pooled, torch.inf)).sort(dim=1).values
    count = whole.sum(1)
    pick = ((count - 1).clamp_min(0) * NOISE_QUANTILE).long()
    value = ordered.gather(1, pick[:, None])[:, 0]
    sigma = value * math.sqrt(math.pi / 2) / (6 * NOISE_QUANTILE_BIAS)
    return torch.where(count > 0, sigma, torch.zeros_like(sigma))


def condition_vector(
    factors: Tensor,
    kinds: Tensor,
    widths: Tensor,
    unknown: Tensor,
    is_ct: Tensor,
    neighbour: Tensor,
    statistics: ScanStatistics,
) -> Tensor:
    """(B, FEATURES). factors, widths: (B, 2) per slice axis; kinds: (B, 2) indices into TOLD_KINDS.

    Kind and width are ignored at factor 1. unknown, is_ct: (B,) 0 or 1. neighbour: (B,) distance of the next slice over
    the pixel size.
    """
    scaled = (factors > 1 + 1e-6).to(factors)
    columns = [factors.log2()]
    columns += [(kinds == code).to(factors) * scaled for code in range(len(TOLD_KINDS))]
    columns += [widths.log2() * scaled * (kinds != 0)]
    columns += [
        unknown[:, None] * 2 - 1,
        is_ct[:, None] * 2 - 1,
        neighbour.clamp(0.25, 16).log2()[:, None] / 2,
        (statistics.noise + 1e-3).log()[:, None] / 2 + 2,
        statistics.roughness,
        statistics.gradient.log()[:, None] / 2 + 1.5,
        (statistics.noise / statistics.gradient + 1e-2).log()[:, None] / 2,
    ]
    return torch.cat(columns, dim=1)


def residual_scale(gradient: Tensor, conditions: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Expected standard deviation of the residual in normalised units, (B,). See ``residual_features``.

    gradient: (B,) root mean square of u's first differences. At least SMALLEST_RESIDUAL: a flat patch would otherwise
    show the networks its rounding errors, greatly enlarged.
    """
    weights = torch.tensor(coefficients, dtype=torch.float64, device=conditions.device)
    relative = (residual_features(conditions) @ weights).clamp(-6, 3).exp().to(conditions.dtype)
    return (gradient * relative).clamp_min(SMALLEST_RESIDUAL)


def residual_features(conditions: Tensor) -> Tensor:
    """Regressors of ln(residual / gradient) in float64: the conditions, their squares, and factor x unknown terms."""
    c = conditions.double()
    largest = c[:, :2].amax(1, keepdim=True)
    both = c[:, :2].sum(1, keepdim=True)
    known = c[:, 10:11]
    noise, rough = c[:, 13:14], c[:, 14:16]
    extra = [largest, largest**2, both**2, known * largest, noise**2, rough**2, noise * largest, c[:, 17:18] ** 2]
    return torch.cat([torch.ones_like(largest), c, *extra], dim=1)


def noise_over_signal(y: Tensor, foreground: Tensor, noise: Tensor, factors: Tensor) -> Tensor:
    """(B, 2) lambda of the linear estimate: noise variance over the variance of the exponential prior, per axis.

    In that prior neighbouring coarse samples differ by ``2 sd^2 (1 - rho^f)`` in the mean square, which gives sd.
    """
    columns = []
    for i, axis in enumerate((2, 3)):
        difference, _ = _differences(y, foreground, axis)
        signal = (difference - 2 * noise**2).clamp_min(0.05 * difference + 1e-10)
        variance = signal / (2 * (1 - CORRELATION ** factors[:, i].clamp_min(1)))
        columns.append((noise**2 / variance).clamp(1e-4, 1.0))
    return torch.stack(columns, dim=1)
