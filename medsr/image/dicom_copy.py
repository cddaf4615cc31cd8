"""Elements of a source on their way into a derived object: made valid or left out, and encoded in its character set."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import pydicom
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName, format_number_as_ds

from medsr.errors import InputError
from medsr.image.dicom_attributes import ALLOWED, FORMS, IDENTITY
from medsr.image.dicom_tags import Tags, damage_refused, quiet, tag_of

UTF_8 = "ISO_IR 192"
_TEXT = {"SH": 16, "LO": 64, "ST": 1024, "LT": 10240, "UT": 1 << 20, "UC": 1 << 20}  # VR: characters it holds
_WITH_LINES = ("ST", "LT", "UT")
_IN_CHARSET = (*_TEXT, "PN")
_WHOLE = {"US": (0, (1 << 16) - 1), "SS": (-(1 << 15), (1 << 15) - 1), "UL": (0, (1 << 32) - 1)}  # VR: its range
_PATTERNS = {
    "CS": re.compile(r"[A-Z0-9 _]{1,16}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"),
    "DT": re.compile(r"\d{4}(\d{2}(\d{2}(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?)?)?([+-]\d{4})?"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "UI": re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+"),
    "DS": re.compile(r"(?=.{1,16}$)[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "IS": re.compile(r"(?=.{1,12}$)[+-]?\d+"),
}
_LIKE_A_UID = re.compile(r"[0-9.]{1,64}")  # leading zeros are against the rules, and found
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")


def encode(element: DataElement, encodings: list[str] | None = None) -> bytes:
    """An element, tag and length included, in explicit VR little endian. encodings: Python's names (None: ASCII)."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_data_element(stream, element, encodings)
    return stream.getvalue()


class Unencodable(Exception):  # noqa: N818  # not an error: the object takes UTF-8 instead
    """A text that the character set of the object cannot hold."""


class Encoder:
    """Elements as the bytes of explicit VR little endian, in one character set; an object is encoded only once."""

    def __init__(self, charset: Sequence[str]) -> None:
        self.charset = tuple(charset)
        self._encodings = convert_encodings(list(charset)) if charset else ["iso8859"]
        self._known: dict[int, tuple[DataElement, bytes]] = {}

    def encoded(self, element: DataElement) -> bytes:
        """The bytes of an element, tag and length included. Raises Unencodable."""
        if id(element) not in self._known:
            self._check(element)
            try:
                with quiet():
                    self._known[id(element)] = element, encode(element, self._encodings)  # kept, since its id is
            except (IndexError, LookupError, ValueError) as error:  # of the codecs for Japanese and Korean
                raise Unencodable(element.keyword) from error
        return self._known[id(element)][1]

    def _check(self, element: DataElement) -> None:
        vr = str(element.VR)
        if vr == "SQ":
            for item in element.value:
                for inner in item:
                    self._check(inner)
        elif vr in _IN_CHARSET:
            for text in _values(element):
                if not str(text).isascii() and not self._holds(str(text)):
                    raise Unencodable(element.keyword)

    def _holds(self, text: str) -> bool:
        if not self.charset:
            return False
        with quiet():
            try:
                encoded = encode_string(text, self._encodings)
                return bool(decode_bytes(encoded, self._encodings, set()) == text)
            except (LookupError, ValueError):
                return False


def charset_of(tags: Tags) -> tuple[str, ...]:
    """SpecificCharacterSet of a source, () where it has none or one that is not known."""
    names = [name.strip() for name in tags.text("SpecificCharacterSet").split("\\")]
    known = pydicom.charset.python_encoding
    return tuple(names) if any(names) and all(name in known for name in names) else ()


