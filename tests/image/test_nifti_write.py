from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medsr.errors import JobError, PlanError
from medsr.image.geometry import Geometry
from medsr.image.nifti import inspect, read, read_scan, write
from medsr.image.nifti_write import make_header
from medsr.image.volume import Volume

NiftiFile = Callable[..., Path]


@pytest.fixture
def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels.astype(np.float32) / 7, Geometry(voxels.shape, np.diag([1, 1.5, 3, 1])), "MR")


def header_of(path: Path) -> nibabel.Nifti1Header:
    return nibabel.Nifti1Header(path.read_bytes()[:348])


def made_header(geometry: Geometry) -> nibabel.Nifti1Header:
    """As another program finds it: through its 348 bytes."""
    header = make_header(geometry, 1, np.dtype("<f4"), None, 2, b"", "")
    return nibabel.Nifti1Header(header.binaryblock)


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "Out.NII.GZ", "a b\n\N{GREEK SMALL LETTER MU}.nii.gz"])
def test_round_trip(tmp_path: Path, volume: Volume, name: str) -> None:
    write(tmp_path / name, volume)
    again = read(tmp_path / name, modality="MR")
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.geometry.same_grid(volume.geometry, 1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_nibabel_reads_it(tmp_path: Path, volume: Volume) -> None:
    write(tmp_path / "out.nii.gz", volume, description="mean, in-plane x2")
    image = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)
    np.testing.assert_allclose(image.affine, volume.geometry.affine)
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    assert bytes(image.header["descrip"].tobytes()).rstrip(b"\0") == b"medsr: AI SR, not acquired; mean, in-plane x2"


def test_bytes_are_reproducible(tmp_path: Path, volume: Volume) -> None:
    """No time and no name in the gzip header."""
    write(tmp_path / "one.nii.gz", volume)
    write(tmp_path / "two.nii.gz", volume)
    content = (tmp_path / "one.nii.gz").read_bytes()
    assert content == (tmp_path / "two.nii.gz").read_bytes()
    assert content[3] == 0, "no optional fields"
    assert content[4:8] == bytes(4), "no time"


def test_large_volumes_are_written_in_slabs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 2000, (200, 180, 40)).astype(np.float32)  # more than one slab
    write(tmp_path / "ct.nii.gz", Volume(array, Geometry(array.shape, np.eye(4)), "CT"))
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "ct.nii.gz").dataobj), array)


class TestStoredType:
    def test_ct_is_whole_hounsfield_units(self, tmp_path: Path, volume: Volume) -> None:
        write(tmp_path / "ct.nii", Volume(volume.array * 20 - 1024.3, volume.geometry, "CT"))
        image = nibabel.load(tmp_path / "ct.nii")
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.rint(volume.array * 20 - np.float32(1024.3)))

    def test_ct_beyond_int16_is_not_clipped(self, tmp_path: Path, volume: Volume) -> None:
        array = volume.array * 1000
        write(tmp_path / "ct.nii", Volume(array, volume.geometry, "CT"))
        np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "ct.nii").dataobj), array)

    def test_estimate_of_a_ct(self, tmp_path: Path, volume: Volume) -> None:
        write(tmp_path / "std.nii", Volume(volume.array, volume.geometry, "CT"), estimate="std")
        image = nibabel.load(tmp_path / "std.nii")
        np.testing.assert_array_equal(np.asarray(image.dataobj), volume.array)
        assert image.header.get_intent() == ("estimate", (), "std")

    @pytest.mark.parametrize("modality", ["MR", "CT"])
    def test_invalid_voxels_go_back(self, tmp_path: Path, volume: Volume, modality: str) -> None:
        mask = np.zeros(volume.array.shape, bool)
        mask[1, 2, 3] = True
        write(tmp_path / "out.nii", Volume(volume.array, volume.geometry, modality), invalid=mask)
        array = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
        np.testing.assert_array_equal(np.isnan(array), mask)
        np.testing.assert_array_equal(array[~mask], volume.array[~mask])

    def test_fault_of_ours_is_not_written(self, tmp_path: Path, volume: Volume) -> None:
        array = volume.array.copy()
        array[0, 0, 0] = np.nan
        with pytest.raises(JobError, match="NaN"):
            write(tmp_path / "out.nii", Volume(array, volume.geometry, "MR"))
        assert not list(tmp_path.iterdir())


