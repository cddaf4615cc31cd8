"""How much disk the results of a cohort need, against what is free where they go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from medsr.errors import PlanError
from medsr.image.files import display_name
from medsr.machine import available_disk, gigabytes
from medsr.outputs import FIXED_DISK, REPORT_DISK, is_series, output_files
from medsr.service.planning import PlannedItem

_PLAIN = 4  # bytes of a voxel as float32, uncompressed: more than any format takes
_DICOM = 2  # bytes of a voxel in a series, which is not compressed
_PACKED = 0.1  # bytes of a voxel in a .nii.gz: a quarter of what the most compressible of a hundred real scans takes


@dataclass(frozen=True)
class Room:
    """Bytes that results need: at the least, and at the most."""

    least: int = 0
    most: int = 0

    def __add__(self, other: Room) -> Room:
        return Room(self.least + other.least, self.most + other.most)


NOTHING = Room()
_CLEAR = 1_000_000  # bytes that must be lacking: of less, a writer that meets the end of the disk knows more


def room_for(one: PlannedItem, out: Path) -> Room:
    """What the result of one scan needs. least: without the room of those of its files that it replaces."""
    files = output_files(out / one.item.output, one.request)
    images = len(files.keys() - {"sidecar", "report"})
    voxels = images * one.volumes * math.prod(one.plan.target.shape)
    least = int(voxels * (_DICOM if is_series(files["volume"]) else _PACKED))
    most = FIXED_DISK + _PLAIN * voxels + ("report" in files) * REPORT_DISK
    return Room(max(0, least - sum(map(_size, files.values()))), most)


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.iterdir())
        return path.stat().st_size
    except OSError:
        return 0


def free_in(out: Path) -> int | None:
    """Bytes that can be written below a folder that need not be there yet; None where the file system does not say."""
    there = next((folder for folder in (out, *out.absolute().parents) if folder.is_dir()), None)
    return None if there is None else available_disk(there)


def shortage(room: Room, out: Path) -> str | None:
    """Why the results cannot fit, however well they compress; None when they may."""
    free = free_in(out)
    if free is None or room.least - free < _CLEAR:
        return None
    return (
        f"the results need at least {gigabytes(room.least)} of disk and {gigabytes(free)} is free in "
        f"{display_name(out.absolute())}; free some space, choose another --out, or ask for a smaller --scale"
    )


def check_room(room: Room, out: Path) -> None:
    """Raises PlanError when the results cannot fit."""
    if reason := shortage(room, out):
        raise PlanError(reason)
