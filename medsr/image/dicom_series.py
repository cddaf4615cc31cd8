"""Frames to series, and series to stacks of slices that can be a volume: what belongs together, and what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.image.dicom_apart import NUMBER, Placed, placed, split
from medsr.image.dicom_files import one_line
from medsr.image.dicom_frames import Frame, frames_of
from medsr.image.dicom_head import Head
from medsr.image.dicom_kinds import NotAnImage, WithoutPlace
from medsr.image.dicom_tags import Tags

_SAME_DIRECTION = 1e-3  # of a unit vector's components
_SAME_SPACING = 2e-4  # of the spacing: a tenth of a pixel over 500 of them
_MAX_DIRECTIONS = 8  # more, and the slices are radial or of a moving camera, not a few stacks in one series

_BY_NUMBER = (
    "several images of each place are told apart by nothing but the order of their instance numbers; look at which is "
    "which"
)
MAY_BE_SLICE = "it may be a slice of this series: replace it, or take it away"
_MIXED = "slices name different frames of reference, as a faulty anonymiser leaves them; they are taken for one"

Slices = tuple[Frame, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """A series, or the part of one that shares a grid.

    path: as given by the user. part: from 1, where a series falls into several. volumes: each in order along the
    normal, all on one grid. twins: (kept, dropped) frames that nothing but their pixels can tell apart. fault: why no
    volume can be read from it. foreign: why it is no MR or CT image. no_image: its files are whole, but none is a slice
    of a volume (localizers, reports and the like, as ``fault`` says). told_by: what tells the volumes apart.
    """

    path: Path
    uid: str
    study: str
    number: int | None
    description: str
    modality: str
    heads: tuple[Head, ...] = field(repr=False)
    part: int | None = None
    volumes: tuple[Slices, ...] = field(default=(), repr=False)
    twins: tuple[tuple[Frame, Frame], ...] = field(default=(), repr=False)
    told_by: tuple[str, ...] = ()
    fault: str | None = None
    foreign: str | None = None
    no_image: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Number of the series (its UID where it has none), with the part where there are several: ``4``, ``4/2``."""
        base = self.uid if self.number is None else str(self.number)
        return base if self.part is None else f"{base}/{self.part}"

    @property
    def is_volume(self) -> bool:
        """True when it can be offered as an MR or CT volume."""
        return self.fault is None and self.foreign is None

    def __str__(self) -> str:
        size = ""
        if self.volumes:
            one = self.volumes[0][0]
            count = f" x {len(self.volumes)} volumes" if len(self.volumes) > 1 else ""
            size = f", {one.columns} x {one.rows} x {len(self.volumes[0])}{count}"
        what = one_line(f"{self.label} {self.description or 'without description'}")
        return f"{what} ({one_line(self.modality) or 'unknown'}{size})"


def series_of(path: Path, heads: Iterable[Head]) -> list[Series]:
    """Group files by series, and the frames of each series into parts that share a grid."""
    by_uid: dict[tuple[str, str, str], list[Head]] = {}
    for head in heads:
        study, uid = head.tags.text("StudyInstanceUID"), head.tags.text("SeriesInstanceUID")
        unnamed = head.tags.text("SeriesNumber") if not uid else ""  # all that is left to tell series apart
        by_uid.setdefault((study, uid, unnamed), []).append(head)
    found = [part for members in by_uid.values() for part in _parts(path, members)]
    return sorted(found, key=lambda s: (s.study, s.number is None, s.number or 0, s.uid, s.part or 0))


def _parts(path: Path, heads: Sequence[Head]) -> list[Series]:
    tags = heads[0].tags
    faults: list[str] = []
    left_out: dict[str, int] = {}
    frames: list[Frame] = []
    placeless: list[tuple[Head, WithoutPlace]] = []
    for head in heads:
        try:
            frames += frames_of(head)
        except NotAnImage as reason:
            placeless += [(head, reason)] if isinstance(reason, WithoutPlace) else []
            left_out[str(reason)] = left_out.get(str(reason), 0) + 1
        except InputError as error:
            faults.append(str(error))
    series = Series(
        path,
        tags.text("SeriesInstanceUID"),
        tags.text("StudyInstanceUID"),
        _series_number(tags),
        tags.text("SeriesDescription"),
        tags.text("Modality").upper(),
        tuple(heads),
    )
    faults += [f"{head.name} is {reason}; {MAY_BE_SLICE}" for head, reason in placeless if _is_like(head, frames)]
    if faults:
        more = f" (and {len(faults) - 1} more of its files)" if len(faults) > 1 else ""
        return [replace(series, fault=faults[0] + more)]
    if not frames:
        reasons = ", ".join(f"{_files(n)}, {what}" for what, n in left_out.items())
        return [replace(series, fault=reasons, no_image=True)]
    warnings = tuple(f"left out of the series: {_files(n)}, {what}" for what, n in left_out.items())
    # By number, so that parts have the same order and names however the files are called.
    frames.sort(key=lambda frame: (frame.keys[NUMBER], frame.head.tags.text("SOPInstanceUID")))
    parts = _stacked(replace(series, warnings=warnings), frames)
    return [replace(part, part=k + 1) for k, part in enumerate(parts)] if len(parts) > 1 else parts


