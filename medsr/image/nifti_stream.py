"""Bytes of a volume file: gzip told by content, streams read to their end, other formats recognised and named."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isal import igzip
from isal.igzip_lib import IsalError

from medsr.errors import InputError
from medsr.image.files import display_name

MAX_INFLATION = 1032  # deflate cannot do better: 258 bytes from 2 bits
PADDING = 1 << 16  # zero bytes that some programs leave after the voxels
_CHUNK = 1 << 20
_OTHER_FORMATS = (
    (0, b"CDF\x01", "MINC-1", "convert with mnc2nii"),
    (0, b"CDF\x02", "MINC-1", "convert with mnc2nii"),
    (0, b"\x89HDF\r\n", "HDF5 or MINC-2", "convert with mnc2nii (MINC) or export as NIfTI"),
    (0, b"NRRD", "NRRD", "convert with 3D Slicer or SimpleITK"),
    (0, b"ObjectType", "MetaImage", "convert with ITK-SNAP or SimpleITK"),
    (0, b"<?xml", "XML", "convert a GIFTI surface or a Philips XML header with the program it came from"),
    (0, b"\x89PNG", "PNG", "medsr needs the scan itself: NIfTI"),
    (0, b"\xff\xd8\xff", "JPEG", "medsr needs the scan itself: NIfTI"),
    (0, b"PK\x03\x04", "zip", "unpack it first"),
    (0, b"BZh", "bzip2", "decompress with bunzip2"),
    (0, b"\xfd7zXZ", "xz", "decompress with unxz"),
    (0, b"(\xb5/\xfd", "zstd", "decompress with unzstd"),
    (0, b"<!DOCTYPE", "an HTML page", "the download failed: fetch the file again"),
    (0, b"<html", "an HTML page", "the download failed: fetch the file again"),
    (0, b"version https://git-lfs", "a git-lfs pointer", "fetch the file with git lfs pull"),
    (128, b"DICM", "DICOM", "convert it with dcm2niix, or give it unpacked (gunzip) to a command that takes DICOM"),
)


def is_gzip(path: Path) -> bool:
    """True when the content is gzip, whatever the name says."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Uncompressed bytes of a file, every fault of reading them an InputError that says truncated or corrupt."""
    name = display_name(path)
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield stack.enter_context(igzip.IGzipFile(fileobj=raw, mode="rb")) if packed else raw
    except EOFError as error:
        raise InputError(f"{name} is truncated: the gzip stream ends early; copy or download it again") from error
    except (gzip.BadGzipFile, IsalError) as error:  # type: ignore[misc]  # isal's stub calls the class an instance
        raise InputError(f"{name} is corrupt ({error}); copy or download it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{name} cannot be read ({reason}); check that it is there and readable") from error


def read_exactly(stream: BinaryIO, buffer: memoryview, name: str) -> None:
    """Fill ``buffer`` from the stream. Raises InputError ("truncated") when the stream ends before."""
    filled = 0
    while filled < len(buffer):
        count = stream.readinto(buffer[filled : filled + (_CHUNK << 3)])  # type: ignore[attr-defined]
        if not count:
            raise InputError(
                f"{name} is truncated: {len(buffer) - filled} bytes of voxels are missing; copy or download it again"
            )
        filled += count


def skip(stream: BinaryIO, count: int, name: str) -> None:
    """Pass over ``count`` bytes; those of gzip are read, since its checksum covers them."""
    if not isinstance(stream, igzip.IGzipFile):
        stream.seek(count, 1)  # inspect has compared the size of the file with its header
        return
    scratch = memoryview(bytearray(min(count, _CHUNK)))
    while count > 0:
        part = min(count, len(scratch))
        read_exactly(stream, scratch[:part], name)
        count -= part


def finish(stream: BinaryIO, name: str, *, allowance: int = 0) -> bool:
    """Read to the end, so that gzip's checksum and length are checked; True when zero padding followed the voxels.

    allowance: bytes of any content that the format may append (the tags of an .mgz). Raises InputError for more than
    that, or more than ``PADDING`` zeros: the header does not describe the file, or it inflates without end.
    """
    extra = 0
    while block := stream.read(min(_CHUNK, max(PADDING, allowance))):
        extra += len(block)
        if extra > max(allowance, PADDING) or (not allowance and block.count(0) != len(block)):
            raise InputError(
                f"{name} holds more data than its header declares; medsr expects the file to end after the voxels. "
                "Write it again with the program it came from"
            )
    return extra > 0 and not allowance


def refuse_format(path: Path, head: bytes) -> InputError:
    """The error for a file that is no NIfTI or MGH: what it seems to be, and how to convert it."""
    name = display_name(path)
    for offset, magic, what, advice in _OTHER_FORMATS:
        if head[offset : offset + len(magic)].lower() == magic.lower():
            return InputError(f"{name} is {what}, not NIfTI; {advice}")
    if b"annex/objects" in head:
        return InputError(f"{name} is a git-annex pointer, not the scan; fetch it with git annex get or datalad get")
    if path.suffix.lower() in (".dcm", ".ima"):
        return InputError(f"{name} has no DICOM preamble; if it is DICOM, rewrite it with dcmconv from DCMTK")
    return InputError(
        f"{name} is not a NIfTI file; medsr reads .nii, .nii.gz, .hdr/.img, .mgz, .mgh and DICOM. "
        "Convert other formats with mri_convert or SimpleITK"
    )
