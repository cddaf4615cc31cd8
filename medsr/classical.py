"""The classical ways back to a finer grid: what medsr is compared with, told exactly what it is told."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from medsr.degradation import Degradation, Interpolation, interpolate, linear_mmse
from medsr.diffusion.conditions import FOREGROUND, estimate_noise, noise_over_signal
from medsr.image.geometry import Geometry
from medsr.image.intensity import CT_AIR_HU, fit_intensity
from medsr.image.profile import AxisProfiles
from medsr.image.volume import Array, Volume
from medsr.reconstruction import UNKNOWN_WEIGHT

METHODS: dict[str, str] = {
    "nearest": "the nearest voxel of the scan",
    "linear": "linear interpolation",
    "cubic": "natural cubic spline",
    "Lanczos": "Lanczos interpolation, three lobes",
    "zero-fill": "k-space of the scan, filled up with zeros",
    "cubic + consistency": "natural cubic spline, then changed as little as makes it agree with the scan",
    "linear MMSE": "linear estimate of least mean squared error, from the profile and the scan's noise",
}
_INTERPOLATIONS: dict[str, Interpolation] = {
    "nearest": "nearest", "linear": "linear", "cubic": "cubic", "Lanczos": "lanczos"
}  # fmt: skip


def classical(
    scan: Volume, target: Geometry, profiles: AxisProfiles, names: Collection[str] = tuple(METHODS)
) -> Iterator[tuple[str, Array]]:
    """Each method of ``names``, in the order of METHODS, and its image (I, J, K) on ``target`` in units of the scan.

    profiles: what is told of the scan, or assumed where nothing is. As in the network's path, CT below -1024 HU
    (padding) counts as air and the result is in whole HU. Raises ValueError for an unknown name, PlanError for a
    target that is coarser than the scan or turned against it.
    """
    if unknown := set(names) - METHODS.keys():
        raise ValueError(f"no classical methods: {', '.join(sorted(unknown))}; there are: {', '.join(METHODS)}")
    is_ct = scan.modality == "CT"
    array = np.maximum(scan.array, np.float32(CT_AIR_HU)) if is_ct else scan.array
    intensity = fit_intensity(array, scan.modality)
    y = torch.from_numpy(np.ascontiguousarray(intensity.apply(array)))
    A = Degradation.between(target, scan.geometry, profiles)
    known = all(p.known for p in profiles)
    for name in (m for m in METHODS if m in names):
        image = intensity.invert(_image(name, y, A, scan.geometry, target, known=known).numpy())
        yield name, np.maximum(np.rint(image), np.float32(CT_AIR_HU)) if is_ct else image


def _image(name: str, y: Tensor, A: Degradation, source: Geometry, target: Geometry, *, known: bool) -> Tensor:
    if name in _INTERPOLATIONS:
        return interpolate(y, source, target, _INTERPOLATIONS[name])
    if name == "zero-fill":
        return Degradation.between(target, source, [("sinc", 1.0)] * 3).pinv(y)
    if name == "cubic + consistency":
        cubic = interpolate(y, source, target, "cubic")
        return cubic + A.pinv(y - A(cubic), 0.0 if known else UNKNOWN_WEIGHT)
    return linear_mmse(y, A, noise_ratio(y, A))


def noise_ratio(y: Tensor, A: Degradation) -> float:
    """lambda of the linear estimate, measured on the plane that holds the coarser axes. y: (I, J, K), normalised."""
    scaled = [a for a, _ in A.scaled]
    plane = scaled if len(scaled) == 2 else [scaled[0], max({0, 1, 2} - set(scaled), key=lambda a: y.shape[a])]
    slices = y.permute(3 - sum(plane), *plane)[None].contiguous()
    noise = estimate_noise(slices, torch.ones_like(slices))
    factors = torch.tensor([[axis.factor if (axis := A.axes[a]) else 1.0 for a in plane]])
    ratios = noise_over_signal(slices, (slices > FOREGROUND).float(), noise, factors)[0]
    return float(torch.stack([ratios[plane.index(a)] for a in scaled]).mean())
