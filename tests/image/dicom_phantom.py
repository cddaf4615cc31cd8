"""Valid CT and MR series, classic and enhanced, made from a phantom array; the tests change them to make bad ones."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.conftest import IN_CI

STORAGE = "1.2.840.10008.5.1.4.1.1."
CLASSIC = {"CT": UID(STORAGE + "2"), "MR": UID(STORAGE + "4")}
ENHANCED = {"CT": UID(STORAGE + "2.1"), "MR": UID(STORAGE + "4.1")}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_ROOT = "1.2.826.0.1.3680043.10.543."
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _stored() -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(24, 1200, (7, 6, 5)).transpose(2, 1, 0).copy()


@dataclass
class Phantom:
    """stored: (I, J, K) values as they stand in the files. spacing: mm along i, j, k. origin: LPS mm of voxel 0.

    The slices lie at ``origin + k * spacing[2] * (i x j)``, plus ``slide`` (mm along i and j) for each slice.
    """

    modality: str = "CT"
    stored: np.ndarray = field(default_factory=_stored)
    spacing: tuple[float, float, float] = (0.5, 0.8, 2.0)
    orientation: Sequence[float] = AXIAL
    origin: Sequence[float] = (-12.5, 20.25, -100.0)
    slide: tuple[float, float] = (0.0, 0.0)
    series: int = 1
    signed: bool = False
    slope: float = 1.0

    @property
    def intercept(self) -> float:
        return -1024.0 if self.modality == "CT" else 0.0

    @property
    def values(self) -> np.ndarray:
        """(I, J, K) what a reader must find."""
        return (self.stored * self.slope + self.intercept).astype(np.float32)

    def position(self, k: int) -> np.ndarray:
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        step = np.cross(row, column) * self.spacing[2] + row * self.slide[0] + column * self.slide[1]
        return np.asarray(self.origin) + step * k

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel to RAS+ mm, written down without the code under test."""
        affine = np.eye(4)
        affine[:3, 0] = np.array(self.orientation[:3]) * self.spacing[0]
        affine[:3, 1] = np.array(self.orientation[3:]) * self.spacing[1]
        affine[:3, 2] = self.position(1) - self.position(0)
        affine[:3, 3] = self.position(0)
        return LPS_TO_RAS @ affine

    def uid(self, *parts: int) -> str:
        return _ROOT + ".".join(str(p) for p in (self.series, *parts))

    # --- classic ---

    def classic(self) -> list[Dataset]:
        """One data set a slice, in slice order."""
        return [self._slice(k) for k in range(self.stored.shape[2])]

    def _slice(self, k: int) -> Dataset:
        ds = self._common(CLASSIC[self.modality], self.uid(3, k + 1))
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [float(f"{v:.8g}") for v in self.position(k)]
        ds.ImageOrientationPatient = [float(f"{v:.10g}") for v in self.orientation]
        ds.PixelSpacing = [self.spacing[1], self.spacing[0]]  # between rows, between columns
        ds.SliceThickness = self.spacing[2]
        if self.modality == "CT" or self.slope != 1:
            ds.RescaleSlope, ds.RescaleIntercept = self.slope, self.intercept
        self._pixels(ds, self.stored[:, :, k].T)
        return ds

    def _common(self, sop_class: UID, instance: str) -> Dataset:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(instance)
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if self.modality == "CT" else ["ORIGINAL", "PRIMARY", "M", "SE"]
        ds.Modality, ds.Manufacturer = self.modality, "Phantom"
        ds.PatientName, ds.PatientID = "Phantom^Sheep", "P1"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(self.uid(1)), UID(self.uid(2))
        ds.FrameOfReferenceUID = UID(self.uid(4))
        ds.SeriesNumber, ds.SeriesDescription = self.series, f"Phantom {self.modality}"
        ds.StudyDate = ds.AcquisitionDate = "20260101"
        ds.StudyTime = ds.AcquisitionTime = "120000"
        ds.AcquisitionNumber = 1
        if self.modality == "MR":
            ds.MRAcquisitionType, ds.EchoTime, ds.RepetitionTime = "2D", 90.0, 4000.0
        return ds

    def _pixels(self, ds: Dataset, pixels: np.ndarray) -> None:
        """pixels: (..., rows, columns)."""
        ds.Rows, ds.Columns = pixels.shape[-2:]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelRepresentation = int(self.signed)
        ds.PixelData = np.ascontiguousarray(pixels, np.int16 if self.signed else np.uint16).tobytes()
        ds["PixelData"].VR = "OW"

    # --- enhanced ---

    def enhanced(self) -> Dataset:
        """All slices as frames of one data set, last slice first."""
        ds = self._common(ENHANCED[self.modality], self.uid(5))
        order = range(self.stored.shape[2] - 1, -1, -1)
        ds.InstanceNumber, ds.NumberOfFrames = 1, len(order)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        shared = Dataset()
        shared.PlaneOrientationSequence = [Dataset()]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [float(f"{v:.10g}") for v in self.orientation]
        shared.PixelMeasuresSequence = [Dataset()]
        shared.PixelMeasuresSequence[0].PixelSpacing = [self.spacing[1], self.spacing[0]]
        shared.PixelMeasuresSequence[0].SliceThickness = self.spacing[2]
        kind = Dataset()
        kind.FrameType, kind.VolumetricProperties = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "VOLUME"
        if self.modality == "CT":
            shared.CTImageFrameTypeSequence = [kind]
        else:
            kind.ComplexImageComponent = "MAGNITUDE"
            shared.MRImageFrameTypeSequence = [kind]
        ds.SharedFunctionalGroupsSequence = [shared]
        ds.PerFrameFunctionalGroupsSequence = [self._groups(n, k) for n, k in enumerate(order)]
        self._pixels(ds, self.stored[:, :, ::-1].transpose(2, 1, 0))
        return ds

    def _groups(self, number: int, k: int) -> Dataset:
        groups = Dataset()
        groups.PlanePositionSequence = [Dataset()]
        groups.PlanePositionSequence[0].ImagePositionPatient = [float(f"{v:.8g}") for v in self.position(k)]
        groups.FrameContentSequence = [Dataset()]
        groups.FrameContentSequence[0].StackID = "1"
        groups.FrameContentSequence[0].InStackPositionNumber = number + 1
        groups.PixelValueTransformationSequence = [Dataset()]
        scale = groups.PixelValueTransformationSequence[0]
        scale.RescaleSlope, scale.RescaleIntercept = self.slope, self.intercept
        scale.RescaleType = "HU" if self.modality == "CT" else "US"
        return groups


def outside_tool(name: str) -> str | None:
    """Path of a program of the system. An activated environment has one of python-gdcm's that prints nothing."""
    places = [place for place in os.get_exec_path() if Path(place) != Path(sys.executable).parent]
    return shutil.which(name, path=os.pathsep.join(places))


def needs_tool(name: str) -> pytest.MarkDecorator:
    """Skip a test where an outside program is missing; in CI that is a failure."""
    missing = outside_tool(name) is None
    if missing and IN_CI:
        raise RuntimeError(f"{name} is missing; see the outside tools of .ci/run")
    return pytest.mark.skipif(missing, reason=f"no {name}")


def save(folder: Path, datasets: Iterable[Dataset], prefix: str = "IM") -> Path:
    """Write data sets as IM1.dcm, IM2.dcm ... in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, ds in enumerate(datasets, 1):
        ds.save_as(folder / f"{prefix}{number}.dcm", enforce_file_format=True)
    return folder


def rotation(angles: Sequence[float]) -> tuple[float, ...]:
    """ImageOrientationPatient of axial slices turned by angles in degrees about x, y, z."""
    from scipy.spatial.transform import Rotation

    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return (*matrix[:, 0], *matrix[:, 1])
