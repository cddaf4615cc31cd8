"""Valid series: each voxel at its place with its value, whatever the order, orientation, spacing and storage."""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medsr.errors import InputError, PlanError
from medsr.image.dicom_read import (
    choose_series,
    find_series,
    inspect,
    inspect_series,
    is_dicom_path,
    read,
    read_scan,
    read_scans,
)
from tests.image.dicom_phantom import Phantom, needs_tool, rotation, save


def read_folder(path: Path, **options: bool) -> tuple[np.ndarray, np.ndarray]:
    header = inspect(path, **options)
    volume = read(header)
    assert volume.geometry is header.geometry
    return volume.array, volume.geometry.affine


def assert_is(path: Path, phantom: Phantom) -> None:
    array, affine = read_folder(path)
    np.testing.assert_array_equal(array, phantom.values)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-5)


@settings(max_examples=40)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 12)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    order=st.permutations(range(7)),
    modality=st.sampled_from(["CT", "MR"]),
    enhanced=st.booleans(),
)
def test_every_voxel_lies_where_the_tags_say(
    angles: tuple[float, ...],
    spacing: tuple[float, float, float],
    origin: tuple[float, ...],
    order: list[int],
    modality: str,
    enhanced: bool,
) -> None:
    phantom = Phantom(modality, spacing=spacing, orientation=rotation(angles), origin=origin)
    slices = phantom.classic()
    with tempfile.TemporaryDirectory() as name:
        save(Path(name), [phantom.enhanced()] if enhanced else [slices[k] for k in order])
        header = inspect(Path(name))
        assert header.slice_axis == 2
        assert header.modality == modality
        corners = np.array(np.meshgrid((0, 4), (0, 5), (0, 6), (1,), indexing="ij")).reshape(4, -1)
        np.testing.assert_allclose(header.geometry.affine @ corners, phantom.affine @ corners, atol=2e-4)
        np.testing.assert_array_equal(read(header).array, phantom.values)


def test_row_spacing_comes_first(tmp_path: Path) -> None:
    """PixelSpacing 0.8 x 0.5: rows are 0.8 mm apart, so the step of j is 0.8 mm."""
    header = inspect(save(tmp_path, Phantom().classic()))
    assert header.geometry.spacing == pytest.approx((0.5, 0.8, 2.0))
    assert header.geometry.shape == (5, 6, 7)


