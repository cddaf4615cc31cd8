"""What a cohort consists of: one scan is an item, and what is no scan is left out with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from medsr.image.files import escaped
from medsr.outputs import default_output
from medsr.request import Request

CLOSED = "the folder may not be read: permission denied"
_GRID = ("scale", "spacing", "isotropic")  # each sets the grid of the output: one of them counts
_OF_DICOM = ("series", "deskew", "fill_gaps", "series_description", "series_number", "burn_in")
_OF_NIFTI = ("prefer", "assume_spacing", "dicom_template")


@dataclass(frozen=True, eq=False)
class Item:
    """One scan that is to be upscaled.

    name: what people call it, relative to the input, with "/" between folders; printable. path: a file, or of a DICOM
    series the deepest folder or zip that holds it; series: its UID, with a part where it falls into several
    (``1.2.3/2``). output: relative to the folder of outputs, with "/". options: fields of Request that its row of a
    table sets. named: by the user, not found in a folder. notes: for the sidecar.
    """

    name: str
    path: Path
    output: str
    format: Literal["nifti", "dicom"] = "nifti"
    series: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str | None]:
        """Equal for two mentions of one scan, through whatever links to folders; a link to a file is one of its own."""
        return str(Path(os.path.realpath(self.path.parent)) / self.path.name), self.series

    @property
    def target(self) -> tuple[str, str | None]:
        """The identity of the file that the scan, if it is a link, leads to in the end."""
        return os.path.realpath(self.path), self.series


@dataclass(frozen=True)
class LeftOut:
    """What will not be upscaled. exit_code: 0 for what is no scan (a localizer, a label map), else what is wrong."""

    name: str
    reason: str
    exit_code: int = 0


@dataclass(frozen=True, eq=False)
class Found:
    """Everything that the inputs lead to, each in the order of the inputs and of names."""

    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...] = ()


def joined(found: Iterable[Found]) -> Found:
    """One after another."""
    parts = list(found)
    return Found(
        tuple(item for part in parts for item in part.items), tuple(row for part in parts for row in part.left_out)
    )


def request_of(item: Item, request: Request) -> Request:
    """The request for one item: the command's, where the item's row says nothing else.

    A row that names its own grid replaces the one of the command. Options of the other format do not apply.
    """
    plain = Request()
    template = item.options.get("dicom_template", request.dicom_template)
    foreign = _OF_NIFTI if item.format == "dicom" else _OF_DICOM if template is None else ()
    values = {name: getattr(plain, name) for name in foreign}
    if any(name in item.options for name in _GRID):
        values |= {name: getattr(plain, name) for name in _GRID}
    values |= {name: value for name, value in item.options.items() if name not in foreign}
    if item.format == "dicom":
        values["series"] = item.series
    return replace(request, **values)


def output_of(name: PurePosixPath, *, series: bool) -> str:
    """Where the result of ``name`` goes: ``a/b_sr.nii.gz``, or the folder ``a/b_sr`` for a DICOM series."""
    return str(name.with_name(default_output(Path(name.name), series=series).name))


def printable(name: PurePosixPath | str) -> str:
    """A name for people and databases: control characters, and bytes that are no text, spelled out."""
    return escaped(str(name))
