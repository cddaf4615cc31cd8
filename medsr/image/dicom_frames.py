"""From the header of one DICOM file to its frames: where each lies, how its values scale, what tells it from others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from medsr.errors import InputError
from medsr.image import dicom_keys, dicom_kinds, dicom_mosaic
from medsr.image.dicom_groups import Groups
from medsr.image.dicom_head import Head
from medsr.image.dicom_keys import KEYWORDS, keys_of
from medsr.image.dicom_kinds import Kind, NotAnImage, WithoutPlace, is_enhanced, kind_of
from medsr.image.dicom_layout import Layout, layout_of, padding_of
from medsr.image.dicom_mosaic import Mosaic, mosaic_of
from medsr.image.dicom_tags import Tags, tag_of, uid_name

_KEYWORDS = (
    *KEYWORDS,
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Manufacturer",
    "SeriesDescription", "SeriesNumber", "SpecificCharacterSet",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "AcquisitionMatrix", "MRAcquisitionType",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DirectoryRecordSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip
# Each in the blocks where its creator may have put it.
_PRIVATE = (*dicom_keys.PRIVATE, *dicom_kinds.PRIVATE, *dicom_mosaic.PRIVATE)
WANTED = frozenset(
    (
        *(tag_of(keyword) for keyword in _KEYWORDS),
        *(group << 16 | block for group in {one.group for one in _PRIVATE} for block in range(0x10, 0x18)),
        *(one.group << 16 | block << 8 | one.element for one in _PRIVATE for block in range(0x10, 0x18)),
    )
)
_UNIT = 1e-3  # deviation of a direction cosine's length from 1, and of two from a right angle; tags are rounded to 1e-6

Vector = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice. index: its number in its file, from 0; tile: its number in a mosaic.

    position: centre of the first pixel, LPS mm. orientation: direction of growing column index, then of growing row
    index. spacing: distance between rows, between columns, mm. values = slope * stored + inter. padding: range of
    stored values that are no image. keys: by name, what may tell it from another frame in the same place.
    """

    head: Head = field(repr=False)
    layout: Layout
    kind: Kind
    index: int
    position: Vector
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float | None
    between: float | None
    slope: float
    inter: float
    padding: tuple[int, int] | None
    keys: dict[str, float | str]
    stack: str = ""
    mosaic: Mosaic | None = None
    tile: int = 0

    @property
    def rows(self) -> int:
        """Rows of the slice."""
        return self.layout.rows if self.mosaic is None else self.mosaic.rows

    @property
    def columns(self) -> int:
        """Columns of the slice."""
        return self.layout.columns if self.mosaic is None else self.mosaic.columns

    @property
    def name(self) -> str:
        """Of the file, with the frame's number where it holds several."""
        several = self.layout.frames > 1 or self.mosaic is not None
        return f"{self.head.name} frame {self.index + self.tile + 1}" if several else self.head.name


def frames_of(head: Head) -> list[Frame]:
    """All frames of one file. Raises InputError for a damaged header, NotAnImage for what is none."""
    kind = kind_of(head)
    layout = layout_of(head)
    padding = padding_of(head.tags, layout)
    if is_enhanced(head.sop_class):
        return _enhanced(head, layout, padding)
    if layout.frames > 1:
        raise NotAnImage(f"{layout.frames} frames in one {uid_name(head.sop_class)}, which does not say where they lie")
    frame = _frame(head, layout, kind, padding, 0, head.tags, None)
    mosaic = mosaic_of(head.tags, layout.rows, layout.columns)
    return [frame] if mosaic is None else _tiles(frame, mosaic)


