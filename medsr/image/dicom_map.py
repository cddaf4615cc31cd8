"""Uncertainty and detail of a derived series as a Parametric Map: one multi-frame file of float32 values beside it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from medsr.errors import InputError, JobError, PlanError
from medsr.image.dicom_derived import LAST_NUMBER, LONGEST, uid_of
from medsr.image.dicom_kinds import MARK
from medsr.image.dicom_place import aligned
from medsr.image.dicom_tags import quiet, tag_of
from medsr.image.dicom_write import Derivation, WrittenSeries
from medsr.image.files import atomic_write, display_name
from medsr.image.header import Header
from medsr.image.volume import Array, Modality, Volume
from medsr.machine import gigabytes

if TYPE_CHECKING:
    from highdicom.pm import ParametricMap, RealWorldValueMapping

MapKind = Literal["std", "detail"]


@dataclass(frozen=True)
class _Meaning:
    """How a kind of map is told: label, words for people, pixel contrast (PS3.3, C.8.16.1.4) and code of derivation."""

    label: str
    word: str
    description: str
    contrast: str
    derivation: Code
    offset: int  # of the series number over that of the derived series


_MEANINGS: dict[MapKind, _Meaning] = {
    "std": _Meaning(
        "STD_UNCERTAINTY",
        "std",
        "Standard deviation of the AI SR values, as the model states it",
        "STD_DEVIATION",
        codes.SCT.StandardDeviation,
        1,
    ),
    "detail": _Meaning(
        "ADDED_DETAIL",
        "detail",
        "Part of the AI SR values that the acquired scan does not fix",
        "SUBTRACTION",
        codes.DCM.PixelByPixelSubtraction,
        2,
    ),
}
_QUANTITIES: dict[Modality, Code] = {"CT": codes.DCM.AttenuationCoefficient, "MR": codes.cid7180.MRSignalIntensity}
_UNITS: dict[Modality, Code] = {"CT": codes.UCUM.HounsfieldUnit, "MR": codes.UCUM.ArbitraryUnit}
# What highdicom is told of a slice of the derived series, ...
_PLACE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_UNNAMED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
# ... and what it shares with the map as it stands.
_SHARED = (
    "SpecificCharacterSet", "PositionReferenceIndicator", "BodyPartExamined", "PatientPosition", "Laterality",
    "ContributingEquipmentSequence", "TimezoneOffsetFromUTC",
)  # fmt: skip
_LONGEST_VALUE = (1 << 32) - 2  # bytes of an element


def check_extra() -> None:
    """Raise PlanError when Parametric Maps cannot be written, since the extra is not installed. Imports nothing."""
    if find_spec("highdicom") is None:
        raise PlanError(
            "missing extra: maps beside a DICOM series are Parametric Maps, and highdicom, which writes them, is not "
            "installed. pip install 'medsr[dicom]', or write NIfTI with -o NAME.nii.gz"
        )


def write_map(
    path: Path,
    maps: Sequence[Volume],
    source: Header,
    derivation: Derivation,
    derived: WrittenSeries,
    *,
    kind: MapKind,
) -> None:
    """Write the maps of a derived series into one file, whose patient, study and places are those of that series.

    maps: one for each volume of the series, (I, J, K) on its grid, in the units of the scan; several become channels of
    each slice. source, derivation, derived: what ``write_series`` was given and what it returned. Values are stored as
    they are. Raises InputError for values that are no numbers, PlanError where the extra is missing, JobError for more
    than a file holds.
    """
    check_extra()
    frames = [_frames(aligned(volume, source), path) for volume in maps]
    with quiet():
        # Those of the first volume: the others lie in the same places.
        slices = [dcmread(file, stop_before_pixels=True) for file in derived.files[: len(frames[0])]]
        made = _parametric_map(frames, slices, maps[0].modality, _MEANINGS[kind], derivation, derived)
        _settle(made, slices[0])
        if len(frames) > 1:
            _tell_apart(made, derived, len(frames))
        _save(path, made, frames, derived)


def _frames(volume: Volume, path: Path) -> Array:
    """(slices, rows, columns)."""
    if not np.isfinite(volume.array).all():
        raise InputError(f"{display_name(path)}: the map holds values that are no numbers; expected finite ones")
    return np.ascontiguousarray(volume.array.T, "<f4")


def _parametric_map(
    frames: Sequence[Array],
    slices: Sequence[Dataset],
    modality: Modality,
    meaning: _Meaning,
    derivation: Derivation,
    derived: WrittenSeries,
) -> ParametricMap:
    """The object as highdicom builds it, but of a patient without a name and frames of one pixel.

    Texts of real files do not pass its checks, and it would copy the voxels three times.
    """
    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap

    several = len(frames) > 1
    mappings = [_mapping(part, modality, meaning, n if several else None) for n, part in enumerate(frames)]
    uid = uid_of(derived.uid, meaning.label, [hashlib.sha256(part.data).hexdigest() for part in frames])
    low, high = min(float(part.min()) for part in frames), max(float(part.max()) for part in frames)
    return ParametricMap(
        source_images=[_place(ds) for ds in slices],
        pixel_array=np.zeros((len(slices), 1, 1, *([len(frames)] if several else [])), np.float32),
        series_instance_uid=uid_of(uid, "series"),
        series_number=min(derived.number + meaning.offset, LAST_NUMBER),
        sop_instance_uid=uid_of(uid, "instance"),
        instance_number=1,
        manufacturer=slices[0].Manufacturer,
        manufacturer_model_name=slices[0].ManufacturerModelName,
        software_versions=slices[0].SoftwareVersions,
        device_serial_number=derivation.model_sha256,
        contains_recognizable_visual_features=slices[0].get("RecognizableVisualFeatures", "YES") == "YES",
        real_world_value_mappings=[[mapping] for mapping in mappings] if several else mappings,
        voi_lut_transformations=[VOILUTTransformation((low + high) / 2, high - low or 1.0, None, "LINEAR_EXACT")],
        content_label=meaning.label,
        content_description=meaning.description,
        content_qualification="RESEARCH",
        image_flavor="VOLUME",
        derived_pixel_contrast=meaning.contrast,
        derivation=meaning.derivation,
        series_description=_description(derived.description, meaning.word),
        content_date=derivation.created.date(),
        content_time=derivation.created.time(),
    )


def _place(ds: Dataset) -> Dataset:
    """What highdicom needs of a slice in order to refer to it and to lie where it lies."""
    place = Dataset()
    for keyword in _PLACE:
        if keyword in ds:
            place[keyword] = ds[keyword]
    place.Rows = place.Columns = 1
    for keyword in _UNNAMED:
        setattr(place, keyword, "")
    return place


def _mapping(part: Array, modality: Modality, meaning: _Meaning, volume: int | None) -> RealWorldValueMapping:
    from highdicom.pm import RealWorldValueMapping
    from highdicom.sr import CodeContentItem, CodedConcept

    mapping = RealWorldValueMapping(
        lut_label=meaning.label if volume is None else f"{meaning.word} {volume}",
        lut_explanation=meaning.description,
        unit=_UNITS[modality],
        value_range=(float(part.min()), float(part.max())),
        quantity_definition=CodedConcept.from_code(_QUANTITIES[modality]),
    )
    mapping.QuantityDefinitionSequence.append(
        CodeContentItem(CodedConcept.from_code(codes.DCM.Derivation), CodedConcept.from_code(meaning.derivation))
    )
    return mapping


def _save(path: Path, made: ParametricMap, frames: Sequence[Array], derived: WrittenSeries) -> None:
    """Write the object with the real voxels, in the order in which highdicom has put the slices.

    They are the last element, and go straight from the arrays to the file. Raises JobError when they are too many,
    or cannot be written.
    """
    size = sum(part.nbytes for part in frames)
    if size > _LONGEST_VALUE:
        raise JobError(
            f"{display_name(path)}: a map of {gigabytes(size)} does not fit one DICOM file, which holds 4 GB; write "
            "NIfTI (-o NAME.nii.gz)"
        )
    slices = made.PerFrameFunctionalGroupsSequence[: len(frames[0])]
    order = [derived.instances.index(_reference(groups).ReferencedSOPInstanceUID) for groups in slices]
    del made.FloatPixelData
    _, made.Rows, made.Columns = frames[0].shape
    with atomic_write(path, overwrite=True) as stream:
        made.save_as(stream, enforce_file_format=True)
        tag = tag_of("FloatPixelData")
        stream.write(struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"OF", 0, size))  # PS3.5, 7.1.2
        for part in frames:
            for k in order:
                stream.write(part[k].data)


def _reference(groups: Dataset) -> Dataset:
    """The item that names the slice of the derived series to which a frame belongs."""
    item: Dataset = groups.DerivationImageSequence[0].SourceImageSequence[0]
    return item


def _settle(made: ParametricMap, one: Dataset) -> None:
    """The patient, study and equipment of the derived series, its time, and nothing left to chance.

    one: a slice of the derived series.
    """
    if "SpecificCharacterSet" in made:
        del made.SpecificCharacterSet
    made.copy_patient_and_study_information(one)
    for keyword in _SHARED:
        if keyword in one:
            made[keyword] = one[keyword]
    if "Laterality" not in made and "ImageLaterality" in one:
        # The object has no attribute for the laterality of an image; of an unpaired organ, it is empty.
        made.Laterality = one.ImageLaterality if one.ImageLaterality in ("R", "L") else ""
    made.SyntheticData = "YES"
    made.DerivationDescription = one.DerivationDescription
    made.SeriesDate = made.ContentDate = made.InstanceCreationDate = one.SeriesDate
    made.SeriesTime = made.ContentTime = made.InstanceCreationTime = one.SeriesTime
    for keyword in ("ImplementationClassUID", "ImplementationVersionName"):
        setattr(made.file_meta, keyword, one.file_meta[keyword].value)
    organization = uid_of(made.SOPInstanceUID, "dimensions")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def _tell_apart(made: ParametricMap, derived: WrittenSeries, count: int) -> None:
    """Frames of several volumes: the map is a dimension of its own, and each refers to the slice of its own volume."""
    place = made.DimensionIndexSequence[0]
    of_map = Dataset()
    of_map.DimensionOrganizationUID = place.DimensionOrganizationUID
    of_map.DimensionIndexPointer = tag_of("LUTLabel")
    of_map.FunctionalGroupPointer = tag_of("RealWorldValueMappingSequence")
    of_map.DimensionDescriptionLabel = "Volume"
    made.DimensionIndexSequence.insert(0, of_map)
    per = len(made.PerFrameFunctionalGroupsSequence) // count
    for n, groups in enumerate(made.PerFrameFunctionalGroupsSequence):
        content = groups.FrameContentSequence[0]
        at = content.DimensionIndexValues
        content.DimensionIndexValues = [n // per + 1, *([at] if isinstance(at, int) else at)]
        groups.DerivationImageSequence = deepcopy(groups.DerivationImageSequence)  # volumes share them in highdicom
        reference = _reference(groups)
        first = derived.instances.index(reference.ReferencedSOPInstanceUID)
        reference.ReferencedSOPInstanceUID = UID(derived.instances[first + n // per * per])
    for instance in derived.instances[per:]:
        other = deepcopy(made.SourceImageSequence[0])
        other.ReferencedSOPInstanceUID = UID(instance)
        made.SourceImageSequence.append(other)
        made.ReferencedSeriesSequence[0].ReferencedInstanceSequence.append(deepcopy(other))


def _description(series: str, word: str) -> str:
    """That of the derived series with the name of the map before the mark; the text is cut, never the mark."""
    tail = f"{word} - {MARK}"
    text = series.removesuffix(MARK).rstrip(" -")[: LONGEST - len(tail) - 1].rstrip()
    return f"{text} {tail}" if text else tail
