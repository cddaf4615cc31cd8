"""Frames in one place told apart: which of them make a volume together, by the first thing that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medsr.image.dicom_frames import Frame
from medsr.image.dicom_grid import IRREGULAR, MAX_FILLED, same_place, slice_axes, usual_gap

# What may tell frames in one place apart, in the order of trust. By value: frames of one value make a volume.
_BY_VALUE = (
    "frame of reference", "image type", "echo", "inversion time", "flip angle", "b-value", "direction", "time point",
    "acquisition", "tube voltage", "kernel", "dimension",
)  # fmt: skip
# By rank: each slice has its own values; the first of every place make the first volume.
NUMBER = "instance number"
_BY_RANK = ("trigger time", "acquisition time", NUMBER)


@dataclass(frozen=True, eq=False)
class Placed:
    """Frames of one direction with the number of the place in which each lies, counted along the normal."""

    frames: tuple[Frame, ...]
    places: tuple[int, ...]

    def only(self, chosen: Sequence[int]) -> Placed:
        """Some of them, by number."""
        return Placed(tuple(self.frames[n] for n in chosen), tuple(self.places[n] for n in chosen))

    @property
    def crowd(self) -> int:
        """How many frames the fullest place holds."""
        return int(np.bincount(self.places).max())


def placed(frames: Sequence[Frame]) -> Placed:
    """Parallel frames in order along their normal, each with its place."""
    normal = slice_axes(frames[0].orientation)[:, 2]
    distance = np.array([frame.position for frame in frames]) @ normal
    order = sorted(range(len(frames)), key=lambda n: (distance[n], str(frames[n].keys[NUMBER])))
    places, place, start = [], 0, distance[order[0]]
    limit = same_place(min(frames[0].spacing))
    for n in order:
        if distance[n] - start > limit:
            place, start = place + 1, distance[n]
        places.append(place)
    return Placed(tuple(frames[n] for n in order), tuple(places))


def split(group: Placed, told_by: list[str]) -> list[Placed]:
    """Frames of one place apart, by the first thing that tells them apart; groups that stay crowded are twins.

    told_by: what did is added to it.
    """
    crowd = group.crowd
    if crowd == 1:
        return _slabs(group, told_by)
    for key in _BY_VALUE:
        classes = _by_value(group, key)
        if len(classes) > 1 and all(c.crowd < crowd for c in classes) and _believable(classes, crowd):
            told_by.append(key)
            return [one for c in classes for one in split(c, told_by)]
    for key in _BY_RANK:
        ranked = _by_rank(group, key)
        if ranked:
            told_by.append(key)
            return ranked
    return [group]


def _slabs(group: Placed, told_by: list[str]) -> list[Placed]:
    """Frames in places of their own: together, but where they are uneven, and even for each value of one thing.

    So are time points that follow a head, and scans that overlap. Slabs one above the other stay together as long as
    what lies between them can be filled in.
    """
    if _is_even(group):
        return [group]
    for key in _BY_VALUE:
        classes = _by_value(group, key)
        if len(classes) < 2 or not all(len(c.frames) > 1 and _is_even(c) for c in classes):
            continue
        ends = sorted((c.places[0], c.places[-1]) for c in classes)
        apart = all(below[1] < above[0] for below, above in pairwise(ends))
        if not apart or _gaps(group).sum() > MAX_FILLED * len(group.frames) * usual_gap(_gaps(group)):
            told_by.append(key)
            return classes
    return [group]


def _gaps(group: Placed) -> NDArray[np.float64]:
    """Distances in mm from each place to the next."""
    normal = slice_axes(group.frames[0].orientation)[:, 2]
    return np.diff(np.array([frame.position for frame in group.frames]) @ normal)


def _is_even(group: Placed) -> bool:
    gaps = _gaps(group)
    if len(gaps) < 2:
        return True
    usual = usual_gap(gaps)
    return bool(np.abs(gaps - usual).max() <= 2 * IRREGULAR * usual)


def _by_value(group: Placed, key: str) -> list[Placed]:
    """Groups of one value each, in the order of numbers, or of words as they come first in the series."""
    found: dict[float | str | None, list[int]] = {}
    for n, frame in enumerate(group.frames):
        value = frame.keys.get(key)
        found.setdefault(round(value, 3) if isinstance(value, float) else value, []).append(n)

    def order(value: float | str | None) -> tuple[bool, bool, float, str]:
        first = min(_number(group, n) for n in found[value])
        number = first if value is None or isinstance(value, str) else value
        return value is None, isinstance(value, str), number, str(value)

    return [group.only(found[value]) for value in sorted(found, key=order)]


def _believable(classes: Sequence[Placed], crowd: int) -> bool:
    """True when classes are volumes of the same places, or as few as the fullest place needs.

    A value that changes from slice to slice would else take a whole scan apart for one repeated slice.
    """
    return len({frozenset(c.places) for c in classes}) == 1 or len(classes) <= crowd


def _by_rank(group: Placed, key: str) -> list[Placed]:
    """The n-th frame of every place by a value that differs within each place; [] when that does not tell."""
    members: dict[int, list[int]] = {}
    for n, place in enumerate(group.places):
        members.setdefault(place, []).append(n)
    if len({len(m) for m in members.values()}) != 1:
        return []
    ranked: dict[int, list[int]] = {}
    for place, inside in members.items():
        values = [group.frames[n].keys.get(key) for n in inside]
        if None in values or len({type(v) for v in values}) != 1 or len(set(values)) != len(values):
            return []
        ranked[place] = [n for _, n in sorted(zip(values, inside, strict=True))]
    volumes = [list(chosen) for chosen in zip(*ranked.values(), strict=True)]
    if key == NUMBER and not (_in_blocks(group, volumes) or _in_blocks(group, ranked.values())):
        return []
    return [group.only(chosen) for chosen in volumes]


def _in_blocks(group: Placed, sets: Iterable[Sequence[int]]) -> bool:
    """True when the numbers of each set lie between those of no other.

    Numbers run from volume to volume or from place to place; in any other order they say nothing.
    """
    ends = sorted((min(numbers), max(numbers)) for numbers in ([_number(group, n) for n in one] for one in sets))
    return all(before[1] < after[0] for before, after in pairwise(ends))


def _number(group: Placed, n: int) -> float:
    return float(group.frames[n].keys[NUMBER])