class TestValues:
    def test_scale_of_every_slice(self, tmp_path: Path) -> None:
        phantom = Phantom("MR")
        slices = phantom.classic()
        for k, ds in enumerate(slices):
            ds.RescaleSlope, ds.RescaleIntercept = 0.5 + k, 10 * k
        array, _ = read_folder(save(tmp_path, slices))
        expected = phantom.stored * (0.5 + np.arange(7)) + 10 * np.arange(7)
        np.testing.assert_allclose(array, expected, rtol=1e-7)

    def test_philips_private_scale_is_not_used(self, tmp_path: Path) -> None:
        phantom = Phantom("MR", slope=2.5)
        slices = phantom.classic()
        for ds in slices:
            block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0E, "FL", 0.001)
        assert_is(save(tmp_path, slices), phantom)

    def test_signed(self, tmp_path: Path) -> None:
        stored = Phantom().stored - 1500
        assert_is(save(tmp_path, Phantom(stored=stored, signed=True).classic()), Phantom(stored=stored, signed=True))

    @pytest.mark.parametrize("signed", [True, False])
    def test_twelve_bits_with_an_overlay_above_them(self, tmp_path: Path, signed: bool) -> None:
        """The upper four bits are not of the image; a signed sample has its sign in bit 11."""
        stored = Phantom().stored - (600 if signed else 0)
        slices = Phantom(stored=stored, signed=signed).classic()
        for ds in slices:
            ds.BitsStored, ds.HighBit = 12, 11
            bits = np.frombuffer(ds.PixelData, np.uint16) & 0x0FFF
            ds.PixelData = (bits | 0x5000).astype(np.uint16).tobytes()
        array, _ = read_folder(save(tmp_path, slices))
        np.testing.assert_array_equal(array, stored - 1024.0)

    def test_eight_bits(self, tmp_path: Path) -> None:
        stored = Phantom().stored % 200 + 1
        slices = Phantom("MR", stored=stored).classic()
        for k, ds in enumerate(slices):
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
            ds.PixelData = np.ascontiguousarray(stored[:, :, k].T, np.uint8).tobytes()
            ds["PixelData"].VR = "OB"
        array, _ = read_folder(save(tmp_path, slices))
        np.testing.assert_array_equal(array, stored)

    def test_bright_padding_becomes_air(self, tmp_path: Path) -> None:
        """Padding of 60,000 would pass for the brightest tissue."""
        for modality, air in (("CT", -1024.0), ("MR", float(Phantom().stored[1:].min()))):
            stored = Phantom().stored
            stored[0] = 60_000
            slices = Phantom(modality, stored=stored).classic()
            for ds in slices:
                ds.add_new("PixelPaddingValue", "US", 60_000)
            scan = read_scan(inspect(save(tmp_path / modality, slices)))
            assert (scan.volume.array[0] == air).all()
            np.testing.assert_array_equal(scan.volume.array[1:], Phantom(modality).values[1:])
            assert any("42 voxels of padding" in w for w in scan.warnings)

    def test_tissue_of_the_value_of_padding_stays(self, tmp_path: Path) -> None:
        """Padding of 0 HU around the image; within it 0 HU is water."""
        stored = np.full((9, 9, 3), 1060)
        stored[[0, -1]] = stored[:, [0, -1]] = stored[4, 4] = 1024
        stored[2, 2] = 24
        slices = Phantom(stored=stored).classic()
        for ds in slices:
            ds.PixelPaddingValue = 1024
        array = read_scan(inspect(save(tmp_path, slices))).volume.array
        assert (array[4, 4] == 0).all()
        assert array[1:-1, 1:-1].sum() == 3 * (47 * 36 - 1000)
        assert (array[[0, -1]] == -1024).all()
        assert (array[:, [0, -1]] == -1024).all()

    def test_padding_beyond_the_stored_bits(self, tmp_path: Path) -> None:
        """63536 in samples of 12 bits; without its high bits it would be 1072 HU, bone."""
        stored = Phantom().stored
        stored[0] = 63536
        slices = Phantom(stored=stored).classic()
        for ds in slices:
            ds.BitsStored, ds.HighBit, ds.PixelPaddingValue = 12, 11, 63536
        array = read_scan(inspect(save(tmp_path, slices))).volume.array
        assert (array[0] == -1024).all()
        np.testing.assert_array_equal(array[1:], Phantom().values[1:])

    def test_padding_darker_than_air_stays(self, tmp_path: Path) -> None:
        """One voxel far below all others, as lossy compression leaves them, makes no tissue of padding."""
        stored = np.full((9, 9, 3), 1060)
        stored[0], stored[5, 5] = -2000, -9000
        slices = Phantom(stored=stored, signed=True).classic()
        for ds in slices:
            ds.add_new("PixelPaddingValue", "SS", -2000)
        assert (read_scan(inspect(save(tmp_path, slices))).volume.array[0] == -3024).all()

    def test_dark_padding_is_background_already(self, tmp_path: Path) -> None:
        stored = Phantom().stored - 1024
        stored[0] = -2000
        phantom = Phantom(stored=stored, signed=True)
        slices = phantom.classic()
        for ds in slices:
            ds.add_new("PixelPaddingValue", "US", 65536 - 2000)  # as a writer that ignores the sign puts it
        assert_is(save(tmp_path, slices), phantom)

    def test_negative(self, tmp_path: Path) -> None:
        """MONOCHROME1: small is bright. An MR is turned into a positive; Hounsfield units are what they are."""
        for modality in ("MR", "CT"):
            phantom = Phantom(modality)
            slices = phantom.classic()
            for ds in slices:
                ds.PhotometricInterpretation = "MONOCHROME1"
            header = inspect(save(tmp_path / modality, slices))
            expected = 65535 - phantom.stored if modality == "MR" else phantom.values
            np.testing.assert_array_equal(read(header).array, expected)
            assert any("MONOCHROME1" in w for w in header.warnings)


