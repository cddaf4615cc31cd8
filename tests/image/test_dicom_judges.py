"""What medsr writes, before outside judges; and that the judges find a fault where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medsr.image.dicom_read import inspect, read
from medsr.resources import sample_path
from tests.image.dicom_judges import (
    attributes,
    complaints,
    dcentvfy,
    dciodvfy,
    dcm2niix,
    dcmftest,
    files_of,
    gdcminfo,
    highdicom_volume,
    needs_judges,
)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A copy of the sample series, to be spoilt."""
    folder = tmp_path / "series"
    folder.mkdir()
    for file in files_of(sample_path("head_dicom")):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def spoil(folder: Path, change: Callable[[Dataset], None], *numbers: int) -> None:
    for number in numbers or range(12):
        file = files_of(folder)[number]
        ds = pydicom.dcmread(file)
        change(ds)
        ds.save_as(file)


@needs_judges
class TestTheyFindFaults:
    def test_none_where_there_is_none(self, good: Path, tmp_path: Path) -> None:
        assert complaints(good, [read(inspect(good))], None, tmp_path / "work") == []

    def test_missing_and_empty_attributes(self, good: Path) -> None:
        def change(ds: Dataset) -> None:
            del ds.PatientSex
            ds.ScanningSequence = ""
            ds.KVP = 120

        spoil(good, change, 3)
        assert any("PatientSex" in line for line in dciodvfy(good))
        assert attributes(good) == [
            "IM04.dcm: PatientSex of type 2 is missing",
            "IM04.dcm: ScanningSequence of type 1 is empty",
            "IM04.dcm: KVP is foreign",
        ]
        assert any("ScanningSequence" in line for line in dciodvfy(good))

    def test_attributes_within_sequences(self, good: Path) -> None:
        def change(ds: Dataset) -> None:
            ds.SourceImageSequence = [Dataset()]
            ds.SourceImageSequence[0].ReferencedSOPClassUID = ds.SOPClassUID

        spoil(good, change, 0)
        assert attributes(good) == ["IM01.dcm: SourceImageSequence.ReferencedSOPInstanceUID of type 1 is missing"]

    def test_private_attributes(self, good: Path) -> None:
        spoil(good, lambda ds: ds.private_block(0x0029, "VENDOR", create=True).add_new(1, "LO", "secret"), 0)
        assert len(attributes(good)) == 2

    def test_patients_that_differ(self, good: Path) -> None:
        spoil(good, lambda ds: setattr(ds, "PatientBirthDate", "19000101"), 3)
        assert any("PatientBirthDate" in line for line in dcentvfy(good))

    def test_places_and_values(self, good: Path, tmp_path: Path) -> None:
        volume = read(inspect(good))

        def move(ds: Dataset) -> None:
            x, y, z = ds.ImagePositionPatient
            ds.ImagePositionPatient = [x + 0.0002, y, z]

        spoil(good, move)
        assert any("affine" in line for line in dcm2niix(good, [volume], tmp_path / "moved"))
        assert any("affine" in line for line in highdicom_volume(good, volume))

    def test_values(self, good: Path, tmp_path: Path) -> None:
        volume = read(inspect(good))

        def brighten(ds: Dataset) -> None:
            ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") + 1).tobytes()

        spoil(good, brighten, 5)
        assert any("voxels" in line for line in dcm2niix(good, [volume], tmp_path / "bright"))
        assert any("voxels" in line for line in highdicom_volume(good, volume))

    def test_a_missing_slice(self, good: Path, tmp_path: Path) -> None:
        volume = read(inspect(good))
        (good / "IM06.dcm").unlink()
        assert dcm2niix(good, [volume], tmp_path / "missing")
        assert highdicom_volume(good, volume)

    def test_two_series(self, good: Path, tmp_path: Path) -> None:
        volume = read(inspect(good))
        spoil(good, lambda ds: setattr(ds, "SeriesInstanceUID", "2.25.1"), 0, 1, 2, 3)
        assert "made" in dcm2niix(good, [volume], tmp_path / "two")[0]

    def test_a_file_cut_short(self, good: Path) -> None:
        first = files_of(good)[0]
        first.write_bytes(first.read_bytes()[:100])
        assert gdcminfo(good)
        assert dcmftest(good)

    def test_gdcm_sees_another_place(self, good: Path) -> None:
        geometry = read(inspect(good)).geometry
        spoil(good, lambda ds: setattr(ds, "PixelSpacing", [2.4, 2.5]), 0)
        assert len(gdcminfo(good, geometry)) == 1
