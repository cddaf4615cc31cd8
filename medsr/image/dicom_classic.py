"""A frame of an enhanced file by the attributes of a classic one: functional groups laid flat, and codes translated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medsr.image.dicom_tags import damage_refused

# In functional groups: their own keyword, that of the classic object.
_RENAMED = {
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "TransmitterFrequency": "ImagingFrequency",
    "SpecificAbsorptionRateValue": "SAR",
    "MRAcquisitionPhaseEncodingStepsInPlane": "NumberOfPhaseEncodingSteps",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameAcquisitionDuration": "AcquisitionDuration",
    "FrameLaterality": "ImageLaterality",
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
    "PulseSequenceName": "SequenceName",
    "ResonantNucleus": "ImagedNucleus",
}
# Of legacy converted files: the classic attributes that have no place in a functional group, as they were.
_UNASSIGNED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OF_THE_FILE = {"AcquisitionDuration", "SequenceName"}  # what the file says of itself goes before its frames here
_WHOLE = {"ExposureTime", "XRayTubeCurrent", "Exposure"}  # whole numbers in a classic file


def is_flat(dataset: Dataset) -> bool:
    """True for a file without functional groups."""
    return _GROUPS[1] not in dataset


def as_classic(dataset: Dataset, index: int, name: str) -> Dataset:
    """What a file says of one of its frames. index: of the frame, from 0. name: of the file.

    What the frame's own groups say goes before what all frames share, and that before the file itself. Raises
    InputError for a damaged file.
    """
    with damage_refused(name):
        flat = Dataset()
        flat.set_original_encoding(None, None, dataset.original_character_set)
        for element in dataset:
            if element.keyword not in _GROUPS and not element.tag.is_private:
                _put(flat, element)
        shared = list(dataset.get(_GROUPS[0]) or [])
        for groups in (*shared[:1], dataset[_GROUPS[1]].value[index]):
            for element in _elements(groups):
                _put(flat, element)
        tags = _Flat(flat)
        for keyword, value in (*_mr_codes(tags).items(), *_ct_codes(tags).items()):
            if value and keyword not in flat:
                _set(flat, keyword, value)
        if tags.word("InPlanePhaseEncodingDirection") == "COLUMN":
            _set(flat, "InPlanePhaseEncodingDirection", "COL")
        return flat


def _elements(groups: Dataset) -> Iterator[DataElement]:
    """Elements of the first item of each functional group; those of a legacy converted file last."""
    items = [(e.keyword in _UNASSIGNED, e.value[0]) for e in groups if e.VR == "SQ" and len(e.value) > 0]
    for _, item in sorted(items, key=lambda pair: pair[0]):
        yield from item


def _put(flat: Dataset, element: DataElement) -> None:
    flat.add(element)
    if element.keyword == "DiffusionGradientDirectionSequence" and element.value:
        flat.update({e.tag: e for e in element.value[0] if e.keyword == "DiffusionGradientOrientation"})
    keyword = _RENAMED.get(element.keyword)
    if keyword is None or element.is_empty or (keyword in _OF_THE_FILE and keyword in flat):
        return
    value = element.value[0] if element.VM > 1 else element.value
    if element.keyword == "FrameAcquisitionDuration":
        value /= 1000  # ms; AcquisitionDuration is in s
    if keyword in _WHOLE:
        value = round(value)
    elif isinstance(value, float) and dictionary_VR(keyword) == "DS":
        value = format_number_as_ds(value)
    _set(flat, keyword, value)


def _set(flat: Dataset, keyword: str, value: object) -> None:
    """Put a new element there: assignment would change the one that is there, which is the source's own."""
    new = Dataset()
    setattr(new, keyword, value)
    flat.update(new)


@dataclass(frozen=True)
class _Flat:
    """Code words of a frame laid flat."""

    dataset: Dataset

    def word(self, keyword: str) -> str:
        """In capitals; "" where it is absent."""
        return str(self.dataset.get(keyword) or "").strip().upper()

    def says(self, keyword: str) -> bool:
        """True for anything but NO, NONE and silence."""
        return self.word(keyword) not in ("", "NO", "NONE")


def _mr_codes(tags: _Flat) -> dict[str, list[str] | list[int]]:
    """Codes of the classic MR Image module from those of the MR Pulse Sequence module and the groups (PS3.3 C.8.13)."""
    echo = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(tags.word("EchoPulseSequence"), [])
    sequence = [
        *echo,
        *(["IR"] if tags.says("InversionRecovery") else []),
        *(["EP"] if tags.says("EchoPlanarPulseSequence") else []),
    ]
    steady = {"": [], "NONE": [], "TIME_REVERSED": ["TRSS"]}.get(tags.word("SteadyStatePulseSequence"), ["SS"])
    variant = [
        *(["SK"] if tags.word("SegmentedKSpaceTraversal") in ("PARTIAL", "FULL") else []),
        *(["MTC"] if tags.says("MagnetizationTransfer") else []),
        *steady,
        *(["SP"] if tags.says("Spoiling") else []),
        *(["OSP"] if tags.says("OversamplingPhase") else []),
    ]
    partial = tags.word("PartialFourierDirection") if tags.says("PartialFourier") else ""
    options = [
        *(["CG"] if tags.says("CardiacSynchronizationTechnique") else []),
        *(["RG"] if tags.says("RespiratoryMotionCompensationTechnique") else []),
        *(["FC"] if tags.says("FlowCompensation") else []),
        *{"PHASE": ["PFP"], "FREQUENCY": ["PFF"], "COMBINATION": ["PFP", "PFF"]}.get(partial, []),
        *(["SP"] if tags.says("SpatialPresaturation") else []),
        *(["FS"] if tags.word("SpectrallySelectedSuppression") in ("FAT", "FAT_AND_WATER") else []),
    ]
    return {
        "ScanningSequence": sequence,
        "SequenceVariant": variant,
        "ScanOptions": options,
        "AcquisitionMatrix": _matrix(tags.dataset),
    }


def _matrix(flat: Dataset) -> list[int]:
    """Frequency rows, frequency columns, phase rows, phase columns; one of each pair is 0."""
    frequency = int(flat.get("MRAcquisitionFrequencyEncodingSteps") or 0)
    phase = int(flat.get("MRAcquisitionPhaseEncodingStepsInPlane") or 0)
    along = str(flat.get("InPlanePhaseEncodingDirection") or "").upper()
    if not frequency or not phase or not max(frequency, phase) < 1 << 16:
        return []
    return {"ROW": [frequency, 0, 0, phase], "COLUMN": [0, frequency, phase, 0]}.get(along, [])


def _ct_codes(tags: _Flat) -> dict[str, list[str] | list[int]]:
    """How the tube moved (CT Acquisition Type), which classic scanners say in ScanOptions."""
    return {"ScanOptions": [word] if (word := tags.word("AcquisitionType")) else []}
