"""What medsr writes, before outside judges; and that the judges find a fault where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from medsr.image.dicom_read import find_series, inspect, inspect_series, read
from medsr.image.header import Header
from medsr.resources import sample_path
from tests.image.dicom_crude import DERIVATION, write_crude
from tests.image.dicom_judges import (
    attributes,
    complaints,
    dcentvfy,
    dciodvfy,
    dcm2niix,
    dcmdump,
    dcmftest,
    files_of,
    gdcminfo,
    highdicom_volume,
    needs_judges,
)
from tests.image.dicom_phantom import Phantom, rotation, save

REAL = [
    "ct_ricord-jpeglossless", "d2n_failing-slicecount-001", "d2n_failing-sliceorientation-001", "d2n_ge-anatomical-001",
    "d2n_ge-anatomical-001_single_slice", "d2n_generic-anatomical-002_non_isotropic", "d2n_generic-compressed_j2k-001",
    "d2n_hitachi-anatomical-001", "d2n_hyperfine-anatomical-001", "d2n_philips-anatomical-001",
    "d2n_philips_enhanced-anatomical-001", "d2n_philips_enhanced-fmri-001", "d2n_siemens-anatomical-001",
    "d2n_siemens_multiframe-anatomical-001", "dup_rider-0109", "enh_philips-fieldmap", "enh_siemens-xa10",
    "loc_tcga-topogram", "mr_brainix-flair", "mr_hippocrop-btp003", "ts_siemens-mosaic/4.dcm", "ts_wg04-CT2/CT2_UNC",
    "ts_wg04-MR3/MR3_UNC",
]  # fmt: skip
PHANTOMS: dict[str, Callable[[], list[Dataset]]] = {
    "CT": lambda: Phantom("CT").classic(),
    "CT, enhanced": lambda: [Phantom("CT").enhanced()],
    "MR": lambda: Phantom("MR").classic(),
    "MR, enhanced": lambda: [Phantom("MR").enhanced()],
    "MR, scaled": lambda: Phantom("MR", slope=0.37).classic(),
    "MR, oblique": lambda: Phantom("MR", orientation=rotation((20, -35, 10))).classic(),
    "CT, sagittal": lambda: Phantom("CT", orientation=(0, 1, 0, 0, 0, -1)).classic(),
    "CT, one slice": lambda: Phantom("CT", stored=Phantom().stored[:, :, :1]).classic(),
}


@needs_judges
@pytest.mark.parametrize("kind", PHANTOMS)
@pytest.mark.parametrize("scale", [(2, 2, 1), (1, 1, 3), (1.5, 1.7, 2.2)])
def test_phantoms(kind: str, scale: tuple[float, float, float], tmp_path: Path) -> None:
    source = inspect(save(tmp_path / "source", PHANTOMS[kind]()))
    made = write_crude(tmp_path / "derived", source, scale)
    assert complaints(made.folder, made.volumes, tmp_path / "source", tmp_path / "work") == []


@needs_judges
@pytest.mark.parametrize("name", REAL)
def test_real_series(data_dir: Path, tmp_path: Path, name: str) -> None:
    """Each series of a folder, refined, with all its volumes."""
    for number, series in enumerate(find_series(data_dir / "dicom" / name)):
        source = inspect_series(series)
        scale = (1, 1, 2) if max(source.geometry.shape) >= 256 else (1.5, 2, 2)
        work = tmp_path / str(number)
        made = write_crude(work / "derived", source, scale)
        assert complaints(made.folder, made.volumes, sources_of(source, work / "source"), work / "judges") == []


@needs_judges
def test_a_repaired_source(data_dir: Path, tmp_path: Path) -> None:
    """A tilted gantry slid back, and gaps filled: places that no source file has."""
    source = inspect(data_dir / "dicom" / "tilt_ge-head", deskew=True, fill_gaps=True)
    made = write_crude(tmp_path / "derived", source, (1, 1, 2))
    assert complaints(made.folder, made.volumes, data_dir / "dicom" / "tilt_ge-head", tmp_path / "work") == []


@needs_judges
@pytest.mark.parametrize("kind", ["CT", "MR", "MR, enhanced"])
def test_burned_in_and_renamed(kind: str, tmp_path: Path) -> None:
    derivation = replace(DERIVATION, burn_in=True, series_description="Kopf, fein", series_number=77)
    source = inspect(save(tmp_path / "source", PHANTOMS[kind]()))
    made = write_crude(tmp_path / "derived", source, (8, 8, 1), derivation)
    judged = [dciodvfy(made.folder), dcentvfy(made.folder, tmp_path / "source"), dcmdump(made.folder)]
    assert [*judged, attributes(made.folder)] == [[], [], [], []]
    assert "voxels" in dcm2niix(made.folder, made.volumes, tmp_path / "work")[0]


@needs_judges
@settings(max_examples=12, phases=(Phase.explicit, Phase.reuse, Phase.generate))  # shrinking would take minutes
@given(
    modality=st.sampled_from(["CT", "MR"]),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6.0)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    scale=st.tuples(*[st.floats(1, 3)] * 3),
    slope=st.sampled_from([1.0, 0.0123, 2.5]),
)
def test_any_place(
    modality: str,
    angles: tuple[float, ...],
    spacing: tuple[float, float, float],
    origin: tuple[float, ...],
    scale: tuple[float, ...],
    slope: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    phantom = Phantom(
        modality, spacing=spacing, orientation=rotation(angles), origin=origin, slope=slope if modality == "MR" else 1
    )
    source = inspect(save(folder / "source", phantom.classic()))
    made = write_crude(folder / "derived", source, scale)
    assert complaints(made.folder, made.volumes, folder / "source", folder / "work") == []


def sources_of(header: Header, folder: Path) -> Path:
    """A folder with links to the files of a series."""
    folder.mkdir()
    frames = [frame for volume in header.extra.series.volumes for frame in volume]
    for number, path in enumerate({frame.head.source.path for frame in frames}):
        (folder / str(number)).symlink_to(path)
    return folder


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
