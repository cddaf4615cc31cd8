"""How the samples of one DICOM file are stored, checked against each other and against the size of the file."""

from __future__ import annotations

from dataclasses import dataclass

from medsr.errors import InputError
from medsr.image.dicom_head import NATIVE, UNDEFINED, Head
from medsr.image.dicom_tags import Tags

_MAX_SIDE = 65535


@dataclass(frozen=True)
class Layout:
    """How the samples of one file's frames are stored. frames: how many. syntax: transfer syntax UID."""

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    syntax: str

    @property
    def compressed(self) -> bool:
        """True where frames are encapsulated and need a codec."""
        return self.syntax not in NATIVE

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, decoded."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def dtype(self) -> str:
        """numpy's name of the type of a decoded sample."""
        return f"{'int' if self.signed else 'uint'}{self.bits_allocated}"


def layout_of(head: Head) -> Layout:
    """Size and type of the samples, held against each other and against the size of the file.

    Raises InputError where they contradict each other, or the file is too short for them.
    """
    tags, name = head.tags, head.name
    rows, columns = tags.integer("Rows"), tags.integer("Columns")
    frames = tags.integer("NumberOfFrames") or 1
    allocated, signed = tags.integer("BitsAllocated"), tags.integer("PixelRepresentation")
    if head.offset is None or rows is None or columns is None or allocated is None:
        missing = "pixel data" if head.offset is None else "Rows, Columns or BitsAllocated"
        raise InputError(f"{name} has no {missing}: it is truncated or damaged; export or copy it again")
    stored = tags.integer("BitsStored") or allocated
    high = tags.integer("HighBit")
    if not (1 <= rows <= _MAX_SIDE and 1 <= columns <= _MAX_SIDE and frames >= 1):
        raise InputError(f"{name}: an image of {rows} x {columns} pixels and {frames} frames cannot be")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or signed not in (0, 1, None):
        raise InputError(
            f"{name}: BitsAllocated {allocated}, BitsStored {stored}, PixelRepresentation {signed}; expected samples "
            "of 8, 16 or 32 bits, signed or not"
        )
    if high is not None and high != stored - 1:
        raise InputError(f"{name}: HighBit is {high} with {stored} bits stored; expected {stored - 1}")
    photometric = tags.text("PhotometricInterpretation").upper() or "MONOCHROME2"
    layout = Layout(rows, columns, frames, allocated, stored, bool(signed), photometric, head.syntax)
    _check_length(head, layout)
    return layout


def _check_length(head: Head, layout: Layout) -> None:
    """Declared size against the bytes that are there, before anything is set aside."""
    left = head.size - (head.offset or 0)
    name = head.name
    if layout.compressed:
        if head.length != UNDEFINED:
            raise InputError(f"{name}: compressed voxels of defined length; it is damaged, rewrite it with dcmconv")
        if left < 16 * layout.frames:  # an item of at least 8 bytes and its tag, for every frame
            raise InputError(f"{name} is truncated: {left} bytes cannot hold {layout.frames} compressed frames")
        return
    needed = layout.frames * layout.frame_bytes
    if head.length == UNDEFINED or head.length < needed:
        raise InputError(
            f"{name}: {layout.frames} frames of {layout.rows} x {layout.columns} need {needed} bytes, the pixel data "
            f"declare {'none' if head.length == UNDEFINED else head.length}; it is damaged"
        )
    if left < needed:
        raise InputError(f"{name} is truncated: {needed} bytes of voxels declared, {left} there; copy it again")


def padding_of(tags: Tags, layout: Layout) -> tuple[int, int] | None:
    """Range of stored values that are no part of the image; None where none is stated. Raises InputError."""
    value = tags.integer("PixelPaddingValue")
    if value is None:
        return None
    limit = tags.integer("PixelPaddingRangeLimit")
    ends = [_as_stored(v, layout) for v in (value, value if limit is None else limit)]
    return min(ends), max(ends)


def _as_stored(value: int, layout: Layout) -> int:
    """The same bits in the type of the samples: the tag's own type is often the wrong one of US and SS."""
    if layout.signed and value >= 1 << 15 and layout.bits_allocated == 16:
        return value - (1 << 16)
    return value + (1 << 16) if not layout.signed and value < 0 else value
