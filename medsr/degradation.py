"""The scanner as a linear operator between two grids, its inverses, and the classical ways back up.

One small matrix per axis: ``y = (A_i (x) A_j (x) A_k) x``. Positions are voxel indices of the fine grid, 0 at the
centre of its first voxel. Matrices are built in float64 and applied in the dtype of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from medsr.errors import PlanError
from medsr.image.geometry import Geometry
from medsr.image.profile import AxisProfile

Kind = Literal["identity", "sinc", "gauss", "box", "raised-cosine", "triangle", "hamming"]
KINDS: tuple[Kind, ...] = ("identity", "sinc", "gauss", "box", "raised-cosine", "triangle", "hamming")
K_SPACE_CROPS = ("sinc", "hamming")  # on a circle; the other kinds are profiles along a line
Interpolation = Literal["nearest", "linear", "cubic", "lanczos"]
CORRELATION = 0.95  # of neighbouring fine voxels, in the exponential prior of the linear estimate


def parse_profile(text: str) -> tuple[Kind, float]:
    """``"sinc"``, ``"gauss:1.0"`` (FWHM) or ``"box:1.3"`` (width), in coarse spacings. Raises ValueError."""
    name, _, width = text.partition(":")
    kind = next(k for k in (*KINDS, None) if k is None or k == name)
    if kind is None:
        raise ValueError(f"unknown profile {text!r}")
    return kind, float(width) if width else 1.0


# --- matrices, for a batch of axes ------------------------------------------------------------------------------


def profile_matrices(
    kind: Kind,
    width: Tensor,
    positions: Tensor,
    factor: Tensor,
    n: int,
    periods: Tensor,
    inside: Tensor | None = None,
) -> Tensor:
    """Rows that average a fine axis of ``n`` voxels into coarse samples, for a batch of axes of one kind.

    width: (B,) in units of the coarse spacing. positions: (B, L) centres of the coarse samples in fine index
    coordinates. factor: (B,) coarse over fine spacing. periods: (B, 2) number of fine and coarse voxels on the whole
    axis, used by ``sinc``. inside: (B, n) marks the fine voxels that exist (default: all). Returns (B, L, n); a GPU is
    never waited for.

    ``sinc`` is the k-space crop: the Dirichlet kernel of ``periods[1]`` modes on a circle of ``periods[0]`` voxels,
    the Nyquist bin split evenly; its rows sum to 1. ``hamming`` is the same crop under a Hamming window; neither has a
    width. The others are integrals of the profile over each fine voxel, and each row ``w`` becomes ``w (a + b d)`` so
    that constants and ramps are reproduced exactly, at the edges too. (A ramp is not periodic: tilting a k-space crop
    would only break the orthogonality of its rows.)
    """
    d = torch.arange(n, dtype=positions.dtype, device=positions.device) - positions[:, :, None]
    rows = _profile(kind, d, (width * factor)[:, None, None], periods)
    if inside is not None:
        rows = rows * inside[:, None, :]
    return rows / rows.sum(-1, keepdim=True) if kind in K_SPACE_CROPS else _tilted(rows, d, inside)


def _profile(kind: Kind, d: Tensor, width: Tensor, periods: Tensor) -> Tensor:
    """Share of a fine voxel at distance ``d`` (in fine voxels) in one coarse sample."""
    low, high = d - 0.5, d + 0.5
    if kind == "gauss":
        unit = width * (math.sqrt(2.0) / math.sqrt(8.0 * math.log(2.0)))
        return (torch.erf(high / unit) - torch.erf(low / unit)) / 2
    if kind == "box":
        half = width / 2
        return (torch.minimum(high, half) - torch.maximum(low, -half)).clamp_min(0) / width
    if kind == "raised-cosine":  # (1 + cos(pi t / w)) / 2 on |t| < w, whose integral is t/2 + w sin(pi t / w) / (2 pi)
        low, high = (torch.minimum(torch.maximum(t, -width), width) for t in (low, high))
        primitive = [t / 2 + width / (2 * math.pi) * torch.sin(math.pi * t / width) for t in (low, high)]
        return (primitive[1] - primitive[0]) / width
    if kind == "triangle":  # (1 - |t| / w) / w on |t| < w
        low, high = (torch.minimum(torch.maximum(t, -width), width) for t in (low, high))
        return ((high - high * high.abs() / (2 * width)) - (low - low * low.abs() / (2 * width))) / width
    if kind in K_SPACE_CROPS:
        return _crop(kind, d, periods[:, 0, None, None], periods[:, 1, None, None])
    return (1 - d.abs()).clamp_min(0)


def _crop(kind: Kind, d: Tensor, n_fine: Tensor, n_coarse: Tensor) -> Tensor:
    """The crop of k-space, bare or under ``0.54 + 0.46 cos(2 pi k / n_coarse)``: three Dirichlet kernels."""
    if kind == "sinc":
        return _dirichlet(d, n_fine, n_coarse)
    beside = [_dirichlet(d + step, n_fine, n_coarse) for step in (-n_fine / n_coarse, n_fine / n_coarse)]
    return 0.54 * _dirichlet(d, n_fine, n_coarse) + 0.23 * (beside[0] + beside[1])


def _dirichlet(d: Tensor, n_fine: Tensor, n_coarse: Tensor) -> Tensor:
    """Sum of the lowest ``n_coarse`` Fourier modes of a circle of ``n_fine`` voxels, divided by ``n_fine``."""
    angle = math.pi * torch.remainder(d + n_fine / 2, n_fine).sub(n_fine / 2) / n_fine
    near = angle.abs() < 1e-7
    safe = torch.where(near, torch.ones_like(angle), angle)
    even = torch.where(torch.remainder(n_coarse, 2) < 0.5, torch.cos(safe), torch.ones_like(safe))
    kernel = torch.sin(n_coarse * safe) * even / torch.sin(safe)
    return torch.where(near, n_coarse.expand_as(kernel), kernel) / n_fine


def _between_voxels(d: Tensor, inside: Tensor | None) -> Tensor:
    """Linear interpolation, with so faint a tail that the tilt has a second voxel beyond the last one too."""
    near = (1 - d.abs()).clamp_min(0) + 1e-3 / (1 + d.square()).square()
    if inside is not None:
        near = near * inside[:, None, :]
    return near / near.sum(-1, keepdim=True)


def _tilted(rows: Tensor, d: Tensor, inside: Tensor | None) -> Tensor:
    """Rows ``w (a + b d)`` with ``sum w (a + b d) = 1`` and ``sum w (a + b d) d = 0``.

    A profile that sees one voxel off its centre, or none, cannot be tilted: its row is linear interpolation.
    """
    s0, s1, s2, flat = _moments(rows, d)
    alone = flat & ((s1.abs() > 1e-6 * s0.abs()) | (s0.abs() < 1e-12))
    rows = torch.where(alone[..., None], _between_voxels(d, inside), rows)
    s0, s1, s2, flat = _moments(rows, d)
    det = torch.where(flat, torch.ones_like(s0), s0 * s2 - s1 * s1)
    a = torch.where(flat, 1 / s0, s2 / det)
    b = torch.where(flat, torch.zeros_like(s1), -s1 / det)
    return rows * (a[..., None] + b[..., None] * d)


def _moments(rows: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of w, w d and w d^2, and where they leave no room for a tilt: (B, L) each."""
    tilted = rows * d
    s0, s1, s2 = rows.sum(-1), tilted.sum(-1), (tilted * d).sum(-1)
    return s0, s1, s2, (s0 * s2 - s1 * s1).abs() < 1e-6 * s0.abs().clamp_min(1e-12)


