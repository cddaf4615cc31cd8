"""Pieces of reference volumes, degraded in memory as a protocol says: what the studies on validation scans run on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medsr.card import ModelCard
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.nifti import inspect, read
from medsr.image.volume import Volume
from medsr.plan import Plan, Request, make_plan
from medsr.protocols import protocol, seed_of, simulate

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import Case


@dataclass(frozen=True, eq=False)
class Crop:
    """The middle of a reference volume and the scan that a coarser scanner would have made of it."""

    case: Case
    protocol: str
    reference: Volume
    scan: Volume
    slice_axis: int

    def plan(self, card: ModelCard, **fields: object) -> Plan:
        """Back to the reference's grid, told what the protocol tells. fields: further ones of a ``Request``."""
        told = Header(
            path=self.case.path,
            format="nifti",
            geometry=self.scan.geometry,
            dtype="float32",
            modality=self.scan.modality,
            modality_evidence="INDEX.csv",
            slice_axis=self.slice_axis,
        )
        request = Request(
            target=self.reference.geometry,
            profile=protocol(self.protocol).told_profile,
            from_acquired="off",
            **fields,  # type: ignore[arg-type]
        )
        return make_plan(told, request, card)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the metrics look."""
        return foreground(self.reference.array, self.reference.modality, self.slice_axis)

    @property
    def factors(self) -> tuple[float, ...]:
        """Voxel size of the scan over that of the reference, i x j x k."""
        pairs = zip(self.reference.array.shape, self.scan.array.shape, strict=True)
        return tuple(fine / coarse for fine, coarse in pairs)

    @property
    def across(self) -> int:
        """The axis across which neighbouring slices are compared: the first that the protocol leaves alone."""
        return self.factors.index(1.0)


def crop(case: Case, name: str, *, side: int, slices: int, columns: int) -> Crop:
    """The middle of a volume under a protocol, whole along the slice axis where that is made coarser.

    In-plane protocols take ``side`` x ``side`` voxels of ``slices`` slices, others ``columns`` x ``columns`` of all.
    """
    rule, header = protocol(name), inspect(case.path)
    volume = read(case.path, modality=case.modality)
    along = header.slice_axis
    through = rule.axes == "slice"
    size = dict.fromkeys(range(3), columns if through else side)
    size[along] = volume.array.shape[along] if through else slices
    reference = middle(volume, size)
    generator = torch.Generator().manual_seed(seed_of(case.path.name))
    scan = simulate(reference, rule, generator, slice_axis=along)
    return Crop(case, name, reference, scan, along)


def middle(volume: Volume, size: dict[int, int]) -> Volume:
    """The middle ``size[axis]`` voxels of each axis, or all where there are fewer; the affine goes with it."""
    cut = []
    for axis, n in enumerate(volume.array.shape):
        kept = min(n, size[axis])
        start = (n - kept) // 2
        cut.append(slice(start, start + kept))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in cut]
    array = np.ascontiguousarray(volume.array[tuple(cut)])
    return Volume(array, Geometry((array.shape[0], array.shape[1], array.shape[2]), affine), volume.modality)
