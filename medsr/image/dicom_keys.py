"""What may tell frames in one place apart: echo, time, b-value and the like, as standard and vendors state it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from medsr.errors import InputError
from medsr.image.dicom_groups import Groups
from medsr.image.dicom_tags import Private, Tags, tag_of

KEYWORDS = (
    "FrameOfReferenceUID", "ImageType", "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue",
    "DiffusionGradientOrientation", "TemporalPositionIdentifier", "AcquisitionNumber", "KVP", "ConvolutionKernel",
    "TriggerTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "InstanceNumber",
    "DimensionIndexSequence",
)  # fmt: skip
_B_VALUES = (
    Private(0x0019, "SIEMENS MR HEADER", 0x0C, "IS"),
    Private(0x2001, "Philips Imaging DD 001", 0x03, "FL"),
    Private(0x0043, "GEMS_PARM_01", 0x39, "IS"),
    Private(0x0065, "Image Private Header", 0x09, "FD"),
)
_DIRECTIONS = (
    (Private(0x0019, "SIEMENS MR HEADER", 0x0E, "FD"),),
    tuple(Private(0x2005, "Philips MR Imaging DD 001", element, "FL") for element in (0xB0, 0xB1, 0xB2)),
    tuple(Private(0x0019, "GEMS_ACQU_01", element, "DS") for element in (0xBB, 0xBC, 0xBD)),
    (Private(0x0065, "Image Private Header", 0x37, "FD"),),
)
PRIVATE = (*_B_VALUES, *(element for direction in _DIRECTIONS for element in direction))
_GE_FLAG = 1_000_000_000  # GE adds it to b-values of scans with several of them
# Dimensions of an enhanced file along which frames lie in different places.
_OF_PLACE = ("StackID", "InStackPositionNumber", "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation")

Keys = dict[str, float | str]


def keys_of(tags: Tags, per: Groups | None, index: int) -> Keys:
    """What may differ between frames in one place, by name; what is not stated is left out.

    tags: of the file. per: functional groups of the frame in an enhanced file. index: of the frame in its file.
    """
    found = _of_file(tags) if per is None else _of_frame(tags, per)
    found |= {
        "frame of reference": tags.text("FrameOfReferenceUID"),
        "instance number": (_number(tags, "InstanceNumber") or 0) * 1e6 + index,
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _numbers(source: Tags | Groups, keyword: str) -> tuple[float, ...] | None:
    """Numbers that help to tell frames apart; None also where they are none, for which no scan need be refused."""
    try:
        return source.numbers(keyword)
    except InputError:
        return None


def _number(source: Tags | Groups, keyword: str) -> float | None:
    """The first of ``_numbers``."""
    values = _numbers(source, keyword)
    return values[0] if values else None


def _of_file(tags: Tags) -> dict[str, float | str | None]:
    modality = tags.text("Modality").upper()
    b_value = _number(tags, "DiffusionBValue")
    direction = _numbers(tags, "DiffusionGradientOrientation")
    if modality == "MR":
        b_value = _private_b_value(tags) if b_value is None else b_value
        direction = direction or _private_direction(tags)
    return {
        "image type": tags.text("ImageType"),
        "echo": _number(tags, "EchoTime"),
        "inversion time": _number(tags, "InversionTime"),
        "flip angle": _number(tags, "FlipAngle"),
        "b-value": b_value,
        "direction": _as_text(direction),
        "time point": _number(tags, "TemporalPositionIdentifier"),
        "acquisition": _number(tags, "AcquisitionNumber"),
        "tube voltage": _number(tags, "KVP"),
        "kernel": tags.text("ConvolutionKernel"),
        "trigger time": _number(tags, "TriggerTime"),
        "acquisition time": tags.text("AcquisitionDateTime")
        or tags.text("AcquisitionDate") + tags.text("AcquisitionTime"),
    }


def _of_frame(tags: Tags, per: Groups) -> dict[str, float | str | None]:
    gradient = per.item("DiffusionGradientDirectionSequence")
    return {
        "image type": per.text("FrameType"),
        "echo": _number(per, "EffectiveEchoTime"),
        "inversion time": _number(per, "InversionTime"),
        "flip angle": _number(per, "FlipAngle"),
        "b-value": _number(per, "DiffusionBValue"),
        "direction": _as_text(None if gradient is None else _numbers(gradient, "DiffusionGradientOrientation")),
        "time point": _number(per, "TemporalPositionIndex"),
        "acquisition": _number(per, "FrameAcquisitionNumber"),
        "tube voltage": _number(per, "KVP"),
        "kernel": per.text("ConvolutionKernel"),
        "dimension": _dimensions(tags, per),
        "trigger time": _number(per, "NominalCardiacTriggerDelayTime"),
        "acquisition time": per.text("FrameAcquisitionDateTime"),
    }


def _dimensions(tags: Tags, per: Groups) -> str:
    """The frame's index along all dimensions of its file but those of place."""
    values = _numbers(per, "DimensionIndexValues") or ()
    pointers = [item.bytes_of("DimensionIndexPointer") for item in tags.items("DimensionIndexSequence")]
    if len(pointers) != len(values):
        return ""
    place = {struct.pack("<2H", *divmod(tag_of(keyword), 1 << 16)) for keyword in _OF_PLACE}
    return " ".join(f"{v:g}" for v, pointer in zip(values, pointers, strict=True) if pointer not in place)


def _private_b_value(tags: Tags) -> float | None:
    values = (tags.private_numbers(element) for element in _B_VALUES)
    return next((stated[0] % _GE_FLAG for stated in values if stated), None)


def _private_direction(tags: Tags) -> tuple[float, ...] | None:
    for elements in _DIRECTIONS:
        stated = [tags.private_numbers(element) for element in elements]
        numbers = tuple(number for one in stated if one for number in one)
        if len(numbers) == 3:
            return numbers
    return None


def _as_text(direction: Sequence[float] | None) -> str:
    return " ".join(f"{v + 0.0:.4f}" for v in direction or ())
