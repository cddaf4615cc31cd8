"""The objects of a derived series: everything that stands in their files before the pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian

from medsr.errors import InputError
from medsr.image.dicom_copy import UTF_8, Encoder, Unencodable, charset_of, decimal, decimal_of_any_size, encode
from medsr.image.dicom_derived import (
    STORAGE,
    Derivation,
    image_type,
    lossy_elements,
    new_equipment,
    new_marks,
    new_times,
    uid_of,
)
from medsr.image.dicom_lossy import lossy_history
from medsr.image.dicom_place import Places, neighbours
from medsr.image.dicom_references import references
from medsr.image.dicom_source import Elements, Source, element
from medsr.image.dicom_store import Scale
from medsr.image.dicom_tags import tag_of
from medsr.image.volume import Modality

_IMPLEMENTATION = UID("2.25.199310558157706500816785555368992702500")  # medsr's writer, whatever its version
_IMPLEMENTATION_NAME = "MEDSR"
_PREAMBLE = bytes(128) + b"DICM"
_COSINE_DIGITS = 12  # after the point: 1e-9 mm at the far end of a metre

Encoded = dict[int, bytes]  # by tag


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that the objects of a series are made of but their pixels.

    uid: SeriesInstanceUID. shape: (I, J, K) of each volume. thickness: mm. padding: sample that marks what is no image.
    sources: one for each volume. first: (K, 3) LPS mm, first pixel of each source slice.
    """

    uid: str
    number: int
    description: str
    derivation: Derivation
    modality: Modality
    shape: tuple[int, int, int]
    places: Places
    thickness: float
    scale: Scale
    padding: int | None
    sources: tuple[Source, ...] = field(repr=False)
    first: NDArray[np.float64] = field(repr=False)

    def identity(self) -> dict[str, Any]:
        """What the UIDs are made from, as JSON values: all that tells one result from another but the pixels."""
        made_by = self.derivation
        return {
            "source": [
                [frame.head.tags.text("SOPInstanceUID"), frame.index, frame.tile]
                for source in self.sources
                for frame in source.frames
            ],
            "model": [made_by.model, made_by.model_sha256],
            "parameters": dict(made_by.parameters),
            "software": made_by.software,
            "text": [self.number, self.description, made_by.description, made_by.burn_in],
            "grid": [
                self.shape,
                _orientation(self.places),
                _spacing(self.places),
                decimal(self.thickness),
                [_position(position) for position in self.places.position[[0, -1]]],
            ],
            "scale": [self.scale.slope, self.scale.intercept, self.scale.signed, self.padding],
        }

    def instance_uid(self, number: int) -> str:
        """SOPInstanceUID of a file, counted from 0."""
        return uid_of("instance", self.uid, number)

    @cached_property
    def nearest(self) -> list[tuple[int, ...]]:
        """For each slice the source slices that it was made from, the nearest first."""
        return neighbours(self.places, self.first)

    @property
    def sop_class(self) -> str:
        """CT or MR Image Storage."""
        return STORAGE[self.modality]


@dataclass(frozen=True, eq=False)
class Heads:
    """Encoded elements that slices share. of: by volume and source slices; all from one Encoder."""

    encoder: Encoder
    of: dict[tuple[int, tuple[int, ...]], Encoded]


def heads_of(recipe: Recipe) -> Heads:
    """Encode all but what is each slice's own, in the source's character set, or in UTF-8 where that is too small.

    Raises InputError for text that neither can hold.
    """
    try:
        return _heads(recipe, Encoder(charset_of(recipe.sources[0].tags(0))))
    except Unencodable:
        pass
    try:
        return _heads(recipe, Encoder([UTF_8]))
    except Unencodable as error:
        name = recipe.sources[0].frames[0].head.name
        raise InputError(f"{name}: {error} holds text that cannot be written; correct the tag") from error


def _heads(recipe: Recipe, encoder: Encoder) -> Heads:
    series = series_elements(recipe)
    if encoder.charset:
        series |= element("SpecificCharacterSet", list(encoder.charset))
    found: dict[tuple[int, tuple[int, ...]], Encoded] = {}
    for number, source in enumerate(recipe.sources):
        volume = series | volume_elements(recipe, source)
        slices: dict[int, Elements] = {}
        for near in dict.fromkeys(recipe.nearest):
            own = slices.setdefault(near[0], slice_elements(recipe, source, near[0]))
            encoded = {int(e.tag): encoder.encoded(e) for e in (volume | own).values()}
            found[number, near] = encoded | references([source.frames[k] for k in near])
    return Heads(encoder, found)


