"""What a source has lost to compression: what its files say, and what their own compression gives away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medsr.image.dicom_copy import Copier
from medsr.image.dicom_frames import Frame
from medsr.image.dicom_tags import damage_refused

# Transfer syntaxes that always lose, with their method as LossyImageCompressionMethod names it (PS3.3, C.7.6.1.1.5.1).
_ALWAYS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
# JPEG 2000 and High-Throughput JPEG 2000 where both are allowed: the codestream says which it is.
_EITHER = {"1.2.840.10008.1.2.4.91": "ISO_15444_1", "1.2.840.10008.1.2.4.203": "ISO_15444_15"}
_START, _CODING_STYLE = b"\xff\x4f\xff\x51", 0xFF52  # SOC and SIZ; COD (ISO/IEC 15444-1, A.6.1)
_WAVELET = 13  # bytes from the marker COD to the wavelet; 0 there is the irreversible 9-7
_LOOKED_AT = 1 << 14  # bytes of the first frame: the main header of a codestream is shorter


@dataclass(frozen=True)
class Lossy:
    """Texts of ratio and method of each lossy compression, in the order of time; () where they are not known."""

    ratios: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    def __str__(self) -> str:
        ratio, method = ("\\".join(texts) or "not stated" for texts in (self.ratios, self.methods))
        return f"ratio {ratio}, method {method}"


def lossy_history(frames: Iterable[Frame]) -> Lossy | None:
    """History of the first file that has one; None where none has.

    Where a file is compressed with loss now and does not say so, or not how much, the ratio is that of its bytes.
    Whether JPEG 2000 loses is looked up in the first file alone. Raises InputError for one that cannot be read.
    """
    for number, frame in enumerate({id(frame.head): frame for frame in frames}.values()):
        now = _now(frame, look=number == 0)
        if frame.head.tags.text("LossyImageCompression") == "01":
            ratios, methods = (_texts(frame, "LossyImageCompression" + word) for word in ("Ratio", "Method"))
            if now is None:
                return Lossy(ratios, methods)
            return Lossy(ratios or now.ratios, methods or now.methods)
        if now is not None:
            return now
    return None


def _now(frame: Frame, *, look: bool) -> Lossy | None:
    """The compression in which the file is now, if it loses."""
    layout = frame.layout
    method = _ALWAYS.get(layout.syntax)
    if method is None and look and layout.syntax in _EITHER and _irreversible(frame):
        method = _EITHER[layout.syntax]
    if method is None:
        return None
    packed = max(frame.head.size - (frame.head.offset or 0), 1)
    return Lossy((f"{layout.frames * layout.frame_bytes / packed:.3g}",), (method,))


def _irreversible(frame: Frame) -> bool:
    """True when the first codestream of a JPEG 2000 file is made with the wavelet that always loses."""
    head = frame.head
    with head.source.open() as stream, damage_refused(head.name):
        stream.seek(head.offset or 0)
        data = stream.read(_LOOKED_AT)
    at = data.find(_START) + 2
    while 2 <= at <= len(data) - 4 - _WAVELET:
        marker, length = (int.from_bytes(data[n : n + 2], "big") for n in (at, at + 2))
        if marker == _CODING_STYLE:
            return data[at + _WAVELET] == 0
        if marker < 0xFF30:
            return False
        at += 2 + length
    return False


def _texts(frame: Frame, keyword: str) -> tuple[str, ...]:
    element = Copier().element(frame.head.tags.dataset, keyword, frame.head.name)
    if element is None:
        return ()
    return tuple(map(str, element.value)) if element.VM > 1 else (str(element.value),)
