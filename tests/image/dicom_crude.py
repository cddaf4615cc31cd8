"""Derived series without a model: a volume interpolated onto a finer grid and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from medsr.image.dicom_read import read_scan
from medsr.image.dicom_write import Derivation, WrittenSeries, write_series
from medsr.image.header import Header
from medsr.image.volume import Volume

DERIVATION = Derivation(
    model="interpolation 1.0",
    model_sha256="0" * 64,
    parameters={"kind": "linear"},
    description="Linear interpolation, a stand-in for a model. AI SR, not acquired. Research use only.",
    software="0.0",
    created=datetime(2026, 2, 3, 4, 5, 6),
)


@dataclass(frozen=True, eq=False)
class Crude:
    """A series written into a folder; volumes are what was to be stored."""

    folder: Path
    source: Header
    volumes: tuple[Volume, ...]
    written: WrittenSeries


def finer(volume: Volume, scale: Sequence[float]) -> Volume:
    """Linear interpolation onto ``Geometry.with_scale``; beyond the outermost voxel centres, the nearest value."""
    geometry = volume.geometry.with_scale(scale)
    step, first = volume.geometry.index_of(geometry)
    index = np.meshgrid(
        *[f + s * np.arange(n) for f, s, n in zip(first, step, geometry.shape, strict=True)], indexing="ij"
    )
    array = map_coordinates(volume.array, index, order=1, mode="nearest").astype(np.float32)
    return replace(volume, array=array, geometry=geometry)


def write_crude(
    folder: Path, source: Header, scale: Sequence[float] = (1.5, 2, 2), derivation: Derivation = DERIVATION
) -> Crude:
    """Read a series, refine all its volumes and write them; folder: is made."""
    modality = source.modality if source.foreign else None
    volumes = []
    for index in range(source.volumes):
        volume = read_scan(source, volume=index, modality=modality).volume
        volumes.append(finer(volume, scale))
    folder.mkdir(parents=True)
    return Crude(folder, source, tuple(volumes), write_series(folder, volumes, source, derivation))
