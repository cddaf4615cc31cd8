"""Parametric Maps: the values and places of a map beside its derived series, and what they say of themselves."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from highdicom.pm import ParametricMap
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medsr.errors import InputError, JobError, PlanError
from medsr.image.dicom_kinds import MARK
from medsr.image.dicom_map import MapKind, write_map
from medsr.image.dicom_read import inspect
from medsr.image.geometry import Geometry
from medsr.image.volume import Volume
from tests.image.dicom_crude import DERIVATION, Crude, write_crude
from tests.image.dicom_judges import CORNERS_MM, UNKNOWN_IN_2022, attribute_faults, needs_judges, on_grid_of
from tests.image.dicom_phantom import LPS_TO_RAS, Phantom, rotation, save

KINDS: tuple[MapKind, ...] = ("std", "detail")


def maps_for(made: Crude, kind: MapKind) -> list[Volume]:
    """One a volume, without symmetry; a detail map has both signs."""
    rng = np.random.default_rng(3)
    arrays = [rng.gamma(2, 5, volume.array.shape) - (10 if kind == "detail" else 0) for volume in made.volumes]
    return [replace(v, array=a.astype(np.float32)) for v, a in zip(made.volumes, arrays, strict=True)]


def written(path: Path, made: Crude, kind: MapKind = "std", maps: list[Volume] | None = None) -> Path:
    write_map(path, maps or maps_for(made, kind), made.source, DERIVATION, made.written, kind=kind)
    return path


@pytest.fixture(scope="module", params=["CT", "MR"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crude:
    folder = tmp_path_factory.mktemp("series")
    phantom = Phantom(request.param, orientation=rotation((20, -35, 10)))
    source = inspect(save(folder / "source", phantom.classic()))
    return write_crude(folder / "derived", source)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_places(made: Crude, kind: MapKind, tmp_path: Path) -> None:
    """As highdicom reads them: the very values, and corners within 1e-4 mm."""
    volume = maps_for(made, kind)[0]
    read = ParametricMap.from_file(written(tmp_path / "map.dcm", made, kind)).get_volume(apply_presentation_lut=False)
    image = nibabel.Nifti1Image(read.array, LPS_TO_RAS @ read.affine)
    voxels = on_grid_of(volume.geometry, image, CORNERS_MM)
    assert voxels is not None
    np.testing.assert_array_equal(voxels, volume.array)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says(made: Crude, kind: MapKind, tmp_path: Path) -> None:
    ds = pydicom.dcmread(written(tmp_path / "map.dcm", made, kind))
    one = pydicom.dcmread(made.written.files[0])
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "Manufacturer",
                    "ManufacturerModelName", "SeriesDate", "InstanceCreationTime", "SpecificCharacterSet",
                    "ContributingEquipmentSequence"):  # fmt: skip
        assert ds[keyword] == one[keyword]
    assert ds.SeriesDescription.endswith(f"{kind} - {MARK}")
    assert ds.SeriesInstanceUID not in (one.SeriesInstanceUID, made.source.extra.series.uid)
    assert ds.SeriesNumber == made.written.number + {"std": 1, "detail": 2}[kind]
    assert (ds.SyntheticData, ds.ContentQualification) == ("YES", "RESEARCH")
    mapping = ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    unit = {"CT": "[hnsf'U]", "MR": "[arb'U]"}[made.volumes[0].modality]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
    assert [item.ConceptCodeSequence[0].CodeValue for item in mapping.QuantityDefinitionSequence] == [
        {"CT": "112031", "MR": "110852"}[made.volumes[0].modality],
        {"std": "386136009", "detail": "113062"}[kind],
    ]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert not [element for element in ds.iterall() if element.tag.is_private]


def test_it_refers_to_its_slices(made: Crude, tmp_path: Path) -> None:
    """Each frame to the slice of the derived series that lies where it lies."""
    ds = pydicom.dcmread(written(tmp_path / "map.dcm", made))
    place = {d.SOPInstanceUID: d.ImagePositionPatient for d in map(pydicom.dcmread, made.written.files)}
    assert ds.NumberOfFrames == len(place)
    for groups in ds.PerFrameFunctionalGroupsSequence:
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert groups.PlanePositionSequence[0].ImagePositionPatient == place[reference.ReferencedSOPInstanceUID]
    assert [item.SeriesInstanceUID for item in ds.ReferencedSeriesSequence] == [made.written.uid]


def test_bytes_are_the_same_again_and_uids_follow_the_values(made: Crude, tmp_path: Path) -> None:
    first, again = (written(tmp_path / f"{n}.dcm", made).read_bytes() for n in (1, 2))
    assert hashlib.sha256(first).digest() == hashlib.sha256(again).digest()
    other = maps_for(made, "std")
    other[0].array[0, 0, 0] += 1
    paths = [
        tmp_path / "1.dcm",
        written(tmp_path / "3.dcm", made, "std", other),
        written(tmp_path / "4.dcm", made, "detail"),
    ]
    found = [pydicom.dcmread(path) for path in paths]
    assert len({ds.SOPInstanceUID for ds in found}) == len({ds.SeriesInstanceUID for ds in found}) == 3
    for ds in found:
        assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", ds.SOPInstanceUID)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


@needs_judges
@pytest.mark.parametrize("kind", KINDS)
def test_judges(made: Crude, kind: MapKind, tmp_path: Path) -> None:
    path = written(tmp_path / "map.dcm", made, kind)
    assert faults(path) == []
    files = [*sorted(made.source.path.iterdir()), *made.written.files, path]
    done = subprocess.run(["dcentvfy", *map(str, files)], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr + done.stdout


@needs_judges
def test_several_volumes(tmp_path: Path) -> None:
    """Two echoes: two channels of each slice, each with its own mapping, and each frame of its own echo's slice."""
    phantom = Phantom("MR")
    slices = phantom.classic()
    for ds in (second := phantom.classic()):
        ds.EchoTime = 120.0
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID + ".2")
    source = inspect(save(tmp_path / "source", [*slices, *second]))
    assert source.volumes == 2
    made = write_crude(tmp_path / "derived", source)
    maps = maps_for(made, "std")
    path = written(tmp_path / "map.dcm", made, "std", maps)
    assert faults(path) == []
    ds = pydicom.dcmread(path)
    files = {f.SOPInstanceUID: f for f in map(pydicom.dcmread, made.written.files)}
    count = made.volumes[0].geometry.shape[2]
    frames = ds.pixel_array
    assert len(frames) == len(ds.PerFrameFunctionalGroupsSequence) == 2 * count
    indices = {tuple(g.FrameContentSequence[0].DimensionIndexValues) for g in ds.PerFrameFunctionalGroupsSequence}
    assert len(indices) == 2 * count
    for references in (ds.SourceImageSequence, ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence):
        assert [item.ReferencedSOPInstanceUID for item in references] == list(made.written.instances)
    for n, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        reference = files[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        volume, k = divmod(made.written.instances.index(reference.SOPInstanceUID), count)
        assert volume == n // count
        assert reference.EchoTime == (90, 120)[volume]
        assert reference.ImagePositionPatient == groups.PlanePositionSequence[0].ImagePositionPatient
        assert groups.RealWorldValueMappingSequence[0].LUTLabel == f"std {volume}"
        np.testing.assert_array_equal(frames[n], maps[volume].array[:, :, k].T)


@needs_judges
@pytest.mark.parametrize("stored", [Phantom().stored[:, :, :1], Phantom().stored])
def test_one_slice_and_a_map_of_zeros(stored: np.ndarray, tmp_path: Path) -> None:
    source = inspect(save(tmp_path / "source", Phantom("CT", stored=stored).classic()))
    made = write_crude(tmp_path / "derived", source, (2, 2, 1))
    zeros = replace(made.volumes[0], array=np.zeros_like(made.volumes[0].array))
    path = written(tmp_path / "map.dcm", made, "detail", [zeros])
    assert faults(path) == []
    assert not pydicom.dcmread(path).pixel_array.any()


@needs_judges
def test_a_patient_whose_data_highdicom_would_refuse(tmp_path: Path) -> None:
    """Names in two Japanese character sets, a sex in lower case and an odd date."""

    def change(ds: Dataset) -> Dataset:
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        ds.PatientName = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"
        ds.PatientSex, ds.PatientBirthDate = "m", "19601301"
        ds.SeriesDescription = "\u982d\u90e8 T1"
        return ds

    with pytest.warns(UserWarning, match="Invalid value"):
        datasets = [change(ds) for ds in Phantom("MR").classic()]
    made = write_crude(tmp_path / "derived", inspect(save(tmp_path / "source", datasets)))
    path = written(tmp_path / "map.dcm", made)
    assert faults(path) == []
    ds = pydicom.dcmread(path)
    assert str(ds.PatientName).split("=")[1] == "\u5c71\u7530^\u592a\u90ce"
    assert ds.SeriesDescription == f"\u982d\u90e8 T1 std - {MARK}"


def test_on_the_axes_of_a_template(made: Crude, tmp_path: Path) -> None:
    """A map in the axes of a NIfTI file, permuted and reversed, is turned exactly and not resampled."""
    volume = maps_for(made, "std")[0]
    turn = np.array([[0, -1, 0, volume.array.shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    array = volume.array.transpose(2, 0, 1)[:, ::-1]
    turned = replace(volume, array=array, geometry=Geometry(array.shape, volume.geometry.affine @ turn))
    assert (
        written(tmp_path / "1.dcm", made, "std", [turned]).read_bytes()
        == written(tmp_path / "2.dcm", made).read_bytes()
    )


@needs_judges
@pytest.mark.parametrize(
    "name",
    ["d2n_ge-anatomical-001", "d2n_siemens_multiframe-anatomical-001", "d2n_philips_enhanced-fmri-001",
     "mr_hippocrop-btp003", "loc_tcga-topogram"],
)  # fmt: skip
def test_real_series(data_dir: Path, tmp_path: Path, name: str) -> None:
    made = write_crude(tmp_path / "derived", inspect(data_dir / "dicom" / name), (1, 1, 2))
    maps = maps_for(made, "std")
    path = written(tmp_path / "map.dcm", made, "std", maps)
    assert faults(path) == []
    read = ParametricMap.from_file(path)
    assert read.number_of_frames == sum(volume.array.shape[2] for volume in maps)
    if len(maps) == 1:
        array = read.get_volume(apply_presentation_lut=False).array
        assert np.sort(array, axis=None).tobytes() == np.sort(maps[0].array, axis=None).astype(np.float64).tobytes()


def test_the_description_is_cut_and_never_the_mark(tmp_path: Path) -> None:
    datasets = Phantom("CT").classic()
    for ds in datasets:
        ds.SeriesDescription = "x" * 64
    made = write_crude(tmp_path / "derived", inspect(save(tmp_path / "source", datasets)))
    description = pydicom.dcmread(written(tmp_path / "map.dcm", made)).SeriesDescription
    assert len(description) == 64
    assert description.endswith(f"x std - {MARK}")


def test_medsr_does_not_take_it_in(made: Crude, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    written(tmp_path / "maps" / "map.dcm", made)
    with pytest.raises(InputError, match="Parametric Map Storage, neither CT nor MR"):
        inspect(tmp_path / "maps")


def test_values_that_are_no_numbers(made: Crude, tmp_path: Path) -> None:
    maps = maps_for(made, "std")
    maps[0].array[1, 1, 1] = np.nan
    with pytest.raises(InputError, match=r"map\.dcm: .*no numbers"):
        written(tmp_path / "map.dcm", made, "std", maps)
    assert not (tmp_path / "map.dcm").exists()


def test_a_map_that_cannot_be_written(made: Crude, tmp_path: Path) -> None:
    """What the system refuses is an error of the output, in one line, and nothing is left."""
    with pytest.raises(JobError, match=r"cannot write map\.dcm: the folder does not exist"):
        written(tmp_path / "none" / "map.dcm", made)
    assert not list(tmp_path.iterdir())


def test_more_than_a_file_holds(made: Crude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of 4 GB, lowered to one byte less than there is."""
    monkeypatch.setattr("medsr.image.dicom_map._LONGEST_VALUE", made.volumes[0].array.nbytes - 1)
    with pytest.raises(JobError, match=r"map\.dcm: a map of .* does not fit one DICOM file"):
        written(tmp_path / "map.dcm", made)
    assert not (tmp_path / "map.dcm").exists()


def test_without_the_extra(made: Crude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without highdicom: named before anything is written."""
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(PlanError, match=r"missing extra.*pip install 'medsr\[dicom\]'"):
        written(tmp_path / "map.dcm", made)
    assert not (tmp_path / "map.dcm").exists()


def faults(path: Path) -> list[str]:
    """Errors of dciodvfy and of the standard's tables, and remarks of DCMTK."""

    def said(*command: str) -> list[str]:
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, errors="replace", check=False)
        return [*done.stdout.splitlines(), *done.stderr.splitlines()]

    return [
        *(
            line
            for line in said("dciodvfy", "-new")
            if line.startswith("Error") and UNKNOWN_IN_2022 not in line.lower()
        ),
        *(line for line in said("dcmdump") if line.startswith(("W:", "E:"))),
        *(line for line in said("dcmftest") if not line.startswith("yes")),
        *attribute_faults(pydicom.dcmread(path)),
    ]
