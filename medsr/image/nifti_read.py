"""``read`` for NIfTI and MGH: voxels to a ``Volume``, every byte checked on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError, PlanError
from medsr.image.files import display_name, sha256_of
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.modality import EXPLICIT, by_voxels
from medsr.image.nifti_affine import Prefer
from medsr.image.nifti_header import Layout
from medsr.image.nifti_inspect import inspect
from medsr.image.nifti_stream import finish, opened, read_exactly, skip
from medsr.image.volume import Array, Modality, Provenance, Volume

MAX_INVALID = 0.01  # share of voxels that may be NaN or Inf
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume as read, with what belongs to the file and not to the image.

    invalid: (I, J, K) True where the file holds NaN or Inf (the volume has neighbouring values there), or None.
    warnings: one line each, those of the header included.
    """

    volume: Volume
    header: Header
    invalid: Mask | None = None
    warnings: tuple[str, ...] = ()

    def invalid_on(self, geometry: Geometry) -> Mask | None:
        """The mask of invalid voxels on another grid along the same axes, by nearest neighbour; None if all are valid.

        Raises ValueError when the grids do not share their axes.
        """
        if self.invalid is None:
            return None
        step, first = self.volume.geometry.index_of(geometry)
        nearest = [
            np.clip(np.floor(first[axis] + step[axis] * np.arange(n) + 0.5), 0, self.invalid.shape[axis] - 1)
            for axis, n in enumerate(geometry.shape)
        ]
        return self.invalid[np.ix_(*[index.astype(int) for index in nearest])]


def read(
    path: Path,
    *,
    volume: int | None = None,
    modality: Modality | None = None,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
    header: Header | None = None,
) -> Volume:
    """Read one 3-D volume: ``read_scan`` without the mask of invalid voxels and the warnings."""
    scan = read_scan(
        path, volume=volume, modality=modality, prefer=prefer, assume_spacing=assume_spacing, header=header
    )
    return scan.volume


def read_scan(
    path: Path,
    *,
    volume: int | None = None,
    modality: Modality | None = None,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
    header: Header | None = None,
) -> Scan:
    """Read one 3-D volume as (I, J, K) float32 in the file's axis order, in HU or the scan's own units.

    volume: which one of a 4-D file, from 0. modality: overrides what file and voxels say. header: the result of
    ``inspect``, which then need not be repeated (prefer and assume_spacing have had their say there).

    Raises InputError for 4-D files without ``volume``, truncated or corrupt data, more than 1 % NaN or Inf, a constant
    image or an unknown modality; PlanError for what is no MR or CT image, unless ``modality`` is given.
    """
    header = header or inspect(path, prefer=prefer, assume_spacing=assume_spacing)
    layout = _layout(header)
    name = display_name(header.path)
    if volume is None and layout.volumes > 1:
        shape = (*layout.shape, layout.volumes)
        raise InputError(f"{name} is 4-D {shape}; medsr upscales one 3-D volume. Choose one with --volume 0")
    index = volume or 0
    if not 0 <= index < layout.volumes:
        raise InputError(f"{name} has no volume {index}; it holds {layout.volumes}, counted from 0")
    _refuse_foreign(header.foreign, name, modality)
    with opened(layout.data) as stream:
        skip(stream, layout.offset + index * layout.volume_bytes, name)
        array = _voxels(stream, layout, name)
        skip(stream, (layout.volumes - 1 - index) * layout.volume_bytes, name)
        padded = finish(stream, name, allowance=layout.trailer)
    warnings = ("zero bytes after the voxels were ignored",) if padded else ()
    return _scan(array, header, index, modality, sha256_of(layout.data), warnings)


def read_scans(
    path: Path,
    *,
    modality: Modality | None = None,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
    header: Header | None = None,
) -> Iterator[Scan]:
    """Read every 3-D volume of a file in order, one at a time and in one pass over the file.

    All volumes have the modality of the first. The file is checked to its end only when the last one was taken.
    Raises as ``read_scan``.
    """
    header = header or inspect(path, prefer=prefer, assume_spacing=assume_spacing)
    layout = _layout(header)
    name = display_name(header.path)
    _refuse_foreign(header.foreign, name, modality)
    sha256 = sha256_of(layout.data)
    with opened(layout.data) as stream:
        skip(stream, layout.offset, name)
        for index in range(layout.volumes):
            array = _voxels(stream, layout, name)
            if index == layout.volumes - 1:
                finish(stream, name, allowance=layout.trailer)
            scan = _scan(array, header, index, modality, sha256, ())
            modality = scan.volume.modality
            yield scan


