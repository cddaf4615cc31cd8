"""What a derived series takes over from its source, slice by slice, whatever kind of file the source is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from medsr.errors import InputError
from medsr.image.dicom_attributes import Level, modules_of
from medsr.image.dicom_classic import as_classic, is_flat
from medsr.image.dicom_copy import Copier
from medsr.image.dicom_files import one_line
from medsr.image.dicom_frames import Frame
from medsr.image.dicom_inspect import Stack
from medsr.image.dicom_tags import Tags, tag_of
from medsr.image.volume import Modality

Elements = dict[str, DataElement]  # by keyword

_OTHER_DATES = ("PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar")
_OF_ANIMALS = (  # of type 2C: there, if only empty, where a species is stated
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence", "PatientSexNeutered",
    "ResponsiblePerson", "ResponsibleOrganization",
)  # fmt: skip
_STRAIN = (
    "StrainDescription", "StrainNomenclature", "StrainStockSequence", "StrainAdditionalInformation",
    "StrainCodeSequence", "GeneticModificationsSequence",
)  # fmt: skip
_TOGETHER = (
    ("ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber"),
    ("LongitudinalTemporalOffsetFromEvent", "LongitudinalTemporalEventType"),
    ("ResponsiblePerson", "ResponsiblePersonRole"),
)
_GATED = {"CG", "PPG"}  # scan options under which a trigger time belongs to an MR image


@dataclass(frozen=True, eq=False)
class Source:
    """Slices of one volume of a source. frames: in slice order. datasets: of their files, by id of the frame's head.

    moment: number of the volume, from 1, where trigger times alone tell the volumes apart. weighted: any volume of the
    series is weighted by diffusion; some vendors state a b-value of 0 in every other scan.
    """

    frames: tuple[Frame, ...]
    datasets: dict[int, Dataset]
    deskewed: bool
    copier: Copier
    moment: int | None = None
    weighted: bool = False
    _flat: dict[int, Dataset] = field(default_factory=dict)

    def dataset(self, k: int) -> Dataset:
        """Attributes of source slice k as those of a classic file."""
        if k not in self._flat:
            frame = self.frames[k]
            dataset = self.datasets[id(frame.head)]
            self._flat[k] = dataset if is_flat(dataset) else as_classic(dataset, frame.index, frame.head.name)
        return self._flat[k]

    def tags(self, k: int) -> Tags:
        """The same, to be read as text and numbers."""
        return Tags(self.dataset(k), self.frames[k].head.name)

    def copied(self, k: int, modality: Modality, level: Level) -> Elements:
        """What is copied of one level's attributes of source slice k; type 2 is there and empty where it lacks them."""
        dataset, name = self.dataset(k), self.frames[k].head.name
        found: Elements = {}
        for module in modules_of(modality):
            if module.level != level:
                continue
            read = {keyword: self.copier.element(dataset, keyword, name) for keyword in module.copied}
            own = {keyword: element for keyword, element in read.items() if element is not None}
            if not all(set(group) & own.keys() for group in module.needed):
                own = {}
            if own or not module.optional:
                own |= {keyword: _made(keyword, None) for keyword in module.required if keyword not in own}
            found |= own
        if level == "slice":
            self._make_consistent(found, k, modality)
        if level == "series":
            sided = self.copier.element(dataset, "ImageLaterality", name) is not None
            if not sided and not {"Laterality", "BodyPartExamined"} & found.keys():
                found |= element("Laterality", None)  # it may be one of a pair, for all that is known
            _complete_series(found)
        return found

    def _make_consistent(self, found: Elements, k: int, modality: Modality) -> None:
        """Attributes that only hold together, or under a condition (types 1C and 2C)."""
        if modality == "MR":
            _complete_mr(found)
            if "TriggerTime" not in found and "TemporalPositionIdentifier" not in found and self.moment is not None:
                found |= element("TemporalPositionIdentifier", str(self.moment))
            b_value = self.frames[k].keys.get("b-value")
            if self.weighted and "DiffusionBValue" not in found and isinstance(b_value, float):
                found |= element("DiffusionBValue", b_value)  # from the vendor's private tag
        if self.deskewed:
            found.pop("GantryDetectorTilt", None)
        if "MultienergyCTAcquisitionSequence" not in found:
            found.pop("MultienergyCTAcquisition", None)
        turned = modality == "MR" and self.frames[k].layout.photometric == "MONOCHROME1"
        window = [found.get(keyword) for keyword in ("WindowCenter", "WindowWidth")]
        count = {0 if element is None else element.VM for element in window}
        if turned or 0 in count or len(count) != 1:
            # The window of a negative says nothing of the positive.
            for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
                found.pop(keyword, None)
        elif "WindowCenterWidthExplanation" in found and found["WindowCenterWidthExplanation"].VM not in count:
            del found["WindowCenterWidthExplanation"]


