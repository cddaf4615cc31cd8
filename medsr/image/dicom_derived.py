"""What is new in an object derived from a DICOM source: who made it, from what, and what it is called."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from pydicom.dataset import Dataset

from medsr.errors import ConfigError
from medsr.image.dicom_attributes import SCANNER
from medsr.image.dicom_copy import Copier, is_code
from medsr.image.dicom_kinds import MARK
from medsr.image.dicom_lossy import Lossy
from medsr.image.dicom_tags import Tags
from medsr.image.volume import Modality

STORAGE: Mapping[Modality, str] = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
MAKER = "medsr"
LONGEST = 64  # characters of LO
_SHORT_TEXT = 1024  # characters of ST
_NUMBER_WITHOUT_SOURCE = 9901
LAST_NUMBER = (1 << 31) - 1  # of an integer string (IS)
_FOREIGN_TO_LO = str.maketrans({"\\": "/"} | {chr(c): " " for c in (*range(32), 127)})
_IMAGE_FLAVOUR = {"CT": ("AXIAL", "LOCALIZER")}  # the third values that classic CT allows


@dataclass(frozen=True)
class Derivation:
    """What made a derived series, and how it is to be presented.

    model: name and version, for people. parameters: JSON values; with the model and the pixels they make the UIDs.
    description: one sentence for DerivationDescription. software: version of medsr. created: time of series, content
    and instances, which is no part of the UIDs. series_description: default the source's; both get the mark.
    series_number: default the source's x 100 + 1,
    and 10 more for each further part of it. burn_in: draw a mark into every slice.
    """

    model: str
    model_sha256: str
    parameters: Mapping[str, Any]
    description: str
    software: str
    created: datetime
    series_description: str | None = None
    series_number: int | None = None
    burn_in: bool = False


def uid_of(*parts: object) -> str:
    """A UID that the same JSON values give again, and others never: 2.25 and a UUID (version 8) of their sha256."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    bits = bits & ~(0xF << 76) | 8 << 76
    bits = bits & ~(0x3 << 62) | 2 << 62
    return f"2.25.{uuid.UUID(int=bits).int}"


def marked_description(source: str, derivation: Derivation) -> str:
    """SeriesDescription of a derived series: the source's or the user's, cut, and the mark, never cut."""
    text = source if derivation.series_description is None else derivation.series_description
    check_wishes(derivation.series_description, derivation.series_number)
    text = " ".join(text.translate(_FOREIGN_TO_LO).removesuffix(MARK).rstrip(" -").split())
    room = LONGEST - len(MARK) - len(" - ")
    return f"{text[:room].rstrip()} - {MARK}" if text else MARK


def check_wishes(description: str | None, number: int | None) -> None:
    """Raise ConfigError for a description or number that a series cannot have; None stands for that of the source."""
    if description is not None and description.translate(_FOREIGN_TO_LO) != description:
        raise ConfigError("the series description holds a backslash or a control character; leave it out")
    if number is not None and not 0 <= number <= LAST_NUMBER:
        raise ConfigError(f"a series number of {number}; expected 0 to {LAST_NUMBER}")


def number_of(source: int | None, derivation: Derivation, part: int | None = None) -> int:
    """SeriesNumber of a derived series. part: of the source series, from 1, where it falls into several.

    Parts are ten apart, so that the maps of each have numbers of their own; from the eleventh on they begin again.
    """
    if derivation.series_number is not None:
        check_wishes(None, derivation.series_number)
        return derivation.series_number
    number = 0 if source is None or source <= 0 else source * 100 + 1 + 10 * (((part or 1) - 1) % 10)
    return number if 0 < number <= LAST_NUMBER else _NUMBER_WITHOUT_SOURCE


def new_equipment(source: Tags, derivation: Derivation) -> Dataset:
    """General Equipment, and the equipment that contributed, of an object derived from a file."""
    ds = Dataset()
    ds.Manufacturer = MAKER
    ds.ManufacturerModelName, ds.SoftwareVersions = _line(derivation.model), _line(derivation.software)
    ds.ContributingEquipmentSequence = _contributors(source, derivation)
    return ds


def _contributors(source: Tags, derivation: Derivation) -> list[Dataset]:
    copier = Copier()
    earlier = copier.element(source.dataset, "ContributingEquipmentSequence", source.name)
    items = [item for item in (earlier.value if earlier is not None else ()) if "Manufacturer" in item]
    if source.text("Manufacturer").lower() != MAKER:
        scanner = Dataset()
        for keyword in SCANNER:
            element = copier.element(source.dataset, keyword, source.name)
            if element is not None:
                scanner.add(element)
        if "Manufacturer" not in scanner:
            scanner.Manufacturer = "unknown"  # of type 1 here
        scanner.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
        items.append(scanner)
    own = Dataset()
    own.Manufacturer = MAKER
    own.ManufacturerModelName, own.SoftwareVersions = _line(derivation.model), _line(derivation.software)
    own.PurposeOfReferenceCodeSequence = [code("109102", "DCM", "Processing Equipment")]
    own.ContributionDateTime = f"{derivation.created:%Y%m%d%H%M%S}" + _offset(derivation.created)
    own.ContributionDescription = (
        f"{MARK}: super-resolution by {derivation.model}, weights with sha256 {derivation.model_sha256}. Research use "
        "only, not for diagnosis."
    )[:_SHORT_TEXT]
    return [*items, own]


def _line(text: str) -> str:
    return text.translate(_FOREIGN_TO_LO)[:LONGEST]


def new_times(source: Tags, derivation: Derivation) -> Dataset:
    """Dates and times of series, content and instance, in the time zone that the source states."""
    created = derivation.created
    offset = source.text("TimezoneOffsetFromUTC")
    if created.tzinfo is not None and len(offset) == 5 and offset[1:].isdigit() and offset[0] in "+-":
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        created = created.astimezone(timezone((-1 if offset[0] == "-" else 1) * timedelta(minutes=minutes)))
    ds = Dataset()
    ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = f"{created:%Y%m%d}"
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = f"{created:%H%M%S}"
    return ds


def _offset(moment: datetime) -> str:
    return f"{moment:%z}"[:5] if moment.tzinfo is not None else ""


def new_marks(derivation: Derivation, *, burned_in: bool) -> Dataset:
    """What says of an object that it was made, not acquired. burned_in: the source's pixels hold text already."""
    ds = Dataset()
    ds.SyntheticData, ds.ContentQualification = "YES", "RESEARCH"
    ds.BurnedInAnnotation = "YES" if derivation.burn_in or burned_in else "NO"
    ds.DerivationDescription = derivation.description[:_SHORT_TEXT]
    ds.DerivationCodeSequence = [code("113085", "DCM", "Spatial resampling")]
    return ds


def image_type(source: Sequence[str], modality: Modality) -> list[str]:
    """ImageType of a derived image. source: ImageType or FrameType of the source."""
    third = source[2].strip().upper() if len(source) > 2 else ""
    allowed = _IMAGE_FLAVOUR.get(modality)
    if not is_code(third) or (allowed is not None and third not in allowed):
        third = "AXIAL" if modality == "CT" else "OTHER"
    return ["DERIVED", "SECONDARY", third]


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def lossy_elements(history: Lossy | None) -> Dataset:
    """Elements of a history of lossy compression."""
    ds = Dataset()
    if history is not None:
        ds.LossyImageCompression = "01"
        if history.ratios:
            ds.LossyImageCompressionRatio = list(history.ratios)
        if history.methods:
            ds.LossyImageCompressionMethod = list(history.methods)
    return ds
