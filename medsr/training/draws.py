"""What is drawn for one training sample: where, at which pixel size and contrast, through which scanner, how noisy.

Numpy alone: the draws of the next batch can be made on the host while a device works on this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsr.degradation import KINDS
from medsr.diffusion.conditions import FOREGROUND
from medsr.errors import ConfigError
from medsr.image.acquired import Sharpness
from medsr.image.volume import Array, Modality

MARGIN = 24  # fine pixels between patch and window, the degraded region: four coarse pixels at factor 6
MAX_FACTOR = 6.0
MAX_SLICE_SPACING_MM = 3.5  # thicker slices are no target along the slice axis
MIN_SLICES = 32
Profile = tuple[int, float]  # index into KINDS, width in coarse spacings
SINC, GAUSS, BOX, TRIANGLE, HAMMING = (KINDS.index(k) for k in ("sinc", "gauss", "box", "triangle", "hamming"))


@dataclass(frozen=True, eq=False)
class Source:
    """A training volume in normalised units, with the facts that decide what it can teach.

    array: (I, J, K). sharpness: per axis, how far the stored grid is filled with true frequencies. weight: relative
    chance of being drawn.
    """

    array: Array
    spacing: tuple[float, float, float]
    sharpness: tuple[Sharpness, Sharpness, Sharpness]
    slice_axis: int
    modality: Modality
    subject: str
    weight: float


@dataclass(frozen=True)
class AxisDraw:
    """One axis of a sample. start, stop, patch_start: fine pixels of the whole (resampled) axis of n_fine pixels.

    positions: coarse samples in window coordinates. resample: fine pixel size over source voxel size.
    """

    start: int
    stop: int
    patch_start: int
    source_start: int
    source_stop: int
    resample: float
    n_fine: int
    n_coarse: int
    factor: float
    positions: np.ndarray
    true: Profile
    told: Profile


@dataclass(frozen=True)
class Contrast:
    """Change of intensity v, in this order: ``v ** exponent``, then ``1.05 - v`` if inverted, then coil field and gain.

    coil: coefficients a, b, c, e of the field's logarithm ``a r + b s + c r^2 + e s^2``; r, s run from -1 to 1 along
    the rows and the columns of the window.
    """

    exponent: float = 1.0
    inverted: bool = False
    coil: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    gain: float = 1.0


@dataclass(frozen=True)
class Draw:
    """One sample. voxels: (S, rows, columns) source voxels of the slice and its neighbours, a view where it can be.

    antialias: width of the profile that makes larger pixels. enhancement: a in ``x + a (x - blurred x)``, as of another
    reconstruction kernel; below 0 it softens. noise: standard deviation in normalised units, made from
    noise_seed. neighbour: distance of the next slice over the pixel size.
    """

    source: Source
    voxels: np.ndarray
    axes: tuple[AxisDraw, AxisDraw]
    antialias: float
    enhancement: float
    contrast: Contrast
    noise: float
    noise_seed: int
    coloured: bool
    unknown: bool
    neighbour: float


def draw_batch(
    sources: Sequence[Source],
    step: int,
    *,
    size: int,
    patch: int,
    context: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
) -> list[Draw]:
    """The samples rank, rank + processes, ... of the ``size`` samples of a step, each a function of its own number.

    share: (rank, processes). Raises ConfigError when a process would be left without a sample.
    """
    rank, processes = share
    if size < processes:
        raise ConfigError(
            f"a batch of {size} cannot be shared by {processes} processes; set batch to {processes} or more"
        )
    numbers = range(rank, size, processes)
    rngs = (np.random.default_rng((seed, step, number)) for number in numbers)
    return [draw_sample(sources, rng, patch=patch, context=context) for rng in rngs]


def draw_sample(sources: Sequence[Source], rng: np.random.Generator, *, patch: int, context: int) -> Draw:
    """Draw until the patch holds tissue (a fifth of its pixels), at most ten times."""
    weights = np.array([s.weight for s in sources])
    source = sources[int(rng.choice(len(sources), p=weights / weights.sum()))]
    for _ in range(9):
        draw = _draw(source, rng, patch, context)
        if (draw.voxels[context, ::2, ::2] > FOREGROUND).mean() > 0.2:
            return draw
    return _draw(source, rng, patch, context)


def _draw(source: Source, rng: np.random.Generator, patch: int, context: int) -> Draw:
    through = source.slice_axis
    deep = source.spacing[through] <= MAX_SLICE_SPACING_MM and source.array.shape[through] >= MIN_SLICES
    in_plane = [a for a in range(3) if a != through]
    plane = [in_plane[int(rng.integers(2))], through] if deep and rng.random() < 0.5 else in_plane
    if rng.random() < 0.5:
        plane = plane[::-1]
    unknown = bool(rng.random() < 0.3)
    factors = _factors(source, plane, through, rng)
    resample = _resample(source, plane, factors, unknown, rng)
    other = next(a for a in range(3) if a not in plane)
    pair = [_profiles(source, a, through, unknown, rng) for a in plane]
    if plane == in_plane or plane == in_plane[::-1]:
        pair[1] = pair[0] if rng.random() < 0.8 else pair[1]
    axes = [
        _axis(source.array.shape[a], resample, f, true, told, patch, rng)
        for a, f, (true, told) in zip(plane, factors, pair, strict=True)
    ]
    voxels = _slices(source.array, plane, other, axes, context, rng)
    row, column = (source.spacing[a] * resample for a in plane)
    return Draw(
        source,
        voxels,
        (axes[0], axes[1]),
        float(rng.uniform(0.6, 0.95)),
        _enhancement(source.modality, rng),
        _contrast(source.modality, rng),
        _noise(source.modality, rng),
        int(rng.integers(2**62)),
        bool(source.modality == "CT" and rng.random() < 0.5),
        unknown,
        source.spacing[other] / math.sqrt(row * column),
    )


def _slices(
    array: Array, plane: list[int], other: int, axes: list[AxisDraw], context: int, rng: np.random.Generator
) -> np.ndarray:
    """(S, rows, columns): the drawn slice between its neighbours (the end slice repeated), randomly mirrored."""
    view = array.transpose(other, plane[0], plane[1])
    for axis in (0, 1, 2):
        if rng.random() < 0.5:
            view = np.flip(view, axis)
    rows, columns = (slice(a.source_start, a.source_stop) for a in axes)
    view = view[:, rows, columns]
    middle = int(rng.integers(len(view)))
    if context <= middle < len(view) - context:
        return view[middle - context : middle + context + 1]
    return view[np.clip(np.arange(middle - context, middle + context + 1), 0, len(view) - 1)]


def _factors(source: Source, plane: list[int], through: int, rng: np.random.Generator) -> list[float]:
    """Equal in plane, along the slice axis alone, on one axis, or different; whole factors more often."""

    def one() -> float:
        if rng.random() < 0.45:
            return float(rng.choice([2.0, 4.0, 3.0, 5.0], p=[0.45, 0.4, 0.1, 0.05]))
        return float(np.exp(rng.uniform(np.log(1.2), np.log(MAX_FACTOR))))

    first, kind = one(), rng.random()
    if through in plane:
        single = plane.index(through) if kind < 0.8 else 1 - plane.index(through)
        factors = [first, one()] if kind > 0.9 else [first if i == single else 1.0 for i in (0, 1)]
    elif kind < 0.6:
        factors = [first, first]
    elif kind < 0.75:
        factors = [first, one()]
    else:
        single = int(rng.integers(2))
        factors = [first if i == single else 1.0 for i in (0, 1)]
    # never fewer than 8 coarse samples on an axis
    return [max(1.0, min(f, source.array.shape[a] / 8)) for a, f in zip(plane, factors, strict=True)]


def _resample(source: Source, plane: list[int], factors: list[float], unknown: bool, rng: np.random.Generator) -> float:
    """Pixel size over source pixel size: enough to make every scaled axis truly sampled, else now and then."""
    room = min(source.array.shape[a] for a in plane) / 40
    need = 1.0
    for a, f in zip(plane, factors, strict=True):
        if f == 1.0:
            continue
        if source.sharpness[a] == "smooth" and rng.random() < (0.4 if unknown else 0.6):
            need = max(need, 1.35)
        if source.sharpness[a] == "band-limited" and rng.random() < (0.75 if unknown else 0.97):
            need = max(need, 1.75)
    if need > room:
        return max(1.0, room) if room > 1.2 else 1.0
    if need == 1.0 and rng.random() < 0.6:
        return 1.0
    return float(rng.uniform(max(need, 1.1), max(need, min(2.5, room)) + 0.1)) if room > 1.2 else 1.0


def _profiles(
    source: Source, axis: int, through: int, unknown: bool, rng: np.random.Generator
) -> tuple[Profile, Profile]:
    """True and told profile of one axis. An unknown one is told as what would be assumed."""
    kind = rng.random()
    if source.modality == "MR":
        sinc = 0.25 if axis == through else 0.45
        gauss = sinc + 0.3
    else:
        sinc, gauss = 0.03, 0.5 if axis != through else 0.35
    if kind < sinc:
        true: Profile = (SINC, 1.0)
    elif kind < gauss:
        true = (GAUSS, float(rng.choice([1.0, rng.uniform(0.6, 1.4)])))
    else:
        true = (BOX, float(rng.choice([1.0, rng.uniform(0.6, 1.4)])))
    if not unknown:
        return true, true
    if rng.random() < 0.25:  # kernels that nobody can name to the network
        true = (HAMMING, 1.0) if true[0] == SINC else (TRIANGLE, float(rng.uniform(0.7, 1.3)))
    if axis != through:
        return true, (SINC, 1.0) if source.modality == "MR" else (GAUSS, 1.0)
    return true, (GAUSS, 1.0) if source.modality == "MR" else (BOX, 1.0)


def _axis(
    n_source: int, resample: float, factor: float, true: Profile, told: Profile, patch: int, rng: np.random.Generator
) -> AxisDraw:
    n_fine = max(1, int(n_source / resample))
    n_coarse = n_fine if factor == 1.0 else max(2, int(n_fine / factor + 0.5))
    exact = n_fine / n_coarse
    patch_start = int(rng.integers(max(1, n_fine - patch + 1)))
    start, stop = max(0, patch_start - MARGIN), min(n_fine, patch_start + patch + MARGIN)
    positions = (np.arange(n_coarse) + 0.5) * exact - 0.5 - start
    positions = positions[(positions > -0.5 + 1e-6) & (positions < stop - start - 0.5 - 1e-6)]
    if exact == 1.0:
        true = told = (0, 1.0)
    reach = 3 * resample if resample > 1 else 0.0
    source_start = max(0, math.floor(start * resample - reach))
    source_stop = min(n_source, math.ceil(stop * resample + reach))
    return AxisDraw(
        start, stop, patch_start, source_start, source_stop, resample, n_fine, n_coarse, exact, positions, true, told
    )


def _enhancement(modality: Modality, rng: np.random.Generator) -> float:
    """Often 0; else from a soft reconstruction kernel to a sharp one, which CT scanners have and MR filters less so."""
    often, softest, sharpest = (0.5, -0.5, 2.0) if modality == "CT" else (0.3, -0.4, 1.0)
    return float(rng.uniform(softest, sharpest)) if rng.random() < often else 0.0


def _noise(modality: Modality, rng: np.random.Generator) -> float:
    """Standard deviation in normalised units: none in half of the samples, else 0.2 to 3 %."""
    if rng.random() < 0.5:
        return 0.0
    return float(np.exp(rng.uniform(np.log(0.002), np.log(0.03 if modality == "MR" else 0.025))))


def _contrast(modality: Modality, rng: np.random.Generator) -> Contrast:
    """Monotone contrast, inversion and a smooth coil field, each now and then, and a gain for MR; a gain for CT."""
    if modality == "CT":
        return Contrast(gain=float(rng.uniform(0.92, 1.08)))
    exponent = float(np.exp(rng.normal(0, 0.25))) if rng.random() < 0.5 else 1.0
    inverted = bool(rng.random() < 0.1)
    coil = tuple(rng.normal(0, (0.35, 0.35, 0.25, 0.25))) if rng.random() < 0.4 else Contrast.coil
    return Contrast(exponent, inverted, coil, float(np.exp(rng.normal(0, 0.2))))
