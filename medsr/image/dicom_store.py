"""From the values of a result to 16-bit samples and their scale: nothing is clipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsr.errors import JobError
from medsr.image.dicom_copy import decimal_of_any_size
from medsr.image.dicom_frames import Frame
from medsr.image.volume import Array, Volume
from medsr.machine import cores

Samples = NDArray[np.int16] | NDArray[np.uint16]

_STEPS = 1 << 16
_ROUGH = 64  # steps of the scale over all values: fewer, and rounding shows
_FINE = 1024
_SLAB = 32  # slices turned at a time: two cache lines of float32 where k is the fastest axis
_MAX_THREADS = 8


@dataclass(frozen=True)
class Scale:
    """values = slope * stored + intercept; stored samples have 16 bits."""

    slope: float
    intercept: float
    signed: bool

    @property
    def ends(self) -> tuple[int, int]:
        """Smallest and largest sample."""
        return (-(_STEPS >> 1), (_STEPS >> 1) - 1) if self.signed else (0, _STEPS - 1)

    def holds(self, low: float, high: float) -> bool:
        """True when both values can be stored."""
        first, last = self.ends
        return bool(np.rint((low - self.intercept) / self.slope) >= first) and bool(
            np.rint((high - self.intercept) / self.slope) <= last
        )

    @property
    def plain(self) -> bool:
        """True when samples are values."""
        return self.slope == 1 and self.intercept == 0


def scale_of(volumes: Sequence[Volume], frames: Sequence[Frame]) -> Scale:
    """One scale for all volumes of a series. frames: of the source.

    CT: whole HU, signed, intercept 0; unsigned with an intercept beyond that. MR: the finest slope among the source's
    frames, and its intercept and sign where the values fit; doubled until they fit, halved where the values span so few
    steps that rounding would show (a result that is not in the template's units). Raises JobError for CT beyond 16
    bits, and for NaN and Inf.
    """
    low, high = _span(volumes)
    if volumes[0].modality == "CT":
        for scale in (Scale(1.0, 0.0, signed=True), Scale(1.0, float(np.floor(low)), signed=False)):
            if scale.holds(low, high):
                return scale
        raise JobError(f"{low:g} to {high:g} HU cannot be stored in 16 bits; write NIfTI (-o NAME.nii.gz)")
    slope = min(abs(frame.slope) for frame in frames)
    if 0 < high - low < _ROUGH * slope:
        slope *= 2.0 ** -np.ceil(np.log2(_FINE * slope / (high - low)))
    while True:  # ends: the last candidate holds whatever spans few enough steps
        slope = _as_written(slope)
        for scale in _candidates(slope, low, frames):
            if scale.holds(low, high):
                return scale
        slope *= 2


def _candidates(slope: float, low: float, frames: Sequence[Frame]) -> list[Scale]:
    """Scales for MR, the best first."""
    intercept = next((frame.inter for frame in frames if abs(frame.slope) == slope), 0.0)
    signed = frames[0].layout.signed
    starts = dict.fromkeys((intercept, 0.0))
    return [
        *(Scale(slope, start, sign) for start in starts for sign in (signed, not signed)),
        Scale(slope, _as_written(low), signed=False),
    ]


def _as_written(value: float) -> float:
    """A number of the scale as the file will have it."""
    return float(decimal_of_any_size(value))


def _span(volumes: Sequence[Volume]) -> tuple[float, float]:
    ends = np.array([(float(v.array.min()), float(v.array.max())) for v in volumes])
    if not np.isfinite(ends).all():
        raise JobError("the series was not written: the result holds NaN or Inf, a fault of medsr")
    return float(ends[:, 0].min()), float(ends[:, 1].max())


def stored(array: Array, scale: Scale) -> Samples:
    """(K, rows, columns) little-endian samples of an array (I, J, K), rounded to the nearest step."""
    ni, nj, nk = array.shape
    out = np.empty((nk, nj, ni), "<i2" if scale.signed else "<u2")
    whole_slices = array.strides[0] <= array.strides[2]

    def fill(part: slice) -> None:
        if whole_slices:
            for k in range(part.start, part.stop):
                np.rint(_steps(array[:, :, k].T, scale), out=out[k], casting="unsafe")
        else:  # to turn plane after plane is several times faster than to read each slice across all memory
            for j in range(nj):
                out[part, j] = np.rint(_steps(array[:, j, part], scale)).astype(out.dtype).T

    with ThreadPoolExecutor(min(_MAX_THREADS, cores())) as pool:
        list(pool.map(fill, _slabs(nk)))
    return out


def _steps(values: NDArray[np.float32], scale: Scale) -> NDArray[np.floating[Any]]:
    return values if scale.plain else (values.astype(np.float64) - scale.intercept) / scale.slope


def _slabs(count: int) -> Iterator[slice]:
    return (slice(k, min(k + _SLAB, count)) for k in range(0, count, _SLAB))


def padding_in(volumes: Sequence[Samples], frames: Sequence[Frame], scale: Scale) -> int | None:
    """The sample that marks what is no image, where the source names one and it is still the darkest; else None.

    A source that names several, or whose negative was turned into a positive, has none that holds.
    """
    named = {frame.padding for frame in frames}
    values = {frame.slope * frame.padding[0] + frame.inter for frame in frames if frame.padding is not None}
    turned = frames[0].layout.photometric == "MONOCHROME1" and frames[0].kind.modality == "MR"
    if len(values) != 1 or turned or any(ends is None or ends[0] != ends[1] for ends in named):
        return None
    sample = round((values.pop() - scale.intercept) / scale.slope)
    return sample if sample == min(int(v.min()) for v in volumes) else None