class Copier:
    """Valid elements of the files of one source; what stands alike in many files is read once, and is one object."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[object, DataElement | None]] = {}

    def element(self, dataset: Dataset, keyword: str, name: str) -> DataElement | None:
        """A valid element of a file; None where it is absent, empty or cannot be made valid. name: of the file.

        What says who the patient is stays as it is, valid or not. Raises InputError where that cannot be read.
        """
        tag = BaseTag(tag_of(keyword))
        if tag not in dataset:
            return None
        raw: object = dataset.get_item(tag)
        key: object = id(raw)
        if isinstance(raw, RawDataElement):
            key = tag, raw.VR, raw.value, raw.is_little_endian, raw.is_implicit_VR, str(dataset.original_character_set)
        if key not in self._known:
            self._known[key] = raw, self._read(dataset, tag, keyword, name)  # the object is kept, since its id may be
        return self._known[key][1]

    def _read(self, dataset: Dataset, tag: BaseTag, keyword: str, name: str) -> DataElement | None:
        try:
            with quiet(), damage_refused(name):
                return cleaned(dataset[tag])
        except InputError:
            if keyword in IDENTITY:
                raise
            return None


def cleaned(element: DataElement) -> DataElement | None:
    """An element with its values made valid; None where there are none. Private elements go, at any depth.

    Raises ValueError and others for what is no value of its kind at all.
    """
    keyword, vr = element.keyword, dictionary_VR(element.tag)
    if element.is_empty or element.tag.is_private:
        return None
    if vr == "SQ":
        items = [item for item in map(_cleaned_item, element.value) if _is_complete(item, keyword)]
        return DataElement(element.tag, "SQ", items) if items else None
    if keyword in IDENTITY:
        return _as_it_stands(element, vr)
    values = [_valid(vr, value) for value in _values(element)]
    if keyword in FORMS and not all(FORMS[keyword].fullmatch(str(value)) for value in values):
        return None
    if keyword in ALLOWED:
        values = [value for value in values if value in ALLOWED[keyword]]
    low, high = _multiplicity(element.tag)
    if not low <= len(values) <= high or all(value in (None, "") for value in values) or None in values:
        return None
    return DataElement(element.tag, vr, values[0] if len(values) == 1 else values)


def _as_it_stands(element: DataElement, vr: str) -> DataElement | None:
    """An element whose text is kept against the rules of its VR; a date, time or UID only where it could be one."""
    texts = list(_values(element))
    if not all(isinstance(text, str | PersonName) for text in texts):
        raise ValueError(f"{element.keyword} is no text")
    texts = [str(text).rstrip(" \0") for text in texts]
    if vr not in _IN_CHARSET and not all(text.isascii() and text.isprintable() for text in texts):
        return None
    if vr == "UI" and not all(_LIKE_A_UID.fullmatch(text) for text in texts):
        return None
    return DataElement(element.tag, vr, texts[0] if len(texts) == 1 else texts)


def _cleaned_item(item: Dataset) -> Dataset:
    found = Dataset()
    for element in item:
        if not element.tag.is_private and element.keyword:
            inner = cleaned(element)
            if inner is not None:
                found.add(inner)
    return found


def _is_complete(item: Dataset, keyword: str) -> bool:
    """False for an item without content, and for one of a code without a meaning."""
    if len(item) == 0:
        return False
    if not keyword.endswith("CodeSequence"):
        return True
    value = any(word in item for word in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    return value and "CodeMeaning" in item and ("CodingSchemeDesignator" in item or "URNCodeValue" in item)


def _values(element: DataElement) -> Iterable[Any]:
    if isinstance(element.value, str | bytes) or not isinstance(element.value, Iterable):
        return [element.value]
    return [element.value] if element.VR == "PN" and element.VM == 1 else element.value


def _multiplicity(tag: BaseTag) -> tuple[int, float]:
    low, _, high = dictionary_VM(tag).partition("-")
    return int(low), math.inf if high.endswith("n") else int(high or low)


def _valid(vr: str, value: Any) -> Any:
    """A value that its VR allows, changed as little as that takes; None where nothing does."""
    if vr in _WHOLE or vr in ("FL", "FD"):
        return _valid_number(vr, value)
    if not isinstance(value, str | PersonName | int | float):  # bytes of another VR
        return None
    text = str(value)
    if vr in _WITH_LINES:
        return _CONTROL_BUT_LINES.sub(" ", text).rstrip()[: _TEXT[vr]]
    if vr in _IN_CHARSET:
        return None if "\\" in text else _CONTROL.sub(" ", text).rstrip()[: _TEXT.get(vr)]
    text = text.strip(" \0")
    if not text:
        return ""
    if vr == "DA":
        return _valid_date(text.replace(".", "").replace("-", ""))
    if vr == "CS":
        text = text.upper()
    if vr == "TM":
        text = text.replace(":", "")
    if vr == "DS" and len(text) > 16:
        text = decimal_of_any_size(float(text)) if math.isfinite(float(text)) else ""
    if vr == "IS":
        text = str(int(float(text))) if float(text) == int(float(text)) else ""
    pattern = _PATTERNS.get(vr)
    return text if pattern is not None and pattern.fullmatch(text) else None


def _valid_number(vr: str, value: Any) -> int | float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if vr not in _WHOLE:
        return float(value)
    low, high = _WHOLE[vr]
    return int(value) if value == int(value) and low <= value <= high else None


def _valid_date(text: str) -> str | None:
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
    return text if len(text) == 8 else None


def is_uid(text: str) -> bool:
    """True for a UID by the rules of PS3.5."""
    return _PATTERNS["UI"].fullmatch(text) is not None


def is_code(text: str) -> bool:
    """True for a code string by the rules of PS3.5."""
    return _PATTERNS["CS"].fullmatch(text) is not None


def decimal(value: float, digits: int = 10) -> str:
    """A length or direction as a decimal string. digits: after the point that are kept if 16 characters hold them."""
    return decimal_of_any_size(round(float(value), digits))


def decimal_of_any_size(value: float) -> str:
    """A number as a decimal string with all digits that 16 characters hold."""
    value = float(value) + 0.0  # no negative zero
    whole = abs(value) < 1e15 and value == int(value)
    return str(int(value)) if whole else str(format_number_as_ds(value))
