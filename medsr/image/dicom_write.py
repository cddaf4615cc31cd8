"""DICOM series out: the one module of writing that other floors import. A derived series, never an overwrite."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsr.errors import InputError, JobError
from medsr.image.dicom_burn import burn_in, mark_for
from medsr.image.dicom_derived import Derivation as Derivation
from medsr.image.dicom_derived import check_wishes, marked_description, number_of, uid_of
from medsr.image.dicom_inspect import Stack
from medsr.image.dicom_object import Recipe, file_head, heads_of
from medsr.image.dicom_place import aligned, places_of, turned_shape
from medsr.image.dicom_place import check_template as check_template
from medsr.image.dicom_source import check_study, sources_of
from medsr.image.dicom_store import padding_in, scale_of, stored
from medsr.image.dicom_tags import quiet
from medsr.image.files import display_name, sync_folder
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.volume import Modality, Volume

_THREADS = 4
_SAME_STEP = 1e-3  # of the slice distance: the slices of the result are then the source's


@dataclass(frozen=True)
class WrittenSeries:
    """A derived series on disk. instances: SOP instance UIDs, files: their paths, both in slice order."""

    uid: str
    number: int
    description: str
    instances: tuple[str, ...]
    files: tuple[Path, ...]


def check_series(
    target: Geometry,
    modality: Modality | None,
    source: Header,
    *,
    description: str | None = None,
    number: int | None = None,
    burn_in: bool = False,
) -> None:
    """Refuse, by headers alone, what ``write_series`` would refuse once the volumes are there.

    target, modality: of the volumes, the modality None when not yet known. source: as in ``write_series``.
    description, number, burn_in: as in ``Derivation``. Raises InputError as ``check_template`` does, for a source that
    is no DICOM or of no study; ConfigError for a description or number that no series can have; PlanError for slices
    too small for the mark.
    """
    stack = _stack(source)
    check_wishes(description, number)
    check_template(target, modality, source)
    check_study(stack)
    if burn_in:
        columns, rows, _ = turned_shape(target, source)
        mark_for(rows, columns)


def series_uid(volumes: Sequence[Volume], source: Header, derivation: Derivation) -> str:
    """SeriesInstanceUID that ``write_series`` gives: the same for the same result, whenever and wherever it is made.

    It follows from the UIDs of the source, the model, the parameters, the stored pixel data and all else that stands in
    the files, but not from the time. Arguments and errors as in ``write_series``.
    """
    with quiet():
        return _prepared(volumes, source, derivation).recipe.uid


def write_series(folder: Path, volumes: Sequence[Volume], source: Header, derivation: Derivation) -> WrittenSeries:
    """Write one volume, or all of a series of several, as classic CT or MR images into an existing empty folder.

    volumes: on one grid; volume n takes the tags of the source's volume n, a single one those of the volume that it was
    read from. source: header of the DICOM series that they were made from, or of a template; axes are then brought to
    its order and direction. Files are IM000001.dcm and so on, in slice order, volume after volume, each on disk when
    this returns. The same arguments give the same bytes.

    Raises InputError for a source that is damaged, of another modality or another place (see ``check_template``);
    PlanError for slices too small for the mark that was asked for; JobError for values that 16 bits cannot hold, or a
    folder that cannot be written; ValueError for volumes on different grids.
    """
    with quiet():
        ready = _prepared(volumes, source, derivation)
        heads = heads_of(ready.recipe)
    files = [folder / f"IM{number:06}.dcm" for number in range(1, len(ready.slices) + 1)]

    def write(number: int) -> None:
        with files[number].open("xb") as stream:
            stream.write(file_head(ready.recipe, heads, number))
            stream.write(ready.slices[number])
            stream.flush()
            os.fsync(stream.fileno())

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(write, range(len(files))))
        sync_folder(folder)
    except OSError as error:
        reason = error.strerror or "the operating system gave no reason"
        raise JobError(f"cannot write the series {display_name(folder)}: {reason}") from error
    recipe = ready.recipe
    instances = tuple(recipe.instance_uid(number) for number in range(len(files)))
    return WrittenSeries(recipe.uid, recipe.number, recipe.description, instances, tuple(files))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """slices: bytes of the pixel data of each slice, volume after volume."""

    recipe: Recipe
    slices: list[memoryview] = field(repr=False)


def _prepared(volumes: Sequence[Volume], source: Header, derivation: Derivation) -> _Prepared:
    stack = _stack(source)
    numbers = _numbers(volumes, stack)
    volumes = [aligned(volume, source) for volume in volumes]
    geometry = volumes[0].geometry
    if not all(v.geometry.same_grid(geometry) and v.modality == volumes[0].modality for v in volumes):
        raise ValueError("the volumes of one series must share their grid and modality")
    frames = [frame for number in numbers for frame in stack.series.volumes[number]]
    scale = scale_of(volumes, frames)
    samples = [stored(volume.array, scale) for volume in volumes]
    if derivation.burn_in:
        burn_in(samples)
    step = geometry.spacing[2]
    same = abs(step - source.geometry.spacing[2]) <= _SAME_STEP * step
    recipe = Recipe(
        uid="",
        number=number_of(stack.series.number, derivation, stack.series.part),
        description=marked_description(stack.series.description, derivation),
        derivation=derivation,
        modality=volumes[0].modality,
        shape=geometry.shape,
        places=places_of(geometry),
        thickness=source.slice_thickness if same and source.slice_thickness is not None else step,
        scale=scale,
        padding=padding_in(samples, frames, scale),
        sources=tuple(sources_of(stack, numbers)),
        first=stack.source.first,
    )
    slices = [one.data.cast("B") for array in samples for one in array]
    uid = uid_of("series", stack.series.uid, recipe.identity(), _digest(slices))
    return _Prepared(replace(recipe, uid=uid), slices)


def _stack(source: Header) -> Stack:
    if not isinstance(source.extra, Stack):
        raise InputError(f"{display_name(source.path)} is no DICOM series; a derived series needs one as its source")
    return source.extra


def _numbers(volumes: Sequence[Volume], stack: Stack) -> list[int]:
    """Which volumes of the source these are."""
    there = len(stack.series.volumes)
    if len(volumes) == there:
        return list(range(there))
    if len(volumes) != 1:
        raise ValueError(f"{len(volumes)} volumes for a source of {there}: expected one, or all")
    steps = [step for step in volumes[0].provenance.steps if step.get("series") == stack.series.uid]
    return [int(steps[0].get("volume") or 0) if steps else 0]


def _digest(slices: Sequence[memoryview]) -> str:
    """sha256 of the sha256 of each slice: slices are hashed side by side."""
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda one: hashlib.sha256(one).digest(), slices)
        return hashlib.sha256(b"".join(digests)).hexdigest()