def mmse_matrices(A: Tensor, positions: Tensor, valid: Tensor, lam: Tensor, correlation: float = CORRELATION) -> Tensor:
    """Linear minimum-mean-square-error estimate of a fine axis with an unknown linear trend (universal kriging).

    A: (B, L, n). positions, valid: (B, L); rows that are not valid are ignored. lam: (B,) noise variance over signal
    variance. The prior covariance is ``C_ij = correlation ** |i - j|``. Returns R (B, n, L) with
    ``R = C A^T W + (P - C A^T W P_l) (P_l^T W P_l)^-1 P_l^T W``, ``W = (A C A^T + lam I)^-1`` and P, P_l the
    constant and the ramp on both grids: constants and ramps come back exactly (Matheron 1969; Wackernagel 2003, ch.
    38).
    """
    n = A.shape[2]
    index = torch.arange(n, dtype=A.dtype, device=A.device)
    C = correlation ** (index[:, None] - index[None, :]).abs()
    keep = valid.to(A.dtype)
    A = A * keep[:, :, None]
    CAt = C @ A.mT
    S = A @ CAt + torch.diag_embed(lam[:, None] * keep + (1 - keep))
    centre = (n - 1) / 2
    P = torch.stack([torch.ones_like(index), (index - centre) / n], dim=-1)
    single = (keep.sum(1) < 2).to(A.dtype)  # a single sample cannot carry a ramp
    P_l = torch.stack([keep, (1 - single)[:, None] * keep * (positions - centre) / n], dim=-1)
    W = torch.linalg.inv_ex(S).inverse  # _ex: a GPU need not be waited for to hear that no matrix was singular
    WP = W @ P_l
    gram = P_l.mT @ WP + torch.diag_embed(torch.stack([torch.zeros_like(single), single], dim=-1))
    R = CAt @ W
    trend = torch.linalg.solve_ex(gram, WP.mT).result
    estimate: Tensor = (R + (P - R @ P_l) @ trend) * keep[:, None, :]
    return estimate