def _layout(header: Header) -> Layout:
    if not isinstance(header.extra, Layout):
        raise InputError(f"{display_name(header.path)} was not inspected as NIfTI; pass it to inspect first")
    return header.extra


def _refuse_foreign(reason: str | None, name: str, modality: Modality | None) -> None:
    if reason is not None and modality is None:
        raise PlanError(f"{name} is {reason}; medsr upscales MR and CT images. If it is one, {EXPLICIT}")


def _voxels(stream: BinaryIO, layout: Layout, name: str) -> Array:
    """The next volume of the stream as C-ordered float32, scaled."""
    stored = np.empty(layout.volume_bytes, np.uint8)
    read_exactly(stream, stored.data, name)
    raw = stored.view(layout.dtype).reshape(layout.shape, order="F")
    array = np.empty(layout.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        # One j at a time: four times faster than a whole transposition, and no float64 copy of the whole.
        for j in range(layout.shape[1]):
            plane = raw[:, j]
            array[:, j] = plane if layout.slope is None else plane.astype(np.float64) * layout.slope + layout.inter
    return array


def _scan(
    array: Array, header: Header, index: int, modality: Modality | None, sha256: str, warnings: tuple[str, ...]
) -> Scan:
    layout, name = _layout(header), display_name(header.path)
    invalid = _fill_invalid(array, name)
    if float(array.min()) == float(array.max()):
        raise InputError(f"{name} is constant: every voxel is {array.flat[0]:g}; there is nothing to upscale")
    evidence = "given by the user"
    if modality is None:
        verdict = by_voxels(array, header.modality)
        _refuse_foreign(verdict.foreign, name, None)
        if verdict.modality is None:
            raise InputError(f"{name}: unknown modality ({verdict.evidence}); give it with --modality mr or ct")
        modality = verdict.modality
        evidence = header.modality_evidence if header.modality else verdict.evidence
    count = int(invalid.sum()) if invalid is not None else 0
    if count:
        warnings += (f"{count} voxels are NaN or Inf: filled from their neighbours, written back as NaN",)
    provenance = Provenance(header.path.name, sha256).then(
        "read",
        format=header.format,
        dtype=header.dtype,
        volume=index if layout.volumes > 1 else None,
        scaling=None if layout.slope is None else [layout.slope, layout.inter],
        affine=layout.placement.source,
        modality=modality,
        modality_evidence=evidence,
        filled_voxels=count,
    )
    return Scan(Volume(array, header.geometry, modality, provenance), header, invalid, header.warnings + warnings)


def _fill_invalid(array: Array, name: str) -> Mask | None:
    """Give NaN and Inf, in place, the mean of their finite face neighbours, inwards from the rim of each hole."""
    finite = np.isfinite(array)
    bad = array.size - int(np.count_nonzero(finite))
    if bad == 0:
        return None
    if bad > MAX_INVALID * array.size:
        raise InputError(
            f"{name}: {bad / array.size:.1%} of the voxels are NaN or Inf; medsr accepts {MAX_INVALID:.0%}. "
            "If they are background, set them to 0 first (fslmaths IN -nan OUT)"
        )
    invalid = ~finite
    left = np.argwhere(invalid)
    while left.size:
        total, known = np.zeros(len(left)), np.zeros(len(left))
        for axis in range(3):
            for step in (-1, 1):
                at = left.copy()
                at[:, axis] = np.clip(at[:, axis] + step, 0, array.shape[axis] - 1)
                where = tuple(at.T)
                known += finite[where]
                total += np.where(finite[where], array[where], 0)
        rim = known > 0
        array[tuple(left[rim].T)] = total[rim] / known[rim]
        finite[tuple(left[rim].T)] = True
        left = left[~rim]
    return invalid