def _complete_series(found: Elements) -> None:
    """Where the standard asks for one attribute because of another."""
    for one_of, other in (*_TOGETHER, *(pair[::-1] for pair in _TOGETHER)):
        if one_of not in found:
            found.pop(other, None)
    _complete_patient(found)
    removed = found.get("PatientIdentityRemoved")
    how = {"DeidentificationMethod", "DeidentificationMethodCodeSequence"} & found.keys()
    if removed is not None and removed.value == "YES" and not how:
        found |= element("DeidentificationMethod", "not stated by the source")


def _complete_patient(found: Elements) -> None:
    """Other calendars, and animals: attributes that go with each other."""
    dates = [keyword for keyword in _OTHER_DATES if keyword in found]
    if not dates:
        found.pop("PatientAlternativeCalendar", None)
    if "PatientAlternativeCalendar" not in found:
        for keyword in dates:
            del found[keyword]
    if {"PatientSpeciesDescription", "PatientSpeciesCodeSequence"} & found.keys():
        found |= {keyword: _made(keyword, None) for keyword in _OF_ANIMALS if keyword not in found}
    else:
        for keyword in (*_OF_ANIMALS[:4], *_STRAIN):
            found.pop(keyword, None)


def _complete_mr(found: Elements) -> None:
    """Types 1 and 2C of the MR Image module. An inversion time may only stand beside IR: there a positive one is none
    without it, and one of 0 or less is none at all.
    """
    sequence = _words(found["ScanningSequence"]) if "ScanningSequence" in found else []
    inversion = float(found["InversionTime"].value) if "InversionTime" in found else 0.0
    if inversion > 0 and "IR" not in sequence:
        sequence = [*sequence, "IR"]
    if inversion <= 0:
        found.pop("InversionTime", None)
        if "IR" in sequence:
            found["InversionTime"] = _made("InversionTime", None)
    found |= element("ScanningSequence", sequence or ["RM"])  # research mode, where the source says nothing
    if "SequenceVariant" not in found:
        found["SequenceVariant"] = _made("SequenceVariant", "NONE")
    if not _GATED & set(_words(found["ScanOptions"])):
        found.pop("TriggerTime", None)  # some scanners put the time within a dynamic scan there
    elif "TriggerTime" not in found:
        found["TriggerTime"] = _made("TriggerTime", None)


def _words(element: DataElement) -> list[str]:
    return [str(v) for v in element.value] if element.VM > 1 else [str(element.value)]


@lru_cache(maxsize=256)
def _made(keyword: str, value: str | None) -> DataElement:
    return element(keyword, value)[keyword]


def element(keyword: str, value: str | float | list[str] | None) -> Elements:
    """A single element."""
    ds = Dataset()
    setattr(ds, keyword, value)
    return {keyword: ds[tag_of(keyword)]}


def sources_of(stack: Stack, volumes: Sequence[int]) -> list[Source]:
    """Sources of some volumes of a series, by number. Raises InputError for a damaged file, or one without a study."""
    check_study(stack)
    copier = Copier()
    timed = stack.series.told_by == ("trigger time",)
    weighted = any(float(volume[0].keys.get("b-value", 0)) > 0 for volume in stack.series.volumes)
    found = []
    for number in volumes:
        frames = stack.series.volumes[number]
        heads = dict.fromkeys(id(frame.head) for frame in frames)
        datasets = dict(zip(heads, stack.datasets(number), strict=True))
        found.append(Source(frames, datasets, stack.deskewed, copier, number + 1 if timed else None, weighted))
    return found


def check_study(stack: Stack) -> None:
    """Raise InputError for a series of no study: one that is made from it would belong to none either."""
    head = stack.series.volumes[0][0].head
    stated = head.tags.text("StudyInstanceUID")
    if Copier().element(head.tags.dataset, "StudyInstanceUID", head.name) is None:
        what = f"has the StudyInstanceUID {one_line(stated)!r}, which is none" if stated else "has no StudyInstanceUID"
        raise InputError(
            f"{head.name} {what}, so a series made from it would belong to no study; write NIfTI (-o NAME.nii.gz)"
        )