class TestStorage:
    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    def test_uncompressed(self, tmp_path: Path, syntax: pydicom.uid.UID) -> None:
        slices = Phantom().classic()
        for ds in slices:
            ds.file_meta.TransferSyntaxUID = syntax
        assert_is(save(tmp_path, slices), Phantom())

    def test_big_endian(self, tmp_path: Path) -> None:
        phantom = Phantom(stored=Phantom().stored - 700, signed=True)
        slices = phantom.classic()
        for ds in slices:
            ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        assert_is(save(tmp_path, slices), phantom)

    @pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
    @pytest.mark.parametrize("enhanced", [True, False])
    def test_compressed(self, tmp_path: Path, syntax: pydicom.uid.UID, enhanced: bool) -> None:
        rng = np.random.default_rng(1)
        stored = rng.integers(-1000, 3000, (40, 44, 3))
        phantom = Phantom(stored=stored, signed=syntax != JPEG2000Lossless)
        if syntax == JPEG2000Lossless:
            phantom.stored = stored + 1000
        slices = [phantom.enhanced()] if enhanced else phantom.classic()
        for ds in slices:
            ds.compress(syntax, generate_instance_uid=False)
        assert_is(save(tmp_path, slices), phantom)

    @needs_tool("ojph_compress")
    def test_htj2k(self, tmp_path: Path) -> None:
        """Streams of OpenJPH, an encoder that shares no code with the codec."""
        phantom = Phantom(stored=np.random.default_rng(1).integers(0, 3000, (40, 44, 3)))
        slices = phantom.classic()
        for ds in slices:
            pixels = np.frombuffer(ds.PixelData, "<u2").reshape(44, 40)
            (tmp_path / "x.pgm").write_bytes(b"P5 40 44 65535\n" + pixels.astype(">u2").tobytes())
            command = ["ojph_compress", "-i", "x.pgm", "-o", "x.j2c", "-reversible", "true"]
            subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
            ds.PixelData = encapsulate([(tmp_path / "x.j2c").read_bytes()])
            ds["PixelData"].is_undefined_length = True
            ds.file_meta.TransferSyntaxUID = HTJ2KLossless
        assert_is(save(tmp_path / "series", slices), phantom)

    def test_lossy_history_is_told(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        for ds in slices:
            ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", 12.5
            ds.LossyImageCompressionMethod = "ISO_15444_1"
        header = inspect(save(tmp_path, slices))
        assert any("12.5" in w and "ISO_15444_1" in w for w in header.warnings)
        assert header.extra.lossy == "ratio 12.5, method ISO_15444_1"


class TestPlaces:
    def test_nested_folders_other_files_and_two_series(self, tmp_path: Path) -> None:
        save(tmp_path / "a" / "b", Phantom(series=1).classic()[:3])
        save(tmp_path / "c", Phantom(series=1).classic()[3:], prefix="x")
        save(tmp_path / "d", Phantom("MR", series=2).classic())
        (tmp_path / "readme.txt").write_text("not DICOM")
        found = find_series(tmp_path)
        assert [s.label for s in found] == ["1", "2"]
        assert [len(s.volumes[0]) for s in found] == [7, 7]
        np.testing.assert_array_equal(read(inspect(tmp_path, series=1)).array, Phantom().values)
        np.testing.assert_array_equal(read(inspect(tmp_path, series="2")).array, Phantom("MR").values)
        np.testing.assert_array_equal(read(inspect(tmp_path, series=found[1].uid)).array, Phantom("MR").values)
        with pytest.raises(InputError, match="2 series; choose one with --series"):
            inspect(tmp_path)
        with pytest.raises(InputError, match="--series 9 fits none"):
            inspect(tmp_path, series=9)

    def test_zip(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "in", Phantom().classic())
        path = tmp_path / "scan.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, file in enumerate(sorted(folder.iterdir())):
                archive.write(file, f"../../{number}/etc/passwd")  # names lead nowhere: nothing is unpacked
        before = sorted(p for p in tmp_path.rglob("*"))
        assert_is(path, Phantom())
        assert sorted(p for p in tmp_path.rglob("*")) == before

    def test_single_enhanced_file_without_suffix(self, tmp_path: Path) -> None:
        Phantom("MR").enhanced().save_as(tmp_path / "IM", enforce_file_format=True)
        assert_is(tmp_path / "IM", Phantom("MR"))

    def test_two_studies_that_number_alike(self, tmp_path: Path) -> None:
        save(tmp_path / "a", Phantom().classic())
        other = Phantom("MR").classic()
        for ds in other:
            ds.StudyInstanceUID, ds.SeriesInstanceUID = Phantom().uid(91), Phantom().uid(92)
        save(tmp_path / "b", other)
        with pytest.raises(InputError, match=f"2 series.*UID {Phantom().uid(2)}.*UID {Phantom().uid(92)}"):
            inspect(tmp_path, series=1)
        np.testing.assert_array_equal(read(inspect(tmp_path, series=Phantom().uid(92))).array, Phantom("MR").values)

    def test_what_is_dicom(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "in", Phantom().classic()[:1])
        (tmp_path / "a.nii").write_bytes(b"\0" * 400)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(folder / "IM1.dcm")
        told = {p.name: is_dicom_path(p) for p in (folder, folder / "IM1.dcm", *tmp_path.iterdir(), tmp_path / "no")}
        assert told == {"in": True, "IM1.dcm": True, "a.nii": False, "a.zip": True, "no": False}

    def test_dicomdir(self, tmp_path: Path) -> None:
        from pydicom.fileset import FileSet

        files = FileSet()
        for ds in Phantom().classic():
            ds.PatientName, ds.StudyID = "P", "1"
            files.add(ds)
        files.write(tmp_path)
        save(tmp_path / "other", Phantom(series=9).classic())
        assert_is(tmp_path / "DICOMDIR", Phantom())
        assert len(find_series(tmp_path)) == 2, "a folder is looked through, whatever its DICOMDIR names"

    def test_files_that_the_dicomdir_of_a_folder_lists_and_that_are_not_there(self, tmp_path: Path) -> None:
        """The last slices of a stack leave no gap when they are missing; other series are not concerned."""
        from pydicom.fileset import FileSet

        files = FileSet()
        phantoms = Phantom(), Phantom(series=9)
        for ds in (ds for phantom in phantoms for ds in phantom.classic()):
            ds.PatientName, ds.StudyID = "P", "1"
            files.add(ds)
        files.write(tmp_path)
        last = Phantom().classic()[-1].SOPInstanceUID
        (path,) = (path for path in tmp_path.rglob("IM*") if pydicom.dcmread(path).SOPInstanceUID == last)
        path = path.rename(path.with_name("renamed.dcm"))
        assert [series.fault for series in find_series(tmp_path)] == [None, None], "names on a disc do not matter"
        path.unlink()
        with pytest.raises(InputError, match="is listed in DICOMDIR, but is not there; copy it too, or take the DICOM"):
            inspect(tmp_path, series=1)
        np.testing.assert_array_equal(read(inspect(tmp_path, series=9)).array, phantoms[1].values)
        (tmp_path / "DICOMDIR").unlink()
        assert inspect(tmp_path, series=1).geometry.shape[2] == Phantom().values.shape[2] - 1

    def test_only_the_header_is_read_for_inspect(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = save(tmp_path, Phantom(stored=np.tile(Phantom().stored, (40, 40, 1))).classic())
        counted = 0
        import medsr.image.dicom_files as files

        real = files._Bounded.read

        def read_and_count(self: object, size: int = -1) -> bytes:
            nonlocal counted
            data = real(self, size)
            counted += len(data)
            return data

        monkeypatch.setattr(files._Bounded, "read", read_and_count)
        inspect(folder)
        assert counted < 7 * 20_000 < 7 * 200 * 240 * 2

    def test_source_data_sets_for_the_writer(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        slices[0].PatientComments = "kept"
        stack = inspect(save(tmp_path, slices[::-1])).extra
        datasets = stack.datasets()
        assert [ds.InstanceNumber for ds in datasets] == [1, 2, 3, 4, 5, 6, 7]
        assert datasets[0].PatientComments == "kept"
        assert all("PixelData" not in ds for ds in datasets)


class TestSeveralVolumes:
    @pytest.mark.parametrize(
        ("keyword", "values", "told"),
        [
            ("EchoTime", [10.0, 30.0], "echo"),
            ("InversionTime", [100.0, 900.0], "inversion time"),
            ("TemporalPositionIdentifier", [1, 2], "time point"),
            ("AcquisitionNumber", [1, 2], "acquisition"),
            ("AcquisitionTime", ["120001", "120002.5"], "acquisition time"),
            ("TriggerTime", [0.0, 40.0], "trigger time"),
            ("DiffusionBValue", [0.0, 1000.0], "b-value"),
            ("ImageType", [["DERIVED", "PRIMARY", "W"], ["DERIVED", "PRIMARY", "F"]], "image type"),
        ],
    )
    def test_told_apart(self, tmp_path: Path, keyword: str, values: list, told: str) -> None:
        phantoms = [Phantom("MR"), Phantom("MR", stored=Phantom().stored * 2)]
        slices = []
        for n in (1, 0):
            for k, ds in enumerate(phantoms[n].classic()):
                setattr(ds, keyword, values[n])
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = phantoms[n].uid(9, n, k + 1)
                slices.append(ds)
        header = inspect(save(tmp_path, slices))
        assert header.volumes == 2
        assert header.extra.series.told_by == (told,)
        scans = list(read_scans(header))
        order = (1, 0) if keyword == "ImageType" else (0, 1)  # F before W
        for scan, n in zip(scans, order, strict=True):
            np.testing.assert_array_equal(scan.volume.array, phantoms[n].values)
        with pytest.raises(InputError, match="2 volumes"):
            read_scan(header)
        with pytest.raises(InputError, match="no volume 2"):
            read_scan(header, volume=2)

    def test_magnitude_and_phase_are_two_parts(self, tmp_path: Path) -> None:
        slices = Phantom("MR").classic()
        for ds in Phantom("MR").classic():
            ds.ImageType = ["ORIGINAL", "PRIMARY", "P", "SE"]
            slices.append(ds)
        found = find_series(save(tmp_path, slices))
        assert [(s.label, s.foreign) for s in found] == [("1/1", None), ("1/2", "a phase image")]
        assert choose_series(found) is found[0], "the only image is meant"
        with pytest.raises(PlanError, match="a phase image"):
            read(inspect_series(choose_series(found, "1/2")))

    def test_two_orientations_are_two_parts(self, tmp_path: Path) -> None:
        turned = Phantom(orientation=rotation((90, 0, 0)))
        found = find_series(save(tmp_path, Phantom().classic() + turned.classic()))
        assert [s.label for s in found] == ["1/1", "1/2"]
        np.testing.assert_array_equal(read(inspect(tmp_path, series="1/2")).array, turned.values)
        np.testing.assert_allclose(inspect(tmp_path, series="1/2").geometry.affine, turned.affine, atol=1e-6)

    def test_spacing_rounded_in_some_files_is_one_volume(self, tmp_path: Path) -> None:
        phantom = Phantom(spacing=(0.48828125, 0.48828125, 2.0))
        slices = phantom.classic()
        for ds in slices[::2]:
            ds.PixelSpacing = [0.4883, 0.4883]
        [one] = find_series(save(tmp_path, slices))
        np.testing.assert_array_equal(read(inspect_series(one)).array, phantom.values)

    def test_unfinished_last_time_point(self, tmp_path: Path) -> None:
        slices = []
        for n in range(3):
            for k, ds in enumerate(Phantom("MR", stored=Phantom().stored + n).classic()):
                ds.TemporalPositionIdentifier = n + 1
                if n < 2 or k < 3:
                    slices.append(ds)
        found = find_series(save(tmp_path, slices))
        assert [(s.label, len(s.volumes), len(s.volumes[0])) for s in found] == [("1/1", 2, 7), ("1/2", 1, 3)]


def test_slices_of_a_few_micrometres(tmp_path: Path) -> None:
    """A specimen: slices 4 um apart are not in one place."""
    phantom = Phantom(spacing=(0.004, 0.004, 0.004), origin=(0, 0, 0))
    assert_is(save(tmp_path, phantom.classic()), phantom)


class TestEvidence:
    def test_mr(self, tmp_path: Path) -> None:
        slices = Phantom("MR").classic()
        for ds in slices:
            ds.SliceThickness, ds.AcquisitionMatrix, ds.MRAcquisitionType = 1.5, [0, 4, 3, 0], "3D"
        header = inspect(save(tmp_path, slices))
        assert header.slice_thickness == 1.5
        assert header.acquired == (4, 3, None)  # frequency along a row, phase along a column
        assert header.acquisition_type == "3D"
        assert (header.format, header.dtype, header.volumes) == ("dicom", "uint16", 1)

    def test_one_slice(self, tmp_path: Path) -> None:
        header = inspect(save(tmp_path, Phantom().classic()[:1]))
        assert header.geometry.shape == (5, 6, 1)
        assert header.geometry.spacing == pytest.approx((0.5, 0.8, 2.0))  # the slice's thickness

    def test_provenance(self, tmp_path: Path) -> None:
        import hashlib

        folder = save(tmp_path, Phantom().classic()[::-1])
        volume = read(inspect(folder))
        digests = [hashlib.sha256((folder / f"IM{n}.dcm").read_bytes()).digest() for n in range(7, 0, -1)]
        assert volume.provenance.sha256 == hashlib.sha256(b"".join(digests)).hexdigest()
        assert volume.provenance.steps[0]["series"] == Phantom().uid(2)


def test_highdicom_finds_the_same_volume(tmp_path: Path) -> None:
    """An independent reader of enhanced files, on an oblique one."""
    import highdicom

    phantom = Phantom("MR", orientation=rotation((20, -35, 50)))
    ds = phantom.enhanced()
    organisation = pydicom.Dataset()
    organisation.DimensionOrganizationUID = phantom.uid(8)
    ds.DimensionOrganizationSequence = [organisation]
    ds.DimensionIndexSequence = []
    ds.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    theirs = highdicom.imread(tmp_path / "e.dcm").get_volume(apply_real_world_transform=False)
    ours = read(inspect(tmp_path / "e.dcm"))
    # Theirs: (slice, row, column) to LPS.
    there = np.diag([-1.0, -1.0, 1.0, 1.0]) @ theirs.affine[:, [2, 1, 0, 3]]
    array = theirs.array.transpose(2, 1, 0)
    if there[:3, 2] @ ours.geometry.affine[:3, 2] < 0:
        there = there @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, array.shape[2] - 1], [0, 0, 0, 1.0]])
        array = array[:, :, ::-1]
    np.testing.assert_allclose(ours.geometry.affine, there, atol=1e-6)
    np.testing.assert_array_equal(ours.array, array)