def _is_like(head: Head, frames: Sequence[Frame]) -> bool:
    """True for an original image of the kind and size of the frames."""
    size = head.sop_class, head.tags.integer("Rows"), head.tags.integer("Columns")
    original = head.tags.words("ImageType")[:1] != ("DERIVED",)
    return original and size in {(frame.head.sop_class, frame.rows, frame.columns) for frame in frames}


def _series_number(tags: Tags) -> int | None:
    """The number of a series; None where it is none, which does not keep the series from being read."""
    try:
        return tags.integer("SeriesNumber")
    except InputError:
        return None


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _stacked(series: Series, frames: Sequence[Frame]) -> list[Series]:
    directions = _near(frames, lambda frame: frame.orientation, _SAME_DIRECTION)
    if len(directions) > _MAX_DIRECTIONS:
        return [replace(series, fault=f"its slices lie in {len(directions)} directions; expected parallel slices")]
    parts: list[Series] = []
    for members in directions:
        for of_spacing in _near(members, lambda frame: [math.log(s) for s in frame.spacing], _SAME_SPACING):
            for alike in _classes(of_spacing, _hard_key).values():
                for stack in _stacks(alike):
                    parts += _volumes(series, stack)
    return parts


def _stacks(frames: Sequence[Frame]) -> Iterable[Sequence[Frame]]:
    """Frames of the stacks that an enhanced file names; together where every slice is called a stack of its own."""
    stacks = _classes(frames, lambda frame: frame.stack).values()
    single = all(max(placed(stack).places) == 0 for stack in stacks)
    return [frames] if single else stacks


def _hard_key(frame: Frame) -> object:
    """What all slices of one grid share, apart from their direction and pixels."""
    return frame.rows, frame.columns, frame.kind.foreign, frame.kind.modality


def _near(frames: Sequence[Frame], values: Callable[[Frame], Sequence[float]], tolerance: float) -> list[list[Frame]]:
    """Frames by values that are the same within rounding."""
    found: list[tuple[NDArray[np.float64], list[Frame]]] = []
    for frame in frames:
        own = np.asarray(values(frame), float)
        for first, members in found:
            if np.abs(first - own).max() <= tolerance:
                members.append(frame)
                break
        else:
            found.append((own, [frame]))
    return [members for _, members in found]


def _classes(frames: Iterable[Frame], key: Callable[[Frame], object]) -> dict[object, list[Frame]]:
    found: dict[object, list[Frame]] = {}
    for frame in frames:
        found.setdefault(key(frame), []).append(frame)
    return found


def _volumes(series: Series, frames: Sequence[Frame]) -> list[Series]:
    """Parts of a series whose frames share everything but their places."""
    told_by: list[str] = []
    by_places: dict[tuple[int, ...], list[Placed]] = {}
    for group in split(placed(frames), told_by):
        by_places.setdefault(tuple(dict.fromkeys(group.places)), []).append(group)
    return [_part(series, groups, tuple(dict.fromkeys(told_by)), list(by_places)) for groups in by_places.values()]


def _part(
    series: Series, groups: Sequence[Placed], told_by: tuple[str, ...], grids: Sequence[tuple[int, ...]]
) -> Series:
    """Groups that share their places. grids: the places of each part of the series."""
    volumes, twins = [], []
    for group in groups:
        kept: dict[int, Frame] = {}
        for place, frame in zip(group.places, group.frames, strict=True):
            if place in kept:
                twins.append((kept[place], frame))
            else:
                kept[place] = frame
        volumes.append(tuple(kept.values()))
    warnings = []
    if len({frame.keys.get("frame of reference") for frame in volumes[0]}) > 1:
        warnings.append(_MIXED)
    if NUMBER in told_by:
        warnings.append(_BY_NUMBER)
    own = set(groups[0].places)
    if whole := [grid for grid in grids if own < set(grid)]:
        warnings.append(
            f"{len(own)} slices where other volumes of the series have {max(map(len, whole))}: the scan was stopped, "
            "or files are missing"
        )
    heads = tuple({id(frame.head): frame.head for volume in volumes for frame in volume}.values())
    return replace(
        series,
        heads=heads,
        volumes=tuple(volumes),
        twins=tuple(twins),
        told_by=told_by if len(volumes) > 1 else (),
        foreign=volumes[0][0].kind.foreign,
        warnings=(*series.warnings, *warnings),
    )
