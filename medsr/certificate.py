"""The data-consistency certificate: does the result, degraded again, give the scan back?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medsr.degradation import Degradation
from medsr.image.foreground import foreground
from medsr.image.intensity import CT_AIR_HU
from medsr.image.volume import Volume
from medsr.plan import Plan


@dataclass(frozen=True)
class Certificate:
    """residual: RMS of A x - y over the foreground, over the standard deviation of y there. residual_hu: in HU for CT.

    It cannot see what A does not transmit: a small residual says that nothing measured was changed, not that what was
    added is true.
    """

    residual: float
    residual_hu: float | None
    consistency: str
    profiles: tuple[str, str, str]
    known: bool

    def to_json(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return {
            "residual": self.residual,
            "residual_hu": self.residual_hu,
            "consistency": self.consistency,
            "profiles": list(self.profiles),
            "profiles_known": self.known,
            "meaning": "RMS(A x - y) / SD(y) over the foreground, on the voxels as written",
        }


def certify(array: NDArray[np.float32], scan: Volume, A: Degradation, plan: Plan) -> Certificate:
    """Measure on the voxels as written. array: (I, J, K) on the target grid; scan: on the acquired grid."""
    is_ct = scan.modality == "CT"
    x = np.maximum(array, np.float32(CT_AIR_HU)) if is_ct else array
    y = np.maximum(scan.array, np.float32(CT_AIR_HU)) if is_ct else scan.array
    again = A(torch.from_numpy(x)).numpy()
    mask = foreground(scan.array, scan.modality, plan.slice_axis)
    if not mask.any():
        mask = np.ones_like(mask)
    difference = (again - y)[mask].astype(np.float64)
    rms = float(np.sqrt(np.mean(difference**2)))
    deviation = float(y[mask].std(dtype=np.float64))
    i, j, k = plan.profiles
    return Certificate(
        residual=rms / max(deviation, 1e-12),
        residual_hu=rms if is_ct else None,
        consistency=plan.consistency,
        profiles=(str(i), str(j), str(k)),
        known=all(p.known for p in plan.profiles),
    )
