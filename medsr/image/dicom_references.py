"""References from a derived image to the slices that it was made from, encoded item by item.

Almost every slice refers to another pair of source slices; put together from parts that are encoded once, this costs a
tenth of what building and encoding data sets does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pydicom.dataset import Dataset

from medsr.image.dicom_copy import encode, is_uid
from medsr.image.dicom_derived import code
from medsr.image.dicom_frames import Frame
from medsr.image.dicom_tags import tag_of

_ITEM = b"\xfe\xff\x00\xe0"
_PURPOSE = "Source image for image processing operation"


def references(frames: Sequence[Frame]) -> dict[int, bytes]:
    """SourceImageSequence and ReferencedSeriesSequence by tag; {} where no frame has a valid UID."""
    numbers: dict[tuple[str, str, str], list[int]] = {}  # frames of each file, by class, instance and series
    for frame in frames:
        tags = frame.head.tags
        instance, series = tags.text("SOPInstanceUID"), tags.text("SeriesInstanceUID")
        if is_uid(instance) and is_uid(frame.head.sop_class):
            found = numbers.setdefault((frame.head.sop_class, instance, series), [])
            found += [frame.index + 1] if frame.layout.frames > 1 else []
    if not numbers:
        return {}
    images, members = [], dict[str, list[bytes]]()
    for (sop_class, instance, series), of_file in numbers.items():
        own = _instance(sop_class, instance)
        images.append(own + _element("ReferencedFrameNumber", of_file) + _purpose() if of_file else own + _purpose())
        if is_uid(series):
            members.setdefault(series, []).append(own)
    within = [
        _sequence("ReferencedInstanceSequence", items) + _element("SeriesInstanceUID", uid)
        for uid, items in members.items()
    ]
    sequences = {"SourceImageSequence": images, "ReferencedSeriesSequence": within}
    return {tag_of(keyword): _sequence(keyword, items) for keyword, items in sequences.items() if items}


@lru_cache(maxsize=4096)
def _instance(sop_class: str, uid: str) -> bytes:
    return _element("ReferencedSOPClassUID", sop_class) + _element("ReferencedSOPInstanceUID", uid)


@lru_cache(maxsize=1)
def _purpose() -> bytes:
    return _element("PurposeOfReferenceCodeSequence", [code("121322", "DCM", _PURPOSE)])


def _element(keyword: str, value: object) -> bytes:
    ds = Dataset()
    setattr(ds, keyword, value)
    return encode(ds[tag_of(keyword)])


def _sequence(keyword: str, items: Sequence[bytes]) -> bytes:
    """An element of items, each the encoded elements of a data set in the order of their tags. Lengths are stated."""
    body = b"".join(_ITEM + len(item).to_bytes(4, "little") + item for item in items)
    tag = tag_of(keyword)
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    return head + b"SQ\0\0" + len(body).to_bytes(4, "little") + body
