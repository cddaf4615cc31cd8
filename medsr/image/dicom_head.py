"""The header of one DICOM file: what stands before its voxels, and where those lie."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from medsr.errors import InputError
from medsr.image.dicom_elements import PIXEL_DATA, Odd, look
from medsr.image.dicom_elements import UNDEFINED as UNDEFINED
from medsr.image.dicom_files import PREAMBLE, Source
from medsr.image.dicom_tags import Tags, damage_refused
from medsr.machine import memory_to_hold

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
_MAX_HEADER = 1 << 30  # bytes before the voxels; 100,000 frames of an enhanced series have a tenth of it
_MAX_INFLATED = 4 << 30


@dataclass(frozen=True, eq=False)
class Head:
    """What stands before the voxels of one file.

    syntax: transfer syntax UID. offset, length: of the value of the pixel data, in the inflated bytes where the file
    is deflated; length ``UNDEFINED`` for compressed frames; offset None without pixel data. size: of those bytes.
    """

    source: Source
    tags: Tags
    syntax: str
    sop_class: str
    offset: int | None
    length: int
    size: int

    @property
    def name(self) -> str:
        """Of the file, for messages."""
        return self.source.name


def read_head(source: Source, tags: Collection[int] | None = None) -> Head:
    """Read the elements before the voxels. tags: the only ones that are kept (None: all).

    Raises InputError for a file without preamble, without transfer syntax, or whose structure is damaged.
    """
    with source.open() as stream, damage_refused(source.name):
        if stream.read(PREAMBLE)[128:] != b"DICM":
            raise InputError(
                f"{source.name} has no DICOM preamble (128 bytes, then DICM); if it is DICOM all the same, rewrite it "
                "with dcmconv from DCMTK"
            )
        meta = Tags(read_dataset(stream, False, True, stop_when=_after_meta), source.name)
        syntax = meta.text("TransferSyntaxUID")
        if not syntax:
            raise InputError(f"{source.name} does not say its transfer syntax; rewrite it with dcmconv from DCMTK")
        size = source.size
        body: BinaryIO = stream
        if syntax == DEFLATED:
            inflated = _inflated(stream, source.name)
            size, body = len(inflated), BytesIO(inflated)
        dataset, offset, length = _elements(body, size, syntax, tags, source.name)
    found = Tags(dataset, source.name)
    sop_class = found.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID")
    return Head(source, found, syntax, sop_class, offset, length, size)


def _elements(
    stream: BinaryIO, size: int, syntax: str, tags: Collection[int] | None, name: str
) -> tuple[Dataset, int | None, int]:
    """The data set without its pixel data, and offset and length of those."""
    start = stream.tell()
    if tags is not None and syntax != BIG_ENDIAN:
        try:
            seen = look(stream, size, tags, implicit=syntax == IMPLICIT, limit=_MAX_HEADER)
            return Dataset(seen.elements), seen.offset, seen.length
        except Odd:
            stream.seek(start)
    found: list[tuple[int, int, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001  # pydicom's signature
        if stream.tell() > _MAX_HEADER:
            raise InputError(f"{name}: more than {_MAX_HEADER >> 20} MB before the voxels; it is damaged")
        if tag >= PIXEL_DATA:
            found.append((int(tag), stream.tell(), length))
        return bool(tag >= PIXEL_DATA)

    wanted = None if tags is None else list(tags)
    dataset = read_dataset(stream, syntax == IMPLICIT, syntax != BIG_ENDIAN, stop_when=at_pixels, specific_tags=wanted)
    tag, offset, length = found[-1] if found else (0, 0, 0)
    return dataset, offset if tag == PIXEL_DATA else None, length


def inflated_bytes(head: Head) -> bytes:
    """All bytes in which ``head.offset`` counts: those of the file, inflated where it is deflated.

    Raises InputError for a file that cannot be read, or holds more than the memory.
    """
    if head.syntax != DEFLATED:
        return head.source.read()
    with head.source.open() as stream, damage_refused(head.name):
        stream.read(PREAMBLE)
        read_dataset(stream, False, True, stop_when=_after_meta)
        return _inflated(stream, head.name)


def _inflated(stream: BinaryIO, name: str) -> bytes:
    packed = stream.read()
    limit = max(1, min(_MAX_INFLATED, memory_to_hold()))  # 0 would mean none
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(packed, limit)
    if inflater.unconsumed_tail:
        raise InputError(f"{name} is deflated and inflates to more than {limit >> 20} MB; inflate it with dcmconv")
    return data


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001  # pydicom's signature
    return tag >> 16 != 2
