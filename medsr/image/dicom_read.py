"""DICOM series in: the one module of reading that other floors import. Positions are LPS below it, RAS+ above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medsr.errors import InputError, PlanError
from medsr.image.dicom_files import is_dicom_path as is_dicom_path
from medsr.image.dicom_find import choose_series as choose_series
from medsr.image.dicom_find import find_series as find_series
from medsr.image.dicom_find import holds_results_only as holds_results_only
from medsr.image.dicom_frames import Frame
from medsr.image.dicom_inspect import Stack as Stack
from medsr.image.dicom_inspect import inspect as inspect
from medsr.image.dicom_inspect import inspect_series as inspect_series
from medsr.image.dicom_inspect import reason_against as reason_against
from medsr.image.dicom_inspect import series_name as series_name
from medsr.image.dicom_pixels import Voxels, first_difference, read_voxels
from medsr.image.dicom_resample import fill, slide
from medsr.image.dicom_series import Series as Series
from medsr.image.files import display_name
from medsr.image.header import Header
from medsr.image.intensity import CT_AIR_HU
from medsr.image.modality import EXPLICIT, UNDECIDED, by_voxels
from medsr.image.nifti_read import Scan as Scan
from medsr.image.volume import Array, Modality, Provenance, Volume


def read(header: Header, *, volume: int | None = None, modality: Modality | None = None) -> Volume:
    """The volume of ``read_scan``."""
    return read_scan(header, volume=volume, modality=modality).volume


def read_scan(
    header: Header, *, volume: int | None = None, modality: Modality | None = None, threads: int | None = None
) -> Scan:
    """Read one 3-D volume of an inspected series as (I, J, K) float32, in HU or the scan's own units.

    volume: which one of a series of several, from 0. modality: overrides what the tags and voxels say. threads: that
    decode side by side (default: one per core, 8 at most).

    Raises InputError for a series of several volumes without ``volume``, voxels that do not decode, different images
    in one place, a constant image or an unknown modality; PlanError for what is no MR or CT image, unless
    ``modality`` is given.
    """
    stack, name = _stack(header), display_name(header.path)
    if volume is None and header.volumes > 1:
        raise InputError(
            f"{name} holds {header.volumes} volumes on one grid (told apart by {', '.join(stack.series.told_by)}); "
            "medsr upscales one 3-D volume. Choose one with --volume 0"
        )
    index = volume or 0
    if not 0 <= index < header.volumes:
        raise InputError(f"{name} has no volume {index}; it holds {header.volumes}, counted from 0")
    if header.foreign is not None and modality is None:
        raise PlanError(f"{name} is {header.foreign}; medsr upscales MR and CT images. If it is one, {EXPLICIT}")
    frames = stack.series.volumes[index]
    dropped = _drop_twins(stack, frames)
    voxels = read_voxels(frames, threads)
    if voxels.span[0] == voxels.span[1]:
        raise InputError(f"{name} is constant: every voxel is {voxels.array.flat[0]:g}; there is nothing to upscale")
    modality, evidence = _decided(header, voxels, modality, name)
    array = _repaired(voxels.array, stack, modality)
    provenance = Provenance(display_name(header.path), voxels.sha256).then(
        "read",
        format="dicom",
        series=stack.series.uid,
        dtype=header.dtype,
        volume=index if header.volumes > 1 else None,
        modality=modality,
        modality_evidence=evidence,
        padding_voxels=voxels.padded,
        dropped_duplicates=dropped,
    )
    if stack.deskewed:
        provenance = provenance.then("deskewed", degrees=round(stack.source.tilt, 3), interpolation="linear")
    if stack.filled:
        provenance = provenance.then(
            "filled gaps",
            acquired=[round(float(d), 4) for d in stack.source.distance],
            spacing=stack.grid.step,
            interpolation="linear",
        )
    warnings = header.warnings + ((f"{voxels.padded} voxels of padding were set to air",) if voxels.padded else ())
    return Scan(Volume(array, header.geometry, modality, provenance), header, None, warnings)


def read_scans(header: Header, *, modality: Modality | None = None) -> Iterator[Scan]:
    """Read every volume of a series in order, one at a time; all have the modality of the first."""
    for index in range(header.volumes):
        scan = read_scan(header, volume=index, modality=modality)
        modality = scan.volume.modality
        yield scan


def _stack(header: Header) -> Stack:
    if not isinstance(header.extra, Stack):
        raise InputError(f"{display_name(header.path)} was not inspected as DICOM; pass it to inspect first")
    return header.extra


def _drop_twins(stack: Stack, frames: Sequence[Frame]) -> int:
    """How many frames were left out because another in the same place shows the same; refuses different ones."""
    chosen = {id(frame) for frame in frames}
    twins = [(kept, other) for kept, other in stack.series.twins if id(kept) in chosen]
    different = first_difference(twins)
    if different is not None:
        raise InputError(
            f"{different[0].name} and {different[1].name} are different images of one place, and no echo, time, "
            "acquisition or b-value tells them apart; remove one of them"
        )
    return len(twins)


def _decided(header: Header, voxels: Voxels, modality: Modality | None, name: str) -> tuple[Modality, str]:
    if modality is not None:
        return modality, "given by the user"
    in_memory_order = voxels.array.T  # what is looked at has no direction
    verdict = by_voxels(in_memory_order, header.modality, extremes=voxels.span)
    if verdict.foreign is not None:
        raise PlanError(f"{name} is {verdict.foreign}; medsr upscales MR and CT images. If it is one, {EXPLICIT}")
    if verdict.modality is None:
        raise InputError(f"{name}: unknown modality ({verdict.evidence}); give it with --modality mr or ct")
    return verdict.modality, header.modality_evidence if verdict.evidence == UNDECIDED else verdict.evidence


def _repaired(array: Array, stack: Stack, modality: Modality) -> Array:
    if stack.deskewed:
        low = float(array.min())
        outside = min(CT_AIR_HU, low) if modality == "CT" and low < 0 else low
        geometry, start = stack.source.upright(stack.source)
        array = slide(array, start, geometry.shape, outside)
    if stack.filled:
        array = fill(array, stack.source.distance, stack.grid.distance)
    return array
