"""What may tell frames in one place apart: echo, time, b-value and the like, as standard and vendors state it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from medsr.image.dicom_groups import Groups
from medsr.image.dicom_tags import Tags, tag_of

PrivateElement = tuple[int, str, int]  # group, creator of the block, element within the block

KEYWORDS = (
    "FrameOfReferenceUID", "ImageType", "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue",
    "DiffusionGradientOrientation", "TemporalPositionIdentifier", "AcquisitionNumber", "KVP", "ConvolutionKernel",
    "TriggerTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "InstanceNumber",
    "DimensionIndexSequence",
)  # fmt: skip
_B_VALUES: tuple[PrivateElement, ...] = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x0065, "Image Private Header", 0x09),
)
_DIRECTIONS: tuple[tuple[PrivateElement, ...], ...] = (
    ((0x0019, "SIEMENS MR HEADER", 0x0E),),
    tuple((0x2005, "Philips MR Imaging DD 001", element) for element in (0xB0, 0xB1, 0xB2)),
    tuple((0x0019, "GEMS_ACQU_01", element) for element in (0xBB, 0xBC, 0xBD)),
    ((0x0065, "Image Private Header", 0x37),),
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
        "instance number": (tags.number("InstanceNumber") or 0) * 1e6 + index,
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _of_file(tags: Tags) -> dict[str, float | str | None]:
    modality = tags.text("Modality").upper()
    b_value = tags.number("DiffusionBValue")
    direction = tags.numbers("DiffusionGradientOrientation")
    if modality == "MR":
        b_value = _private_b_value(tags) if b_value is None else b_value
        direction = direction or _private_direction(tags)
    return {
        "image type": tags.text("ImageType"),
        "echo": tags.number("EchoTime"),
        "inversion time": tags.number("InversionTime"),
        "flip angle": tags.number("FlipAngle"),
        "b-value": b_value,
        "direction": _as_text(direction),
        "time point": tags.number("TemporalPositionIdentifier"),
        "acquisition": tags.number("AcquisitionNumber"),
        "tube voltage": tags.number("KVP"),
        "kernel": tags.text("ConvolutionKernel"),
        "trigger time": tags.number("TriggerTime"),
        "acquisition time": tags.text("AcquisitionDateTime")
        or tags.text("AcquisitionDate") + tags.text("AcquisitionTime"),
    }


def _of_frame(tags: Tags, per: Groups) -> dict[str, float | str | None]:
    gradient = per.item("DiffusionGradientDirectionSequence")
    return {
        "image type": per.text("FrameType"),
        "echo": per.number("EffectiveEchoTime"),
        "inversion time": per.number("InversionTime"),
        "flip angle": per.number("FlipAngle"),
        "b-value": per.number("DiffusionBValue"),
        "direction": _as_text(None if gradient is None else gradient.numbers("DiffusionGradientOrientation")),
        "time point": per.number("TemporalPositionIndex"),
        "acquisition": per.number("FrameAcquisitionNumber"),
        "tube voltage": per.number("KVP"),
        "kernel": per.text("ConvolutionKernel"),
        "dimension": _dimensions(tags, per),
        "trigger time": per.number("NominalCardiacTriggerDelayTime"),
        "acquisition time": per.text("FrameAcquisitionDateTime"),
    }


def _dimensions(tags: Tags, per: Groups) -> str:
    """The frame's index along all dimensions of its file but those of place."""
    values = per.numbers("DimensionIndexValues") or ()
    pointers = [item.bytes_of("DimensionIndexPointer") for item in tags.items("DimensionIndexSequence")]
    if len(pointers) != len(values):
        return ""
    place = {struct.pack("<2H", *divmod(tag_of(keyword), 1 << 16)) for keyword in _OF_PLACE}
    return " ".join(f"{v:g}" for v, pointer in zip(values, pointers, strict=True) if pointer not in place)


def _private_b_value(tags: Tags) -> float | None:
    values = (tags.private_numbers(*element) for element in _B_VALUES)
    return next((stated[0] % _GE_FLAG for stated in values if stated), None)


def _private_direction(tags: Tags) -> tuple[float, ...] | None:
    for elements in _DIRECTIONS:
        stated = [tags.private_numbers(*element) for element in elements]
        numbers = tuple(number for one in stated if one for number in one)
        if len(numbers) == 3:
            return numbers
    return None


def _as_text(direction: Sequence[float] | None) -> str:
    return " ".join(f"{v + 0.0:.4f}" for v in direction or ())
