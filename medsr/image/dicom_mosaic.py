"""Siemens mosaics: all slices of one MR volume as tiles of one image, which a private header says how to take apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from medsr.errors import InputError
from medsr.image.dicom_tags import Tags, damage_refused

_MAX_TILES = 4096


@dataclass(frozen=True)
class Mosaic:
    """A square of tiles, filled row by row. rows, columns: of a tile. step: from slice to slice, LPS mm.

    corner: pixels from the first pixel of the mosaic to the first of a slice that lies in its middle (columns, rows):
    the position tag of a mosaic is that of a slice as large as the mosaic around the same centre.
    """

    count: int
    rows: int
    columns: int
    across: int
    step: tuple[float, float, float]
    corner: tuple[float, float]
    orientation: tuple[float, ...]

    def position(self, first: Sequence[float], spacing: Sequence[float], tile: int) -> tuple[float, float, float]:
        """Centre of the first pixel of a tile, LPS mm. first: the mosaic's own position tag."""
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
    if "MOSAIC" not in tags.words("ImageType"):
        return None
    csa = _csa(tags)
    count = int(tags.private_number(0x0019, "SIEMENS MR HEADER", 0x0A) or csa.get("NumberOfImagesInMosaic", [0])[0])
    orientation = tags.numbers("ImageOrientationPatient", 6)
    between = tags.number("SpacingBetweenSlices")
    if not 1 <= count <= _MAX_TILES or orientation is None or not between or between <= 0:
        raise InputError(
            f"{tags.name} is a Siemens mosaic without the number or distance of its slices (private header removed); "
            "export it again with private tags, or convert it with dcm2niix"
        )
    across = math.ceil(math.sqrt(count))
    if rows % across or columns % across:
        raise InputError(f"{tags.name}: a mosaic of {count} slices does not divide {rows} x {columns} pixels")
    tile = rows // across, columns // across
    normal = _normal(orientation)
    stated = csa.get("SliceNormalVector", [])
    if len(stated) == 3 and sum(a * b for a, b in zip(stated, normal, strict=True)) < 0:
        normal = (-normal[0], -normal[1], -normal[2])  # the tiles run against the direction of the cross product
    return Mosaic(
        count,
        *tile,
        across,
        (normal[0] * between, normal[1] * between, normal[2] * between),
        ((columns - tile[1]) / 2, (rows - tile[0]) / 2),
        orientation,
    )


def _normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def _csa(tags: Tags) -> dict[str, list[float]]:
    """Values of Siemens' CSA image header that say how a mosaic is laid out; {} without one."""
    raw = tags.private_bytes(0x0029, "SIEMENS CSA HEADER", 0x10)
    if not raw:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its DICOM readers experimental; this one is ten years old
        from nibabel.nicom.csareader import read as read_csa

    with damage_refused(tags.name):
        items = read_csa(raw)["tags"]
        wanted = ("NumberOfImagesInMosaic", "SliceNormalVector")
        return {name: [float(v) for v in items[name]["items"]] for name in wanted if items.get(name, {}).get("items")}
