"""All metrics of a prediction at once; what depends on the reference alone is worked out once for many predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medsr.evaluation.bias import Tissues
from medsr.evaluation.metrics import Voxels, data_range, mean_absolute_error, psnr, psnr_whole, ssim
from medsr.evaluation.noise import noise_ceiling
from medsr.evaluation.record import Curve, Reliability
from medsr.evaluation.registration import MISALIGNED, Smooth, shift_of_smoothed, smoothed
from medsr.evaluation.texture import Texture
from medsr.evaluation.uncertainty import coverage, mse_ratio, spread_skill
from medsr.image.foreground import foreground
from medsr.image.volume import Modality

CURVE_BINS = 32  # of the spectrum: as fine as a plot shows, and small in a file
RELIABILITY_BINS = 10

Mask = NDArray[np.bool_]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Measured:
    """metrics: keys of ``record.METRICS``, those that volume and factors allow. spectrum: over the scaled axes.

    Every value is finite: the PSNR of equal arrays is infinite, which no JSON file can hold, and is left out with a
    warning. warnings: one line each.
    """

    metrics: dict[str, float]
    spectrum: Curve | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Stated:
    """How true a stated uncertainty is. metrics: spread_skill, coverage_90 and, with a sample, mse_ratio."""

    metrics: dict[str, float]
    reliability: Reliability


@dataclass(frozen=True, eq=False)
class Reference:
    """A volume to which predictions are compared. array, mask: (I, J, K); span: the range of PSNR and SSIM.

    factors: voxel size of the scan over that of the reference along i, j, k, 1 on axes that were left alone and where
    nothing is known. It is made by ``of``.
    """

    array: Voxels
    modality: Modality
    slice_axis: int
    factors: tuple[float, ...]
    mask: Mask
    span: float

    @classmethod
    def of(
        cls, array: Voxels, modality: Modality, slice_axis: int = 2, factors: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> Reference:
        """array: (I, J, K), in HU for CT. Raises ValueError for NaN or Inf, or for an MR volume without a range."""
        _check_finite(array, "reference")
        span = data_range(array, modality)
        if not span > 0:
            raise ValueError("the reference is constant but for a thousandth of its voxels; it has no PSNR and no SSIM")
        mask = foreground(array, modality, slice_axis)
        return cls(array, modality, slice_axis, tuple(float(f) for f in factors), mask, span)

    def measure(self, prediction: Voxels) -> Measured:
        """Every metric of one prediction (I, J, K). Raises ValueError for another shape, NaN or Inf."""
        if prediction.shape != self.array.shape:
            raise ValueError(f"the prediction has shape {prediction.shape}; the reference has {self.array.shape}")
        _check_finite(prediction, "prediction")
        metrics: dict[str, float | None] = {
            "psnr": psnr(self.array, prediction, data_range=self.span, mask=self.mask),
            "psnr_whole": psnr_whole(self.array, prediction),
        }
        similarity = ssim(self.array, prediction, data_range=self.span, axis=self.slice_axis)
        metrics |= {"ssim_3d": similarity.ssim_3d, "ssim_2d": similarity.ssim_2d}
        if self.modality == "CT":
            metrics |= self._bias(prediction)
        else:
            metrics["mae"] = mean_absolute_error(self.array, prediction, mask=self.mask)
        ratio = _possible(lambda: self._texture.ratio(prediction))
        between = _possible(lambda: self._texture.between_slices(prediction))
        metrics |= {
            "spectrum_error": _possible(lambda: ratio.error) if ratio else None,
            "hfen": _possible(lambda: self._texture.hfen(prediction)),
            "between_slices": between.whole if between else None,
            "between_slices_fine": between.fine if between else None,
        }
        moved = _possible(lambda: shift_of_smoothed(self._smooth, smoothed(prediction), mask=self.mask))
        metrics["shift"] = max(map(abs, moved)) if moved else None
        warnings = _misalignment(moved) if moved else ()
        if metrics["psnr"] == math.inf:
            warnings += ("equal to the reference over the foreground: its PSNR is infinite and left out",)
        return Measured(
            {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)},
            _curve(*ratio.curve(CURVE_BINS)) if ratio else None,
            warnings,
        )

    def stated(self, mean: Voxels, std: Voxels, sample: Voxels | None = None) -> Stated:
        """Whether ``std`` tells the error of ``mean``, over the foreground; all (I, J, K), in the scan's units.

        sample: one draw of the posterior, for mse_ratio. Raises ValueError as ``measure``, and for negative ``std``.
        """
        for name, array in (("mean", mean), ("std", std), ("sample", sample)):
            if array is not None and array.shape != self.array.shape:
                raise ValueError(f"{name} has shape {array.shape}; the reference has {self.array.shape}")
            if array is not None:
                _check_finite(array, name)
        truth = self.array[self.mask].astype(np.float64)
        error, spread, every = mean[self.mask] - truth, std[self.mask], np.ones(truth.shape, bool)
        metrics = {
            "spread_skill": _possible(lambda: spread_skill(error, spread, mask=every)),
            "coverage_90": coverage(error, spread, mask=every),
        }
        if sample is not None:
            drawn = sample[self.mask] - truth
            metrics["mse_ratio"] = _possible(lambda: mse_ratio(drawn, error, mask=every))
        return Stated({k: v for k, v in metrics.items() if v is not None}, reliability(error, spread, mask=every))

    @cached_property
    def noise_ceiling(self) -> float | None:
        """See ``noise.noise_ceiling``."""
        return noise_ceiling(self.array, mask=self.mask, slice_axis=self.slice_axis, data_range=self.span)

    def _bias(self, prediction: Voxels) -> dict[str, float | None]:
        found = self._tissues.bias(self.array, prediction, mask=self.mask)
        return {
            "mae": found.mae,
            "bias_lung": found.lung,
            "bias_fat": found.fat,
            "bias_soft": found.soft,
            "bias_bone": found.bone,
            "bias_foreground": found.foreground,
        }

    @cached_property
    def _tissues(self) -> Tissues:
        return Tissues.of(self.array, self.slice_axis)

    @cached_property
    def _texture(self) -> Texture:
        return Texture(self.array, self.mask, self.slice_axis, self.factors)

    @cached_property
    def _smooth(self) -> Smooth:
        return smoothed(self.array)


def measure(
    reference: Voxels,
    prediction: Voxels,
    *,
    modality: Modality,
    slice_axis: int = 2,
    factors: Sequence[float] = (1.0, 1.0, 1.0),
) -> Measured:
    """``Reference.measure`` for a single prediction."""
    return Reference.of(reference, modality, slice_axis, factors).measure(prediction)


def reliability(error: Voxels, std: Voxels, *, mask: Mask, bins: int = RELIABILITY_BINS) -> Reliability:
    """Stated against true error: voxels of the mask in ``bins`` classes of equal number by stated ``std``.

    error, std, mask: of one shape. Each class has the root mean square of both; a true statement lies on the diagonal.
    Equal values of ``std`` stay together, so there may be fewer classes. Raises ValueError for unequal shapes, an empty
    mask or negative ``std``.
    """
    if not error.shape == std.shape == mask.shape:
        raise ValueError(f"arrays {error.shape} and {std.shape} and mask {mask.shape} need one shape")
    errors, stated = error[mask].astype(np.float64), std[mask].astype(np.float64)
    if not stated.size:
        raise ValueError("the mask is empty; a reliability needs at least one voxel")
    if stated.min() < 0:
        raise ValueError(f"the smallest standard deviation is {stated.min():g}; none is below 0")
    edges = np.unique(np.quantile(stated, np.arange(1, bins) / bins))
    index = np.searchsorted(edges, stated, side="right")
    voxels = np.bincount(index)
    some = voxels > 0
    squares = [np.bincount(index, values**2)[some] / voxels[some] for values in (stated, errors)]
    stated_rms, error_rms = (tuple(float(v) for v in np.sqrt(square)) for square in squares)
    return Reliability(stated=stated_rms, error=error_rms, voxels=tuple(int(n) for n in voxels[some]))


def _possible(metric: Callable[[], Value]) -> Value | None:
    """A metric, or None where the volume does not allow it, as the metrics tell by ValueError."""
    try:
        return metric()
    except ValueError:
        return None


def _check_finite(array: Voxels, name: str) -> None:
    # The sum is finite only if all are; it needs no second array.
    if not np.isfinite(np.sum(array, dtype=np.float64)):
        raise ValueError(f"the {name} holds NaN or Inf")


def _misalignment(moved: Sequence[float]) -> tuple[str, ...]:
    axis = int(np.argmax(np.abs(moved)))
    if abs(moved[axis]) <= MISALIGNED:
        return ()
    return (
        f"misaligned by {moved[axis]:+.2f} voxels along {'ijk'[axis]}; check origin and spacing: half-voxel shifts are "
        "a common fault",
    )


def _curve(frequency: NDArray[np.float64], decibels: NDArray[np.float64]) -> Curve:
    return Curve(
        frequency=tuple(round(float(f), 5) for f in frequency), decibels=tuple(round(float(d), 3) for d in decibels)
    )