# --- one pair of volumes ----------------------------------------------------------------------------------------


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply ``matrix`` (m, n) along one axis of ``x``, in the dtype of ``x``."""
    return torch.movedim(torch.tensordot(x, matrix.to(x), dims=([axis], [1])), -1, axis)


@dataclass(frozen=True, eq=False)
class Axis:
    """The operator along one axis: matrix (L, n) in float64, positions (L,) in fine index coordinates, the factor."""

    matrix: Tensor
    positions: Tensor
    factor: float
    kind: Kind
    width: float

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (L,) and eigenvectors (L, L) of ``A A^T``."""
        values, vectors = torch.linalg.eigh(self.matrix @ self.matrix.T)
        return values.clamp_min(0), vectors


def make_axis(n_fine: int, n_coarse: int, first: float, factor: float, kind: Kind, width: float) -> Axis:
    """The operator along one whole axis; ``first`` is the fine index of the centre of the first coarse sample."""
    positions = first + factor * torch.arange(n_coarse, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    matrix = profile_matrices(
        kind,
        one * width,
        positions[None],
        one * factor,
        n_fine,
        torch.tensor([[n_fine, n_coarse]], dtype=torch.float64),
    )[0]
    return Axis(matrix, positions, factor, kind, width)


@dataclass(frozen=True, eq=False)
class Degradation:
    """``A``: from a fine grid (the wanted volume x) to a coarse one (the scan y). ``None`` marks an axis left alone."""

    axes: tuple[Axis | None, Axis | None, Axis | None]

    @classmethod
    def between(
        cls, target: Geometry, source: Geometry, profiles: Sequence[AxisProfile | tuple[Kind, float]]
    ) -> Degradation:
        """The operator from ``target`` (fine) to ``source`` (coarse); profiles: per axis, a profile or (kind, width).

        Raises PlanError when the grids do not share their axes or the source is finer than the target.
        """
        try:
            step, first = target.index_of(source)
        except ValueError as error:
            raise PlanError("the target grid is turned against the scan's; give a target with the same axes") from error
        if min(step) < 1 - 1e-6:
            raise PlanError(
                f"the target grid is coarser than the scan (factors {np.round(step, 4)}); give finer voxels"
            )
        axes: list[Axis | None] = []
        for a, profile in enumerate(profiles):
            kind, width = profile if isinstance(profile, tuple) else (profile.kind, profile.width)
            n, m = target.shape[a], source.shape[a]
            same = abs(step[a] - 1) < 1e-6 and abs(first[a]) < 1e-4 and n == m
            axes.append(None if same else make_axis(n, m, float(first[a]), float(step[a]), _filled(kind), width))
        return cls((axes[0], axes[1], axes[2]))

    @property
    def scaled(self) -> list[tuple[int, Axis]]:
        """The axes that change, with their index."""
        return [(a, axis) for a, axis in enumerate(self.axes) if axis is not None]

    def __call__(self, x: Tensor) -> Tensor:
        """``A x``: fine (I, J, K) to coarse."""
        for a, axis in self.scaled:
            x = along(x, axis.matrix, a)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T y``: coarse to fine."""
        for a, axis in self.scaled:
            y = along(y, axis.matrix.T, a)
        return y

    def pinv(self, y: Tensor, lam: float = 0.0) -> Tensor:
        """``A^T (A A^T + lam I)^-1 y`` by per-axis eigen-decompositions; lam 0 is the pseudo-inverse."""
        z, spectrum = y, torch.ones((), dtype=torch.float64)
        for a, axis in self.scaled:
            values, vectors = axis.eigen
            z = along(z, vectors.T, a)
            shape = [1, 1, 1]
            shape[a] = len(values)
            spectrum = spectrum * values.reshape(shape)
        floor = 1e-8 * spectrum.max()
        gain = torch.where(spectrum + lam > floor, 1 / (spectrum + lam).clamp_min(1e-30), 0.0)
        z = z * gain.to(z)
        for a, axis in self.scaled:
            z = along(z, axis.matrix.T @ axis.eigen[1], a)
        return z

    @cached_property
    def condition(self) -> float:
        """Ratio of the largest to the smallest singular value of ``A``."""
        ratio = 1.0
        for _, axis in self.scaled:
            values = axis.eigen[0]
            ratio *= float((values.max() / values.min().clamp_min(1e-30)).sqrt())
        return ratio


def _filled(kind: Kind) -> Kind:
    """An axis that changes needs a profile; a bare resampling averages over the new voxel."""
    return "box" if kind == "identity" else kind


def linear_mmse(y: Tensor, A: Degradation, lam: float | Mapping[int, float]) -> Tensor:
    """The separable linear estimate ``u`` of the fine volume (``mmse_matrices``); lam: noise over signal variance."""
    for a, axis in A.scaled:
        valid = torch.ones(1, len(axis.positions), dtype=torch.bool)
        ratio = torch.tensor([lam[a] if isinstance(lam, Mapping) else lam], dtype=torch.float64)
        y = along(y, mmse_matrices(axis.matrix[None], axis.positions[None], valid, ratio)[0], a)
    return y


# --- interpolation ----------------------------------------------------------------------------------------------


def interpolation_matrix(kind: Interpolation, n_coarse: int, where: np.ndarray) -> Tensor:
    """(n, n_coarse) weights that evaluate coarse samples at ``where`` (coarse index coordinates).

    ``cubic`` is the natural cubic spline. Beyond the first and last sample the line through the end is continued.
    """
    eye = np.eye(n_coarse)
    if n_coarse == 1:
        return torch.ones(len(where), 1, dtype=torch.float64)
    if kind == "nearest":
        # a tie between two voxels goes to the lower one on the left half and to the upper one on the right: symmetric
        index = np.where(where < (n_coarse - 1) / 2, np.ceil(where - 0.5), np.floor(where + 0.5))
        return torch.from_numpy(eye[np.clip(index, 0, n_coarse - 1).astype(int)])
    inside = np.clip(where, 0, n_coarse - 1)
    if kind == "cubic":
        spline = CubicSpline(np.arange(n_coarse), eye, bc_type="natural")
        weights = spline(inside) + (where - inside)[:, None] * spline(inside, 1)
        return torch.from_numpy(weights)
    reach = 1 if kind == "linear" else 3
    d = where[:, None] - np.arange(-reach, n_coarse + reach)
    raw = np.clip(1 - np.abs(d), 0, None) if kind == "linear" else np.sinc(d) * np.sinc(d / 3) * (np.abs(d) < 3)
    raw /= raw.sum(1, keepdims=True)
    ends = np.zeros((n_coarse + 2 * reach, n_coarse))  # virtual samples on the continued line
    ends[reach : reach + n_coarse] = eye
    for m in range(1, reach + 1):
        ends[reach - m, :2] = 1 + m, -m
        ends[reach + n_coarse - 1 + m, -2:] = -m, 1 + m
    return torch.from_numpy(raw @ ends)


def interpolate(y: Tensor, source: Geometry, target: Geometry, kind: Interpolation) -> Tensor:
    """Resample coarse voxels (I, J, K) onto the target grid, voxel centres aligned in space."""
    step, first = source.index_of(target)
    for a in range(3):
        where = first[a] + step[a] * np.arange(target.shape[a])
        if len(where) != source.shape[a] or np.abs(where - np.arange(len(where))).max() > 1e-9:
            y = along(y, interpolation_matrix(kind, source.shape[a], where), a)
    return y
