"""The middle of a reference volume, and the scan that a coarser scanner would have made of it: studies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medsr.card import ModelCard
from medsr.image.foreground import foreground
from medsr.image.header import Header
from medsr.image.volume import Volume
from medsr.plan import Plan, make_plan
from medsr.protocols import protocol, seed_of, simulate
from medsr.request import Request

_DEFAULTS = Request()


@dataclass(frozen=True, eq=False)
class Crop:
    """A reference and the scan made of it under a protocol. header: of the scan, under the reference's file name."""

    protocol: str
    reference: Volume
    scan: Volume
    header: Header

    def plan(self, card: ModelCard, request: Request = _DEFAULTS) -> Plan:
        """Back to the reference's grid, told what the protocol tells; the rest is as ``request`` says."""
        told = replace(
            request,
            target=self.reference.geometry,
            profile=protocol(self.protocol).told_profile,
            from_acquired="off",
            model=card.name,
        )
        return make_plan(self.header, told, card)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the metrics look: the reference's foreground."""
        return foreground(self.reference.array, self.reference.modality, self.header.slice_axis)

    @property
    def factors(self) -> tuple[float, ...]:
        """Voxel size of the scan over that of the reference, i x j x k."""
        pairs = zip(self.reference.array.shape, self.scan.array.shape, strict=True)
        return tuple(fine / coarse for fine, coarse in pairs)

    @property
    def across(self) -> int:
        """The axis across which neighbouring slices are compared: the first that the protocol leaves alone."""
        return self.factors.index(1.0)


def middle(volume: Volume, most: Sequence[int]) -> Volume:
    """The middle ``most[axis]`` voxels of each axis, or all where there are fewer; they stay where they were."""
    kept = [min(n, limit) for n, limit in zip(volume.array.shape, most, strict=True)]
    start = [(n - m) // 2 for n, m in zip(volume.array.shape, kept, strict=True)]
    box = tuple(slice(a, a + m) for a, m in zip(start, kept, strict=True))
    array = np.ascontiguousarray(volume.array[box])
    provenance = volume.provenance.then("cropped", start=start, shape=kept)
    return Volume(array, volume.geometry.cropped(box), volume.modality, provenance)


def degraded(reference: Volume, name: str, path: Path, slice_axis: int) -> Crop:
    """``reference`` under the protocol ``name``; path: its file, whose name seeds the noise."""
    generator = torch.Generator().manual_seed(seed_of(path.name))
    scan = simulate(reference, protocol(name), generator, slice_axis=slice_axis)
    header = Header(
        path=path,
        format="nifti",
        geometry=scan.geometry,
        dtype="float32",
        modality=scan.modality,
        modality_evidence="that of the reference",
        slice_axis=slice_axis,
    )
    return Crop(name, reference, scan, header)
