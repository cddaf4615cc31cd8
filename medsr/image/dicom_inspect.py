"""``inspect`` for DICOM: the tags of a series to a regular grid and all that planning needs; no voxel read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsr.errors import InputError
from medsr.image.dicom_codecs import codec_fault
from medsr.image.dicom_files import one_line
from medsr.image.dicom_find import choose_series, find_series
from medsr.image.dicom_frames import Frame
from medsr.image.dicom_grid import OFF_LINE, Grid, grid_of, same_place
from medsr.image.dicom_groups import groups_of
from medsr.image.dicom_head import read_head
from medsr.image.dicom_lossy import lossy_history
from medsr.image.dicom_series import Series
from medsr.image.dicom_tags import quiet
from medsr.image.files import display_name
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.machine import gigabytes, memory_to_hold

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_THREADS = 8


@dataclass(frozen=True, eq=False)
class Stack:
    """What reading and writing need of an inspected series: ``Header.extra``.

    source: the slices as acquired; grid: as they are read, which differs where gaps are filled. deskewed: slices are
    slid back over each other. frames of volume n, in slice order: ``series.volumes[n]``. lossy: ratio and method of
    a lossy compression in the past, or "".
    """

    series: Series
    source: Grid
    grid: Grid
    deskewed: bool
    lossy: str = ""

    @property
    def filled(self) -> bool:
        """True when missing slices are interpolated."""
        return self.grid is not self.source

    def datasets(self, volume: int = 0) -> list[Dataset]:
        """All elements but the pixel data of the files of one volume, each file once, in slice order.

        Of an enhanced file that is one data set for all its frames. Read when asked for. Raises InputError.
        """
        heads = list({id(f.head): f.head for f in self.series.volumes[volume]}.values())
        with quiet(), ThreadPoolExecutor(_THREADS) as pool:
            return [head.tags.dataset for head in pool.map(lambda head: read_head(head.source), heads)]


def inspect(path: Path, *, series: str | int | None = None, fill_gaps: bool = False, deskew: bool = False) -> Header:
    """``find_series``, ``choose_series`` and ``inspect_series`` in one."""
    return inspect_series(choose_series(find_series(path), series), fill_gaps=fill_gaps, deskew=deskew)


def inspect_series(series: Series, *, fill_gaps: bool = False, deskew: bool = False) -> Header:
    """What the tags of a series say; no voxels. Axis i grows along rows, j along columns, k along the slice normal.

    fill_gaps: interpolate missing slices instead of refusing them. deskew: slide the slices of a tilted gantry back
    over each other instead of refusing them. Raises InputError for a series that is no regular volume.
    """
    name = series_name(series)
    if series.fault is not None:
        raise InputError(f"{name}: {series.fault}")
    frames = [frame for volume in series.volumes for frame in volume]
    for frame in frames:
        if fault := codec_fault(frame.layout):
            raise InputError(f"{frame.name} {fault}")
    source = grid_of(series.volumes[0])
    _check_same_grid(series, source)
    grid, geometry, warnings = _regular(source, name, fill_gaps=fill_gaps, deskew=deskew)
    one, history = frames[0], lossy_history(frames)
    lossy = "" if history is None else one_line(str(history))
    _check_memory(geometry, source, one, name)
    acquisition = one.head.tags.text("MRAcquisitionType").upper()
    return Header(
        path=series.path,
        format="dicom",
        geometry=geometry,
        dtype=one.layout.dtype,
        modality=one.kind.modality,
        modality_evidence=one.kind.evidence,
        slice_axis=2,
        slice_thickness=one.thickness,
        acquisition_type="2D" if acquisition == "2D" else "3D" if acquisition == "3D" else None,
        acquired=_acquired(one),
        volumes=len(series.volumes),
        foreign=series.foreign,
        warnings=(*series.warnings, *warnings, *_remarks(series, one, lossy)),
        extra=Stack(series, source, grid, deskew and source.tilt > 0, lossy),
    )


def reason_against(series: Series) -> str | None:
    """Why a series is no MR or CT volume, in words for a list of series; None when it is one."""
    if series.fault is not None or series.foreign is not None:
        return series.fault or series.foreign
    try:
        inspect_series(series)
    except InputError as error:
        return str(error).removeprefix(f"{series_name(series)}: ")
    return None


def series_name(series: Series) -> str:
    """What messages about a series begin with."""
    return f"{display_name(series.path)}, series {one_line(series.label)}"


def _check_same_grid(series: Series, grid: Grid) -> None:
    """Volumes of a series share their places along the normal; here also those within the plane."""
    for volume in series.volumes[1:]:
        away = np.linalg.norm(np.array([frame.position for frame in volume]) - grid.first, axis=1)
        pixel = float(grid.pixel.min())
        if away.max() > max(OFF_LINE * pixel, same_place(pixel)):
            frame = volume[int(np.argmax(away))]
            raise InputError(
                f"{frame.name} lies {away.max():.3g} mm from the slice of another volume in its place; expected "
                "volumes on one grid"
            )


def _remarks(series: Series, one: Frame, lossy: str) -> list[str]:
    """What a user should know of a series that is read all the same."""
    remarks = []
    if lossy:
        remarks.append(f"the series was compressed with loss ({lossy})")
    if series.twins:
        remarks.append(f"{len(series.twins)} slices are there twice; one of each is used if their voxels are the same")
    if one.layout.photometric == "MONOCHROME1":
        how = "stored as a negative, read as a positive" if one.kind.modality == "MR" else "shown inverted"
        remarks.append(f"MONOCHROME1: {how}")
    return remarks


def _regular(source: Grid, name: str, *, fill_gaps: bool, deskew: bool) -> tuple[Grid, Geometry, list[str]]:
    """The grid to read on, its geometry, and warnings; refuses what was not asked to be repaired."""
    warnings = list(source.warnings)
    tilt = source.tilt
    if tilt and not deskew:
        raise InputError(
            f"{name}: the gantry was tilted by {tilt:.1f} degrees, so the slices do not lie straight above each other. "
            "--deskew slides them back by interpolation"
        )
    if source.gaps and not fill_gaps:
        raise InputError(f"{name}: {source.gaps}. --fill-gaps interpolates an even grid")
    grid = source.filled() if source.gaps else source
    geometry = source.upright(grid)[0] if tilt else grid.geometry()
    if tilt:
        warnings.append(f"slices of a gantry tilted by {tilt:.1f} degrees were slid back by linear interpolation")
    if source.gaps:
        warnings.append(
            f"{source.gaps}: read on an even grid of {grid.shape[2]} slices, {grid.step:.4g} mm apart, by linear "
            "interpolation; interpolated slices hold nothing that was measured"
        )
    return grid, geometry, warnings


def _acquired(frame: Frame) -> tuple[int | None, int | None, None]:
    """Samples acquired along i (within a row) and j, from AcquisitionMatrix or the encoding steps of enhanced MR."""
    if frame.kind.modality != "MR":
        return None, None, None
    matrix = frame.head.tags.numbers("AcquisitionMatrix") or ()
    if len(matrix) == 4:
        # Frequency rows, frequency columns, phase rows, phase columns; one of each pair is 0.
        counts = max(matrix[1], matrix[3]), max(matrix[0], matrix[2])
    else:
        groups = groups_of(frame.head, frame.index)
        steps = groups and (
            groups.number("MRAcquisitionFrequencyEncodingSteps"),
            groups.number("MRAcquisitionPhaseEncodingStepsInPlane"),
        )
        direction = groups.text("InPlanePhaseEncodingDirection") if groups else ""
        if not steps or direction not in ("ROW", "COLUMN"):
            return None, None, None
        frequency, phase = steps[0] or 0, steps[1] or 0
        counts = (phase, frequency) if direction == "ROW" else (frequency, phase)
    i, j = (
        int(n) if 0 < n <= size and n == int(n) else None
        for n, size in zip(counts, (frame.columns, frame.rows), strict=True)
    )
    return i, j, None


def _check_memory(geometry: Geometry, source: Grid, one: Frame, name: str) -> None:
    """Declared size against the memory, before anything is set aside."""
    memory = memory_to_hold()
    i, j, k = geometry.shape
    peak = 4 * i * j * k + (4 + one.layout.bits_allocated // 8) * source.shape[0] * source.shape[1] * source.shape[2]
    if peak > memory:
        raise InputError(
            f"{name}: one volume {geometry.shape} needs {gigabytes(peak)} of memory to read, {gigabytes(memory)} are "
            "free"
        )
