"""Mosaics of Siemens and grids of United Imaging: all slices of an MR volume as tiles of one image, taken apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from medsr.errors import InputError
from medsr.image.dicom_tags import Private, Tags, damage_refused

_MAX_TILES = 4096
_SIEMENS_COUNT = Private(0x0019, "SIEMENS MR HEADER", 0x0A, "US")
_SIEMENS_HEADER = Private(0x0029, "SIEMENS CSA HEADER", 0x10, "OB")
_GRID_COUNT = Private(0x0065, "Image Private Header", 0x50, "DS")
_GRID_ITEMS = Private(0x0065, "Image Private Header", 0x51, "SQ")
PRIVATE = (_SIEMENS_COUNT, _SIEMENS_HEADER, _GRID_COUNT, _GRID_ITEMS)


@dataclass(frozen=True)
class Mosaic:
    """A square of tiles, filled row by row. rows, columns: of a tile. step: from slice to slice, LPS mm.

    corner: pixels from the first pixel of the mosaic to the first of a slice that lies in its middle (columns, rows):
    the position tag of a mosaic is that of a slice as large as the mosaic around the same centre. stated: positions of
    the slices where the file gives each of them.
    """

    count: int
    rows: int
    columns: int
    across: int
    step: tuple[float, float, float]
    corner: tuple[float, float]
    orientation: tuple[float, ...]
    stated: tuple[tuple[float, ...], ...] = ()

    def position(self, first: Sequence[float], spacing: Sequence[float], tile: int) -> tuple[float, float, float]:
        """Centre of the first pixel of a tile, LPS mm. first: the mosaic's own position tag."""
        if self.stated:
            x, y, z = self.stated[tile]
            return x, y, z
        row, column = self.orientation[:3], self.orientation[3:]
        x, y, z = (
            first[a]
            + row[a] * spacing[1] * self.corner[0]
            + column[a] * spacing[0] * self.corner[1]
            + self.step[a] * tile
            for a in range(3)
        )
        return x, y, z


def mosaic_of(tags: Tags, rows: int, columns: int) -> Mosaic | None:
    """The layout of a mosaic; None for any other image. Raises InputError for a mosaic that cannot be taken apart."""
    if (tags.private_number(_GRID_COUNT) or 0) > 1:
        return _united_imaging(tags, rows, columns)
    return _siemens(tags, rows, columns) if "MOSAIC" in tags.words("ImageType") else None


def _united_imaging(tags: Tags, rows: int, columns: int) -> Mosaic:
    """A grid: the file states the position of every slice, in the items of a private sequence."""
    count = int(tags.private_number(_GRID_COUNT) or 0)
    places = [item.numbers("ImagePositionPatient", 3) for item in tags.private_items(_GRID_ITEMS)]
    orientation = tags.numbers("ImageOrientationPatient", 6)
    if count > _MAX_TILES or len(places) != count or None in places or orientation is None:
        raise InputError(
            f"{tags.name} is a grid of {count} slices without the position of each (private header removed); export it "
            "again with private tags, or as one image a slice"
        )
    across, *tile = _tile(tags.name, count, rows, columns)
    stated = tuple(place for place in places if place is not None)
    return Mosaic(count, tile[0], tile[1], across, (0.0, 0.0, 0.0), (0.0, 0.0), orientation, stated)


def _siemens(tags: Tags, rows: int, columns: int) -> Mosaic:
    csa = _csa(tags)
    count = int(tags.private_number(_SIEMENS_COUNT) or csa.get("NumberOfImagesInMosaic", [0])[0])
    orientation = tags.numbers("ImageOrientationPatient", 6)
    between = tags.number("SpacingBetweenSlices")
    if not 1 <= count <= _MAX_TILES or orientation is None or not between or between <= 0:
        raise InputError(
            f"{tags.name} is a Siemens mosaic without the number or distance of its slices (private header removed); "
            "export it again with private tags, or convert it with dcm2niix"
        )
    across, *tile = _tile(tags.name, count, rows, columns)
    normal = _normal(orientation)
    stated = csa.get("SliceNormalVector", [])
    if len(stated) == 3 and sum(a * b for a, b in zip(stated, normal, strict=True)) < 0:
        normal = (-normal[0], -normal[1], -normal[2])  # the tiles run against the direction of the cross product
    return Mosaic(
        count,
        tile[0],
        tile[1],
        across,
        (normal[0] * between, normal[1] * between, normal[2] * between),
        ((columns - tile[1]) / 2, (rows - tile[0]) / 2),
        orientation,
    )


def _tile(name: str, count: int, rows: int, columns: int) -> tuple[int, int, int]:
    """How many tiles lie side by side, and the rows and columns of each."""
    across = math.ceil(math.sqrt(count))
    if rows % across or columns % across:
        raise InputError(f"{name}: a mosaic of {count} slices does not divide {rows} x {columns} pixels")
    return across, rows // across, columns // across


def _normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def _csa(tags: Tags) -> dict[str, list[float]]:
    """Values of Siemens' CSA image header that say how a mosaic is laid out; {} without one."""
    raw = tags.private_bytes(_SIEMENS_HEADER)
    if not raw:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its DICOM readers experimental; this one is ten years old
        from nibabel.nicom.csareader import read as read_csa

    with damage_refused(tags.name):
        items = read_csa(raw)["tags"]
        wanted = ("NumberOfImagesInMosaic", "SliceNormalVector")
        return {name: [float(v) for v in items[name]["items"]] for name in wanted if items.get(name, {}).get("items")}
