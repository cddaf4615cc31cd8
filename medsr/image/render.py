"""From a slice to a picture: orientation, window, pixel aspect, contact sheets and PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medsr.errors import JobError
from medsr.image.geometry import Geometry
from medsr.image.volume import Modality

PlaneName = Literal["axial", "coronal", "sagittal"]
Window = tuple[float, float]  # the values shown black and white
Picture = NDArray[np.uint8]

# Top of the picture and left of the picture in patient directions: the radiological convention.
_TOP_LEFT = {"axial": ("A", "R"), "coronal": ("S", "R"), "sagittal": ("S", "A")}
_THROUGH = {"axial": "S", "coronal": "A", "sagittal": "R"}
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
CT_SOFT_TISSUE: Window = (-160.0, 240.0)  # HU
GAP, LABEL_HEIGHT, FONT_SIZE = 4, 18, 13  # pixels


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice as it is shown: values (rows, columns), row 0 on top; pixel_mm is the size of a pixel (row, column)."""

    values: NDArray[np.floating]
    pixel_mm: tuple[float, float]


def oriented_slice(array: NDArray[np.floating], geometry: Geometry, plane: PlaneName, position: float = 0.5) -> Slice:
    """The slice of ``array`` (I, J, K) at ``position`` (0 to 1 of the extent, towards left, posterior or superior).

    Turned to the radiological convention: anterior up (axial), superior up (coronal, sagittal), the patient's right
    (axial, coronal) or front (sagittal) at the left. Oblique volumes are shown along their nearest voxel axes.
    """
    array = to_display_order(array, geometry)
    sizes = dict(zip(_axis_letters(geometry), geometry.spacing, strict=True))
    through = "RAS".index(_THROUGH[plane])  # display order runs left, posterior, superior
    index = min(int(position * array.shape[through]), array.shape[through] - 1)
    values = np.take(array, index, axis=through).T
    if plane != "axial":
        values = values[::-1]
    top, left = _TOP_LEFT[plane]
    return Slice(values, (sizes[top], sizes[left]))


def to_display_order(array: NDArray[np.floating], geometry: Geometry) -> NDArray[np.floating]:
    """A view of ``array`` whose axes run towards the patient's left, back and head (LPS)."""
    letters = _axis_letters(geometry)
    codes = geometry.axis_codes
    order = [letters.index(axis) for axis in "RAS"]
    flips = tuple(k for k, axis in enumerate(order) if codes[axis] != "LPS"[k])
    return np.flip(array.transpose(order), flips)


def render_slice(array2d: NDArray[np.floating], window: Window) -> Picture:
    """Values (rows, columns) as grey levels: ``window[0]`` and below 0, ``window[1]`` and above 255, NaN 0."""
    low, high = window
    scaled = (np.nan_to_num(np.asarray(array2d, dtype=np.float64), nan=low) - low) / (high - low)
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), dtype=np.uint8)


def display_window(reference: NDArray[np.floating], modality: Modality) -> Window:
    """Soft tissue for CT; for MR minimum to 99.7th percentile, so that a few bright vessels do not darken the rest."""
    if modality == "CT":
        return CT_SOFT_TISSUE
    return float(np.min(reference)), float(np.percentile(reference, 99.7))


def contact_sheet(
    panels: Sequence[tuple[Picture, tuple[float, float]]], labels: Sequence[str], height: int = 384
) -> Picture:
    """Pictures side by side, each with its label above it, all at one physical scale.

    panels: (picture (rows, columns), pixel size in mm (row, column)). The tallest is at least ``height`` pixels high,
    a whole number of screen pixels for each of its finest pixels; enlarging is nearest-neighbour, so that a voxel
    stays visible as what it is. Raises ValueError when labels and panels differ in number.
    """
    finest = min(min(pixel) for _, pixel in panels)
    tallest = max(picture.shape[0] * pixel[0] for picture, pixel in panels)
    screen_mm = finest / max(1, int(np.ceil(height * finest / tallest)))
    enlarged = [_enlarged(picture, pixel, screen_mm) for picture, pixel in panels]
    rows = max(p.shape[0] for p in enlarged)
    sheet = Image.new("L", (sum(p.shape[1] + GAP for p in enlarged) - GAP, rows + LABEL_HEIGHT))
    draw, left = ImageDraw.Draw(sheet), 0
    for picture, label in zip(enlarged, labels, strict=True):
        sheet.paste(Image.fromarray(picture), (left, LABEL_HEIGHT))
        draw.text((left + 2, 1), label, fill=255, font=ImageFont.load_default(FONT_SIZE))
        left += picture.shape[1] + GAP
    return np.asarray(sheet)


def stack_sheets(sheets: Sequence[Picture]) -> Picture:
    """Contact sheets below one another, left-aligned on black."""
    width = max(sheet.shape[1] for sheet in sheets)
    return np.vstack([np.pad(sheet, ((0, GAP), (0, width - sheet.shape[1]))) for sheet in sheets])


def save_png(path: Path, image: Picture) -> None:
    """Write a grey (rows, columns) or RGB (rows, columns, 3) picture; a failure leaves no file. Raises JobError."""
    stream = BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(stream.getvalue())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise JobError(f"cannot write the picture {path}: {error.strerror}. Choose a writable folder") from error


def _axis_letters(geometry: Geometry) -> str:
    """For each voxel axis the letter R, A or S of the patient axis that it runs along, whichever its sign."""
    return "".join(code if code in "RAS" else _OPPOSITE[code] for code in geometry.axis_codes)


def _enlarged(picture: Picture, pixel_mm: tuple[float, float], screen_mm: float) -> Picture:
    """Nearest-neighbour enlargement to pixels of ``screen_mm``, edge to edge."""
    indices = []
    for n, size in zip(picture.shape, pixel_mm, strict=True):
        screen = max(1, round(n * size / screen_mm))
        indices.append(((np.arange(screen) + 0.5) * n / screen).astype(int))
    return picture[np.ix_(*indices)]
