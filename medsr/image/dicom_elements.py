"""A quick look at the top level of a data set: wanted elements as raw bytes, all else stepped over.

pydicom builds an object for every element and item; of the thousands of files of a study only some forty elements each
are wanted. Whatever is not plainly in order is left to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
_FIRST = 1 << 14  # bytes that are read at first: many headers are shorter
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # 4-byte length
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Odd(Exception):  # noqa: N818  # not an error: pydicom reads on
    """Something that this look does not understand, or that reaches past the end of the file."""


@dataclass(frozen=True, eq=False)
class Look:
    """elements: the wanted ones by tag. offset, length: of the value of the pixel data; offset None without it."""

    elements: dict[BaseTag, DataElement | RawDataElement]
    offset: int | None
    length: int


def look(stream: BinaryIO, size: int, wanted: Collection[int], *, implicit: bool, limit: int) -> Look:
    """Elements from the stream's position to the pixel data; little-endian. size: of the stream. Raises Odd.

    limit: bytes of header that are read at most.
    """
    start = stream.tell()
    data = stream.read(_FIRST)
    while True:
        try:
            return _scan(data, start, wanted, implicit=implicit)
        except (IndexError, struct.error):
            if start + len(data) >= size or len(data) > limit:
                raise Odd from None
            data += stream.read(max(len(data), _FIRST))


def _scan(data: bytes, start: int, wanted: Collection[int], *, implicit: bool) -> Look:
    """Raises IndexError or struct.error when ``data`` ends before the header does."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    at, last = 0, 0
    while True:
        tag, vr, length, value = _element(data, at, implicit=implicit)
        if tag == PIXEL_DATA:
            return Look(found, start + value, length)
        if tag <= last or tag > PIXEL_DATA:  # tags grow, and something without pixel data is no image
            raise Odd
        end = _end_of_sequence(data, value, implicit=implicit) if length == UNDEFINED else value + length
        if end > len(data):
            raise IndexError
        if tag in wanted:
            # The delimiter of a sequence of undefined length is left off.
            content = data[value : end - 8] if length == UNDEFINED else data[value:end]
            key, kind = BaseTag(tag), "SQ" if length == UNDEFINED else vr
            found[key] = RawDataElement(key, kind, len(content), content, start + value, implicit, True)
        at, last = end, tag


def _element(data: bytes, at: int, *, implicit: bool) -> tuple[int, str | None, int, int]:
    """Tag, VR, length of the value, and where the value begins."""
    group, element = struct.unpack_from("<HH", data, at)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, None, struct.unpack_from("<I", data, at + 4)[0], at + 8
    vr = data[at + 4 : at + 6]
    if not (vr.isalpha() and vr.isupper()) or len(vr) < 2:
        if len(vr) < 2:
            raise IndexError
        raise Odd
    if vr in _LONG:
        length = struct.unpack_from("<I", data, at + 8)[0]
        if vr == b"UN" and length == UNDEFINED:  # written as implicit VR inside
            raise Odd
        return tag, vr.decode(), length, at + 12
    return tag, vr.decode(), struct.unpack_from("<H", data, at + 6)[0], at + 8


def _end_of_sequence(data: bytes, at: int, *, implicit: bool) -> int:
    """Where a sequence of undefined length ends, however deep others lie in it; ``at``: its first item."""
    inside_item = [False]  # one for each open sequence or item of undefined length
    while inside_item:
        tag, _, length, value = _element(data, at, implicit=implicit)
        if tag == (_ITEM_END if inside_item[-1] else _SEQUENCE_END):
            inside_item.pop()
            at = value
        elif inside_item[-1] == (tag >> 16 == 0xFFFE) or (not inside_item[-1] and tag != _ITEM):
            raise Odd
        elif length == UNDEFINED:
            inside_item.append(not inside_item[-1])
            at = value
        else:
            at = value + length
        if at > len(data):
            raise IndexError
    return at