class TestForms:
    @settings(max_examples=60)
    @given(
        angles=st.tuples(*[st.floats(-180, 180)] * 3),
        flip=st.sampled_from([-1.0, 1.0]),
        scale=st.tuples(*[st.floats(1, 4)] * 3),
    )
    def test_field_of_view_of_the_file(self, angles: tuple[float, ...], flip: float, scale: tuple[float, ...]) -> None:
        """The sform as written keeps every outer corner to 1e-4 mm; a qform is set only where it agrees."""
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [0.9, flip * 0.7, 3.3]
        affine[:3, 3] = [-120.123456, 87.654321, -240.0001]
        source = Geometry((12, 13, 5), affine)
        target = source.with_scale(scale)
        header = made_header(target)
        corners = [np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in g.shape], [1.0], indexing="ij")).reshape(4, -1)
                   for g in (source, target)]  # fmt: skip
        assert header["sform_code"] > 0
        np.testing.assert_allclose(header.get_sform() @ corners[1], affine @ corners[0], atol=1e-4)
        if header["qform_code"] > 0:
            np.testing.assert_allclose(header.get_qform() @ corners[1], affine @ corners[0], atol=0.02)

    def test_rotation_that_a_qform_cannot_hold(self) -> None:
        """Half a turn but for a little: float32 quaternions lose the little."""
        affine = np.eye(4)
        affine[:3, :3] = Rotation.from_rotvec(np.pi * (1 - 1e-4) * np.array([0.6, 0.64, 0.48])).as_matrix()
        geometry = Geometry((300, 300, 300), affine)
        header = made_header(geometry)
        assert header["sform_code"] == 2
        np.testing.assert_allclose(header.get_sform(), affine, atol=1e-6)
        corner = np.array([299, 299, 299, 1])
        error = np.linalg.norm((header.get_qform() - affine) @ corner)
        assert header["qform_code"] == (2 if error < 0.01 else 0)

    @pytest.mark.parametrize(
        ("codes", "prefer", "expected"),
        [
            ((1, 1), None, (1, 1)),
            ((4, 1), None, (4, 1)),
            ((3, 0), None, (3, 0)),
            ((0, 1), None, (1, 1)),
            ((4, 1), "qform", (1, 1)),
            ((4, 1), "sform", (4, 4)),
            ((0, 0), None, (2, 0)),
        ],
    )
    def test_codes(
        self, nifti_file: NiftiFile, tmp_path: Path, codes: tuple[int, int], prefer: str | None, expected: tuple
    ) -> None:
        path = nifti_file(codes=codes)
        header = inspect(path, prefer=prefer)
        write(tmp_path / "o.nii", read(path, header=header), header=header)
        new = header_of(tmp_path / "o.nii")
        assert (int(new["sform_code"]), int(new["qform_code"])) == expected


class TestKeptFields:
    def test_of_three_dimensions(self, nifti_file: NiftiFile, tmp_path: Path) -> None:
        path = nifti_file(
            dim_info=0b11_10_01, cal_max=99, cal_min=3, aux_file=b"old", intent_code=1002, descrip=b"TE=5", toffset=7,
            slice_code=3, slice_end=4, slice_duration=0.1, xyzt_units=2 | 8,
        )  # fmt: skip
        header = inspect(path)
        volume = read(path, header=header, modality="MR")
        for name, scale, timing in (("in plane", (2, 2, 1), True), ("slices", (1, 1, 2), False)):
            geometry = volume.geometry.with_scale(scale)
            fine = Volume(np.zeros(geometry.shape, np.float32), geometry, "MR")
            write(tmp_path / f"{name}.nii", fine, header=header)
            new = header_of(tmp_path / f"{name}.nii")
            assert (int(new["dim_info"]), int(new["xyzt_units"]), float(new["toffset"])) == (0b11_10_01, 10, 7)
            assert (float(new["cal_max"]), float(new["cal_min"]), int(new["intent_code"])) == (0, 0, 0)
            assert new["aux_file"].item() == b""
            assert new["descrip"].item() == b"medsr: AI SR, not acquired"
            np.testing.assert_allclose(new["pixdim"][1:4], geometry.spacing)
            assert int(new["slice_code"]) == (3 if timing else 0)
            assert float(new["slice_duration"]) == pytest.approx(0.1 if timing else 0)
            assert int(new["slice_end"]) == (4 if timing else 0)

    def test_repetition_time(self, nifti_file: NiftiFile, tmp_path: Path, voxels: np.ndarray) -> None:
        path = nifti_file(array=np.stack([voxels, voxels + 1], -1), pixdim=[-1, 1, 1.5, 3, 2.2, 0, 0, 0], xyzt_units=10)
        header = inspect(path)
        write(tmp_path / "all.nii", [read(path, header=header, volume=n) for n in (0, 1)], header=header)
        image = nibabel.load(tmp_path / "all.nii")
        assert image.header.get_zooms() == pytest.approx((1, 1.5, 3, 2.2))
        assert image.header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.stack([voxels, voxels + 1], -1))
        write(tmp_path / "one.nii", read(path, header=header, volume=1), header=header)
        assert nibabel.load(tmp_path / "one.nii").shape == voxels.shape

    def test_extensions(self, nifti_file: NiftiFile, tmp_path: Path, voxels: np.ndarray) -> None:
        """A comment is kept; a DICOM header describes the old grid."""

        def extension(code: int, text: bytes) -> bytes:
            return (48).to_bytes(4, "little") + code.to_bytes(4, "little") + text.ljust(40, b"\0")

        path = nifti_file(extensions=b"\1\0\0\0" + extension(6, b"fasting") + extension(2, b"tags"))
        header = inspect(path)
        write(tmp_path / "o.nii.gz", read(path, header=header), header=header)
        image = nibabel.load(tmp_path / "o.nii.gz")
        kept = [(e.get_code(), e.get_content()) for e in image.header.extensions]
        assert [(code, text if isinstance(text, str) else text.rstrip(b"\0").decode()) for code, text in kept] == [
            (6, "fasting")
        ]
        np.testing.assert_array_equal(np.asarray(image.dataobj), voxels)
        np.testing.assert_array_equal(read(tmp_path / "o.nii.gz").array, voxels)

    def test_mark_is_never_cut(self, tmp_path: Path, volume: Volume) -> None:
        write(tmp_path / "o.nii", volume, description="Schädel " * 40)
        descrip = header_of(tmp_path / "o.nii")["descrip"].item()
        assert descrip.startswith(b"medsr: AI SR, not acquired; Sch?del")
        assert len(descrip) == 79

    def test_more_voxels_than_nifti_1_can_count(self, tmp_path: Path) -> None:
        array = np.arange(40_000 * 2, dtype=np.float32).reshape(40_000, 2, 1)
        write(tmp_path / "o.nii", Volume(array, Geometry(array.shape, np.diag([0.01, 1, 1, 1])), "MR"))
        assert isinstance(nibabel.load(tmp_path / "o.nii"), nibabel.Nifti2Image)
        np.testing.assert_array_equal(read(tmp_path / "o.nii", modality="MR").array, array)

    def test_source_of_another_version_or_byte_order(
        self, nifti_file: NiftiFile, tmp_path: Path, voxels: np.ndarray
    ) -> None:
        for version, order in ((2, "<"), (2, ">"), (1, ">")):
            path = nifti_file(version=version, endianness=order, dim_info=0b11_10_01)
            header = inspect(path)
            write(tmp_path / "o.nii", read(path, header=header), header=header, overwrite=True)
            assert int(header_of(tmp_path / "o.nii")["dim_info"]) == 0b11_10_01
            np.testing.assert_array_equal(read(tmp_path / "o.nii").array, voxels)