def _frame(
    head: Head, layout: Layout, kind: Kind, padding: tuple[int, int] | None, index: int, tags: Tags, per: Groups | None
) -> Frame:
    """A frame by the tags of the file (per None), or by its functional groups."""
    place = tags if per is None else per
    position = place.numbers("ImagePositionPatient", 3)
    orientation = place.numbers("ImageOrientationPatient", 6)
    spacing = place.numbers("PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        lacks = [
            keyword
            for keyword, value in (
                ("ImagePositionPatient", position),
                ("ImageOrientationPatient", orientation),
                ("PixelSpacing", spacing),
            )
            if value is None
        ]
        raise WithoutPlace(f"an image without place in the patient (no {', '.join(lacks)})")
    _check_place(head.name, position, orientation, spacing)
    slope, inter = _scaling(head, kind, place)
    return Frame(
        head=head,
        layout=layout,
        kind=kind,
        index=index,
        position=(position[0], position[1], position[2]),
        orientation=orientation,
        spacing=(spacing[0], spacing[1]),
        thickness=_positive(place.number("SliceThickness")),
        between=_positive(place.number("SpacingBetweenSlices")),
        slope=slope,
        inter=inter,
        padding=padding,
        keys=keys_of(tags, per, index),
        stack=per.text("StackID") if per is not None else "",
    )


def _check_place(name: str, position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float]) -> None:
    if not all(1e-4 <= s <= 1e3 for s in spacing):
        raise InputError(f"{name}: a PixelSpacing of {spacing[0]:g} x {spacing[1]:g} mm cannot be; correct the tag")
    if max(abs(p) for p in position) > 1e6:
        raise InputError(
            f"{name}: the slice lies {max(abs(p) for p in position):.3g} mm from the origin; it is damaged"
        )
    row, column = orientation[:3], orientation[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    cosine = sum(a * b for a, b in zip(row, column, strict=True))
    if any(abs(length - 1) > _UNIT for length in lengths) or abs(cosine) > _UNIT:
        raise InputError(
            f"{name}: ImageOrientationPatient {', '.join(f'{v:g}' for v in orientation)} is no pair of unit vectors at "
            "right angles; correct the tag"
        )


def _scaling(head: Head, kind: Kind, place: Tags | Groups) -> tuple[float, float]:
    """Slope and intercept to HU or to the scan's own units. Philips' private scaling is another unit: not used."""
    name = head.name
    if head.tags.has("ModalityLUTSequence"):
        raise InputError(f"{name} holds its values in a lookup table, which medsr does not apply; export it rescaled")
    slope, inter = place.number("RescaleSlope"), place.number("RescaleIntercept")
    if slope is None and inter is None and kind.modality != "CT":
        return 1.0, 0.0
    if slope is None or inter is None:
        lacks = "RescaleSlope" if slope is None else "RescaleIntercept"
        raise InputError(f"{name} has no {lacks}, so its values have no scale; export the series again")
    if slope == 0 or max(abs(slope), abs(inter)) > 1e9:
        raise InputError(f"{name}: RescaleSlope {slope:g}, RescaleIntercept {inter:g}; expected a scale; correct them")
    return slope, inter


def _positive(value: float | None) -> float | None:
    return value if value is not None and 1e-4 <= value <= 1e3 else None


# --- many frames in one file ---------------------------------------------------------------------------------------


def _enhanced(head: Head, layout: Layout, padding: tuple[int, int] | None) -> list[Frame]:
    own, shared = head.tags.items("PerFrameFunctionalGroupsSequence"), head.tags.item("SharedFunctionalGroupsSequence")
    if len(own) != layout.frames:
        raise InputError(
            f"{head.name}: {layout.frames} frames, and places for {len(own)} of them; it is damaged, export it again"
        )
    frames = []
    for index, item in enumerate(own):
        groups = Groups(item, shared)
        component, unit = groups.text("ComplexImageComponent"), groups.text("RescaleType")
        kind = kind_of(head, groups.words("FrameType"), component, unit)
        frames.append(_frame(head, layout, kind, padding, index, head.tags, groups))
    return frames


def _tiles(frame: Frame, mosaic: Mosaic) -> list[Frame]:
    return [
        replace(frame, mosaic=mosaic, tile=tile, position=mosaic.position(frame.position, frame.spacing, tile))
        for tile in range(mosaic.count)
    ]