def series_elements(recipe: Recipe) -> Elements:
    """What all objects of a series share, copied and new."""
    source, modality, scale = recipe.sources[0], recipe.modality, recipe.scale
    tags = source.tags(0)
    found = source.copied(0, modality, "series")
    new = Dataset()
    new.SOPClassUID, new.Modality = recipe.sop_class, modality
    new.SeriesInstanceUID, new.SeriesNumber, new.SeriesDescription = recipe.uid, recipe.number, recipe.description
    new.Rows, new.Columns = recipe.shape[1], recipe.shape[0]
    new.SamplesPerPixel, new.BitsAllocated, new.BitsStored, new.HighBit = 1, 16, 16, 15
    new.PixelRepresentation = int(scale.signed)
    new.PhotometricInterpretation = source.frames[0].layout.photometric if modality == "CT" else "MONOCHROME2"
    new.ImageOrientationPatient, new.PixelSpacing = _orientation(recipe.places), _spacing(recipe.places)
    new.SliceThickness, new.SpacingBetweenSlices = decimal(recipe.thickness), decimal(recipe.places.between)
    if modality == "CT" or not scale.plain:
        modified = modality == "CT" and tags.text("RescaleType").upper() == "HU_MOD"
        new.RescaleSlope, new.RescaleIntercept = decimal_of_any_size(scale.slope), decimal_of_any_size(scale.intercept)
        new.RescaleType = "HU_MOD" if modified else "HU" if modality == "CT" else "US"
    if recipe.padding is not None:
        new.add_new(tag_of("PixelPaddingValue"), "SS" if scale.signed else "US", recipe.padding)
    burned_in = tags.text("BurnedInAnnotation").upper() == "YES"
    frames = [frame for one in recipe.sources for frame in one.frames]
    for part in (
        new,
        new_times(tags, recipe.derivation),
        new_equipment(tags, recipe.derivation),
        new_marks(recipe.derivation, burned_in=burned_in),
        lossy_elements(lossy_history(frames)),
    ):
        found |= _by_keyword(part)
    return found


def volume_elements(recipe: Recipe, source: Source) -> Elements:
    """What the objects of one volume share."""
    found = source.copied(0, recipe.modality, "volume")
    if "FrameOfReferenceUID" not in found:
        # The places of its slices still hold among themselves, and with others that are made from them.
        series = source.frames[0].head.tags.text("SeriesInstanceUID")
        found |= element("FrameOfReferenceUID", uid_of("frame of reference", series))
    return found


def slice_elements(recipe: Recipe, source: Source, nearest: int) -> Elements:
    """What a slice has from the source slice that lies nearest."""
    found = source.copied(nearest, recipe.modality, "slice")
    tags = source.tags(nearest)
    kind = tags.words("FrameType") or tags.words("ImageType")
    return found | element("ImageType", image_type(kind, recipe.modality))


def file_head(recipe: Recipe, heads: Heads, number: int) -> bytes:
    """All bytes of a file before its pixels. number: of the file, from 0."""
    volume, k = divmod(number, recipe.shape[2])
    uid = recipe.instance_uid(number)
    own = Dataset()
    own.SOPInstanceUID, own.InstanceNumber = uid, number + 1
    own.ImagePositionPatient = _position(recipe.places.position[k])
    own.SliceLocation = decimal(recipe.places.location[k])
    encoded = {int(e.tag): encode(e) for e in own}
    elements = heads.of[volume, recipe.nearest[k]] | encoded
    length = 2 * recipe.shape[0] * recipe.shape[1]
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + length.to_bytes(4, "little")
    return b"".join((_PREAMBLE, _meta(recipe.sop_class, uid), *(elements[tag] for tag in sorted(elements)), pixels))


def _meta(sop_class: str, instance: str) -> bytes:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = _IMPLEMENTATION, _IMPLEMENTATION_NAME
    stream = DicomBytesIO()
    write_file_meta_info(stream, meta)
    return stream.getvalue()


def _orientation(places: Places) -> list[str]:
    return [decimal(v, _COSINE_DIGITS) for v in places.orientation]


def _spacing(places: Places) -> list[str]:
    return [decimal(v) for v in places.spacing]


def _position(position: NDArray[np.float64]) -> list[str]:
    return [decimal(v) for v in position]


def _by_keyword(dataset: Dataset) -> Elements:
    return {element.keyword: element for element in dataset}