class TestRefusals:
    def test_output_exists(self, tmp_path: Path, volume: Volume) -> None:
        (tmp_path / "o.nii").write_bytes(b"old")
        with pytest.raises(PlanError, match="--overwrite"):
            write(tmp_path / "o.nii", volume)
        assert (tmp_path / "o.nii").read_bytes() == b"old"
        write(tmp_path / "o.nii", volume, overwrite=True)
        np.testing.assert_array_equal(read(tmp_path / "o.nii", modality="MR").array, volume.array)

    @pytest.mark.parametrize("name", ["o.mgz", "o.img", "o", "o.nii.bz2", "o.gz"])
    def test_other_suffix(self, tmp_path: Path, volume: Volume, name: str) -> None:
        with pytest.raises(PlanError, match=r"\.nii nor \.nii\.gz"):
            write(tmp_path / name, volume)

    def test_missing_folder(self, tmp_path: Path, volume: Volume) -> None:
        with pytest.raises(JobError, match="folder does not exist"):
            write(tmp_path / "none" / "o.nii", volume)

    def test_volumes_on_two_grids(self, tmp_path: Path, volume: Volume) -> None:
        other = Volume(volume.array, Geometry(volume.array.shape, np.eye(4)), "MR")
        with pytest.raises(ValueError, match="share their grid"):
            write(tmp_path / "o.nii", [volume, other])
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["val/scttest_T1w.nii.gz", "val/sts-028_CT.nii.gz", "odd/dcmqa_Ph_sclslope.nii.gz"])
def test_round_trip_of_a_real_scan(data_dir: Path, tmp_path: Path, name: str) -> None:
    """Read, written, read: the same voxels, place, codes and type of voxels as nibabel finds in the source."""
    scan = read_scan(data_dir / name)
    write(tmp_path / "o.nii.gz", scan.volume, header=scan.header)
    assert gzip.decompress((tmp_path / "o.nii.gz").read_bytes())[:4] == (348).to_bytes(4, "little")
    source, copy = nibabel.load(data_dir / name), nibabel.load(tmp_path / "o.nii.gz")
    np.testing.assert_allclose(np.asarray(copy.dataobj), np.asarray(source.dataobj), rtol=1e-6)
    np.testing.assert_allclose(copy.affine, source.affine, atol=1e-5)
    assert copy.get_data_dtype() == (np.int16 if scan.volume.modality == "CT" else np.float32)
    for field in ("sform_code", "qform_code", "dim_info", "xyzt_units"):
        assert copy.header[field] == source.header[field]
    assert read(tmp_path / "o.nii.gz", modality=scan.volume.modality).provenance.sha256 != scan.volume.provenance.sha256
