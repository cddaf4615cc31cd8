"""Elements of one DICOM file, read from their bytes: nothing that a file can hold raises anything but InputError."""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medsr.errors import InputError
from medsr.image.dicom_files import one_line

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}


@dataclass(frozen=True)
class Private:
    """A private element, found by the creator of its block. vr: of its value, where the file states none or UN."""

    group: int
    creator: str
    element: int
    vr: str


@dataclass(frozen=True, eq=False)
class Tags:
    """Elements of a data set, or of an item of one of its sequences. name: of the file, for messages."""

    dataset: Dataset = field(repr=False)
    name: str
    _raw: dict[int, Any] = field(init=False, repr=False)  # elements as they stand in the file, not yet interpreted

    def __post_init__(self) -> None:
        object.__setattr__(self, "_raw", {int(element.tag): element for element in self.dataset.elements()})

    def has(self, keyword: str) -> bool:
        """True when the element is there and not empty."""
        element = self._raw.get(tag_of(keyword))
        return element is not None and element.value not in (None, b"", "")

    def numbers(self, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        """Values of a numeric element; None when it is absent or empty.

        count: how many there must be. Raises InputError for text that is no number, NaN, Inf or another count.
        """
        return self._numbers(tag_of(keyword), keyword, count)

    def number(self, keyword: str) -> float | None:
        """The first value of a numeric element; None when it is absent or empty."""
        values = self.numbers(keyword)
        return values[0] if values else None

    def integer(self, keyword: str) -> int | None:
        """As ``number``, for whole numbers; raises InputError for others."""
        value = self.number(keyword)
        if value is not None and value != int(value):
            raise InputError(f"{self.name}: {keyword} is {value:g}; expected a whole number")
        return None if value is None else int(value)

    def private_numbers(self, wanted: Private) -> tuple[float, ...] | None:
        """Values of a private element; None when it is absent or holds no numbers."""
        tag = self._private(wanted)
        try:
            return None if tag is None else self._numbers(tag, "private element", None, wanted.vr)
        except InputError:
            return None

    def private_number(self, wanted: Private) -> float | None:
        """The first value of ``private_numbers``."""
        values = self.private_numbers(wanted)
        return values[0] if values else None

    def private_bytes(self, wanted: Private) -> bytes | None:
        """Bytes of a private element; None when it is absent."""
        tag = self._private(wanted)
        item = None if tag is None else self._raw.get(tag)
        return bytes(item.value) if item is not None and isinstance(item.value, bytes | bytearray) else None

    def private_items(self, wanted: Private) -> list[Tags]:
        """Items of a private sequence; [] when it is absent. Raises InputError for a damaged one."""
        tag = self._private(wanted)
        element = self._raw.get(tag) if tag is not None else None
        if element is None:
            return []
        if isinstance(element, RawDataElement) and element.VR in (None, "UN"):
            # What a writer that did not know the element calls UN is encoded without VRs (PS3.5, 6.2.2).
            element = element._replace(VR="SQ", is_implicit_VR=True, is_little_endian=True)
        return self._items_of(Dataset({element.tag: element}), element.tag)

    def bytes_of(self, keyword: str) -> bytes:
        """The bytes of an element; b"" when it is absent."""
        value = getattr(self._raw.get(tag_of(keyword)), "value", None)
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str) -> str:
        """A text element in one piece, decoded as its character set says (or as Latin-1); "" when it is absent."""
        element = self._raw.get(tag_of(keyword))
        if element is None or element.value is None:
            return ""
        value = element.value
        if isinstance(value, bytes):
            value = value.decode() if value.isascii() and b"\x1b" not in value else self._decoded(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = "\\".join(str(v) for v in value)
        return str(value).strip(" \0")

    def words(self, keyword: str) -> tuple[str, ...]:
        """Values of a code element in capitals, such as ImageType."""
        text = self.text(keyword)
        return tuple(word.strip(" \0").upper() for word in text.split("\\")) if text else ()

    def items(self, keyword: str) -> list[Tags]:
        """Items of a sequence; [] when it is absent. Raises InputError for a damaged one."""
        tag = tag_of(keyword)
        return self._items_of(self.dataset, tag) if tag in self._raw else []

    def item(self, keyword: str) -> Tags | None:
        """The first item of a sequence."""
        found = self.items(keyword)
        return found[0] if found else None

    def _items_of(self, dataset: Dataset, tag: int) -> list[Tags]:
        with damage_refused(self.name):
            value = dataset[tag].value
            return [Tags(item, self.name) for item in value] if isinstance(value, pydicom.Sequence) else []

    def _private(self, wanted: Private) -> int | None:
        for tag, item in self._raw.items():
            if tag >> 16 != wanted.group or not 0x10 <= (block := tag & 0xFFFF) <= 0xFF:
                continue
            value = item.value
            if isinstance(value, bytes):
                value = value.decode("latin-1")
            if isinstance(value, str) and value.strip(" \0") == wanted.creator:
                return wanted.group << 16 | block << 8 | wanted.element
        return None

    def _numbers(self, tag: int, keyword: str, count: int | None, vr: str = "") -> tuple[float, ...] | None:
        element = self._raw.get(tag)
        if element is None or element.value is None or len(element.value) == 0:
            return None
        if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
            raise InputError(f"{self.name}: {keyword} is damaged; expected a number")
        stated = element.VR if element.VR not in (None, "UN") else vr or _vr(tag)
        code = _BINARY.get(str(stated)[:2])
        values = _unpacked(element, code) if code else self._parsed(element.value, keyword)
        if not all(math.isfinite(v) for v in values):
            raise InputError(f"{self.name}: {keyword} holds NaN or Inf; expected numbers")
        if count is not None and len(values) != count:
            raise InputError(f"{self.name}: {keyword} has {len(values)} values; expected {count}")
        return values

    def _parsed(self, value: bytes, keyword: str) -> tuple[float, ...]:
        pieces = [piece.strip(" \0") for piece in value.decode("latin-1").split("\\")]
        if not any(pieces):
            return ()
        for piece in pieces:
            if not _NUMBER.fullmatch(piece):
                raise InputError(f"{self.name}: {keyword} is {one_line(piece)!r}; expected a number such as 0.8")
        return tuple(float(piece) for piece in pieces)

    def _decoded(self, value: bytes) -> str:
        charset = self._raw.get(0x00080005)
        named = getattr(charset, "value", None)
        if not named:
            return value.decode("latin-1")
        if isinstance(named, bytes):
            named = [part.strip() for part in named.decode("latin-1").split("\\")]
        try:
            return decode_bytes(value, convert_encodings(named), set())
        except (LookupError, ValueError, TypeError, AttributeError):
            return value.decode("latin-1")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's and the codecs' remarks on odd files, which go around medsr's own warnings, off the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def damage_refused(name: str) -> Iterator[None]:
    """Turn whatever pydicom raises on a damaged file (some twenty kinds, RecursionError among them) into InputError."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error}); copy it again") from error
    except Exception as error:
        raise InputError(f"{name} is damaged DICOM ({type(error).__name__}); export or copy it again") from error


def uid_name(uid: str) -> str:
    """Name of a UID in the standard, or the UID itself."""
    return one_line(UID(uid).name) if uid else "an unknown kind"


def _unpacked(element: RawDataElement, code: str) -> tuple[float, ...]:
    value = element.value or b""
    size = struct.calcsize(code)
    order = "<" if element.is_little_endian else ">"
    return struct.unpack(f"{order}{len(value) // size}{code}", value[: len(value) // size * size])


@lru_cache(maxsize=512)
def tag_of(keyword: str) -> int:
    """The tag that the standard names so."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


@lru_cache(maxsize=512)
def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
