"""Compressed frames to samples: which codec, whether it is installed, and no image larger than the header declares."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder

from medsr.errors import InputError
from medsr.image.dicom_head import BIG_ENDIAN, UNDEFINED, Head
from medsr.image.dicom_layout import Layout
from medsr.image.dicom_tags import damage_refused, uid_name

# The first that is installed decodes, so that a file has the same voxels on every run: compiled code before Python's.
_PREFERRED = ("pylibjpeg", "pyjpegls", "gdcm", "pillow")
_RLE = "1.2.840.10008.1.2.5"  # pydicom's own decoder: the compiled one of pylibjpeg-rle aborts on a damaged frame
_JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
_SIZED = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG and JPEG-LS markers that begin a frame header
_STANDALONE = {0x01, *range(0xD0, 0xD9)}


def codec_fault(layout: Layout) -> str | None:
    """Why frames of this syntax cannot be decoded here, with what to do; None when they can."""
    if not layout.compressed:
        return None
    if layout.syntax == _JPEG_12_BIT and layout.bits_stored > 8:
        return "is compressed with 12-bit lossy JPEG, which medsr's codecs do not read; decompress it with dcmdjpeg"
    try:
        available = _plugin(layout.syntax) is not None
    except NotImplementedError:
        return f"has the transfer syntax {uid_name(layout.syntax)}, which medsr does not read; rewrite it with dcmconv"
    if available:
        return None
    return (
        f"is compressed with {uid_name(layout.syntax)}, and no codec for it is installed: pip install 'medsr[codecs]'"
    )


def encoded_frames(head: Head, layout: Layout, data: memoryview) -> list[bytes]:
    """The compressed frames of one file. data: all its bytes. Raises InputError where some are missing."""
    start = head.offset or 0
    offsets, lengths = head.tags.bytes_of("ExtendedOffsetTable"), head.tags.bytes_of("ExtendedOffsetTableLengths")
    table = (offsets, lengths) if offsets and lengths else None
    end = len(data) if head.length == UNDEFINED else start + head.length
    with damage_refused(head.name):
        frames = list(generate_frames(bytes(data[start:end]), number_of_frames=layout.frames, extended_offsets=table))
    if len(frames) < layout.frames:
        raise InputError(f"{head.name} is truncated: {len(frames)} of {layout.frames} compressed frames; copy it again")
    return frames


def decoded(frame: bytes, layout: Layout, name: str) -> NDArray[Any]:
    """(rows, columns) samples of one compressed frame. Raises InputError when it does not decode to that size."""
    size = _declared_size(frame)
    if size is not None and size != (layout.rows, layout.columns):
        raise InputError(
            f"{name}: the compressed image is {size[0]} x {size[1]}, the header says {layout.rows} x {layout.columns}"
        )
    plugin = _plugin(layout.syntax)
    if plugin is None:
        raise InputError(f"{name} {codec_fault(layout)}")
    try:
        decoder = get_decoder(layout.syntax)
        packed = encapsulate([frame], has_bot=False)
        array, _ = decoder.as_array(packed, index=0, raw=True, decoding_plugin=plugin, **_options(layout))
    except Exception as error:  # each codec raises kinds of its own
        raise InputError(
            f"{name}: its compressed voxels do not decode ({type(error).__name__}); copy it again"
        ) from error
    if array.shape != (layout.rows, layout.columns):
        raise InputError(f"{name} decodes to {array.shape}, the header says {layout.rows} x {layout.columns}")
    return array


def _options(layout: Layout) -> dict[str, Any]:
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
        "photometric_interpretation": layout.photometric,
        "pixel_keyword": "PixelData",
    }


@lru_cache(maxsize=64)
def _plugin(syntax: str) -> str | None:
    if syntax == _RLE:
        return "pydicom"
    available = get_decoder(syntax).available_plugins
    return next((name for name in _PREFERRED if name in available), None)


def _declared_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) by the stream's own header; None where none is found. A codec would believe it."""
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:  # JPEG 2000: SOC, SIZ
        columns, rows, left, top = struct.unpack(">4I", frame[8:24])
        return rows - top, columns - left
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
        elif marker in _SIZED:
            rows, columns = struct.unpack(">2H", frame[at + 5 : at + 9])
            return rows, columns
        else:
            at += 2 + struct.unpack(">H", frame[at + 2 : at + 4])[0]
    return None


def native(
    data: memoryview, layout: Layout, offset: int, index: int, padding: tuple[int, int] | None = None
) -> NDArray[Any]:
    """(rows, columns) samples of an uncompressed frame, without the bits beyond BitsStored (overlays lie there).

    padding: range of samples that are no image. They stay as they are: some scanners take a value for them that
    BitsStored does not hold, and that the cut would turn into tissue.
    """
    order = ">" if layout.syntax == BIG_ENDIAN else "<"
    kind = f"{order}{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}"
    count = layout.rows * layout.columns
    samples = np.frombuffer(data, kind, count, offset + index * layout.frame_bytes)
    samples = samples.reshape(layout.rows, layout.columns)
    unused = layout.bits_allocated - layout.bits_stored
    if unused:
        # Up and down again: the sign bit of the stored bits becomes that of the sample, anything above it is lost.
        native_order = samples.astype(samples.dtype.newbyteorder("="))
        cut = np.asarray(np.right_shift(np.left_shift(native_order, unused), unused))
        if padding is None or _holds(layout, *padding):
            return cut
        return np.where((native_order >= padding[0]) & (native_order <= padding[1]), native_order, cut)
    return samples


def _holds(layout: Layout, low: int, high: int) -> bool:
    """True when the stored bits hold all values of a range, which cutting then leaves as they are."""
    first = -(1 << layout.bits_stored - 1) if layout.signed else 0
    return first <= low and high < first + (1 << layout.bits_stored)
