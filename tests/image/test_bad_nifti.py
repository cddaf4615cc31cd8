"""Every way in which a NIfTI file can be bad: one clear error of the right kind, or a right answer."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import igzip

from medsr.errors import ConfigError, InputError, MedsrError, PlanError
from medsr.image.nifti import inspect, read, read_scan, read_scans

NiftiFile = Callable[..., Path]
NAN, INF = float("nan"), float("inf")


def refused(path: Path, words: str, **options: object) -> None:
    """Reading ends in an InputError on one line that says ``words``."""
    with pytest.raises(InputError, match=words) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)


# Bytes


@pytest.mark.parametrize("left", [3, 100, 347, 349, 352, 500, 771])
def test_short_nii(nifti_file: NiftiFile, left: int) -> None:
    path = nifti_file()
    path.write_bytes(path.read_bytes()[:left])
    refused(path, "truncated|not a NIfTI")


@pytest.mark.parametrize("left", [1, 10, 30, 0.5, -9, -5, -1])
def test_truncated_gz(nifti_file: NiftiFile, left: float) -> None:
    """Cut in the gzip header, in the stream, and in its checksum."""
    path = nifti_file("scan.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left) if left == 0.5 else int(left)])
    refused(path, "truncated|not a NIfTI|corrupt")


def test_every_flipped_byte_of_a_gz_is_noticed(nifti_file: NiftiFile) -> None:
    """Stream, checksum and length: a changed byte is refused, or one of gzip's own header that carries no data."""
    path = nifti_file("scan.nii.gz")
    content, right = path.read_bytes(), read(path).array
    for at in [*range(0, 20), *range(20, len(content) - 8, 13), *range(len(content) - 8, len(content))]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        if 4 <= at <= 9:  # time, level and system: no data
            np.testing.assert_array_equal(read(path).array, right)
        else:
            with pytest.raises(InputError):
                read(path)


def test_checksum_of_voxels_after_the_chosen_volume(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    path = nifti_file("scan.nii.gz", array=np.stack([voxels, voxels[::-1]], -1))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    refused(path, "corrupt", volume=0)


def test_gzip_bomb(nifti_file: NiftiFile) -> None:
    """A stream that inflates far beyond what the header declares is not followed, in time or in memory."""
    path = nifti_file("scan.nii")
    bomb = path.with_name("bomb.nii.gz")
    with igzip.open(bomb, "wb", compresslevel=1) as stream:
        stream.write(path.read_bytes())
        for _ in range(100):
            stream.write(bytes(1 << 20))
    assert bomb.stat().st_size < 2e6
    tracemalloc.start()
    refused(bomb, "more data than its header declares")
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("dim", [[3, 32767, 32767, 32767, 1, 1, 1, 1], [7, 7, 6, 5, 32767, 32767, 32767, 32767]])
def test_impossible_dimensions(nifti_file: NiftiFile, name: str, dim: list[int]) -> None:
    path = nifti_file(name, dim=dim)
    tracemalloc.start()
    with pytest.raises(InputError, match="truncated"):
        inspect(path)
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


def test_more_than_the_memory(nifti_file: NiftiFile) -> None:
    """A sparse file as large as its header says: refused for memory before anything is allocated."""
    path = nifti_file(dim=[3, 32767, 32767, 4000, 1, 1, 1, 1])
    try:
        os.truncate(path, 352 + 2 * 32767 * 32767 * 4000)
    except OSError:
        pytest.skip("the file system holds no sparse file of 8.6 TB")
    with pytest.raises(InputError, match="memory"):
        inspect(path)


def test_trailing_garbage(nifti_file: NiftiFile) -> None:
    refused(nifti_file(tail=b"garbage"), "more data than its header declares")
    refused(nifti_file("scan.nii.gz", tail=b"garbage"), "more data")
    path = nifti_file("after.nii.gz")
    path.write_bytes(path.read_bytes() + b"garbage that is no gzip")
    refused(path, "corrupt")


def test_zero_padding_is_no_garbage(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    scan = read_scan(nifti_file(tail=bytes(160)))
    np.testing.assert_array_equal(scan.volume.array, voxels)
    assert any("zero bytes" in w for w in scan.warnings)


def test_gzip_of_several_members(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    """As bgzip and parallel compressors write."""
    path = nifti_file("scan.nii")
    content = path.read_bytes()
    packed = path.with_name("members.nii.gz")
    packed.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read(packed).array, voxels)


# Header fields


@pytest.mark.parametrize("first", [0, -1, 8, 9, 768])
def test_number_of_dimensions(nifti_file: NiftiFile, first: int) -> None:
    refused(nifti_file(dim=[first, 7, 6, 5, 1, 1, 1, 1]), "dimensions")


@pytest.mark.parametrize("dim", [[3, 0, 6, 5, 1, 1, 1, 1], [3, 7, -6, 5, 1, 1, 1, 1], [4, 7, 6, 5, 0, 1, 1, 1]])
def test_zero_and_negative_dimensions(nifti_file: NiftiFile, dim: list[int]) -> None:
    refused(nifti_file(dim=dim), "dimensions")


def test_a_line_is_no_image(nifti_file: NiftiFile) -> None:
    refused(nifti_file(dim=[1, 210, 1, 1, 1, 1, 1, 1]), "single line")


@pytest.mark.parametrize("magic", [b"n+3", b"", b"xxx", b"n+1 "])
def test_magic(nifti_file: NiftiFile, magic: bytes) -> None:
    refused(nifti_file(magic=magic), "magic")


def test_magic_of_nifti_2(nifti_file: NiftiFile) -> None:
    refused(nifti_file(version=2, eol_check=[10, 10, 10, 10]), "magic")


@pytest.mark.parametrize("code", [0, 3, 255, 999, -4])
def test_unknown_data_type(nifti_file: NiftiFile, code: int) -> None:
    refused(nifti_file(datatype=code), "data type")


@pytest.mark.parametrize(
    ("code", "name"), [(1, "binary"), (32, "complex64"), (128, "RGB24"), (1536, "float128"), (2304, "RGBA32")]
)
def test_colour_and_complex(nifti_file: NiftiFile, code: int, name: str) -> None:
    refused(nifti_file(datatype=code), name)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_every_real_data_type(nifti_file: NiftiFile, voxels: np.ndarray, dtype: str, endianness: str) -> None:
    array = (voxels % 120).astype(dtype)
    volume = read(nifti_file(array=array, endianness=endianness))
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, array)


def test_bitpix_contradicts(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    scan = read_scan(nifti_file(bitpix=32))
    np.testing.assert_array_equal(scan.volume.array, voxels)
    assert any("bitpix" in w for w in scan.warnings)


@pytest.mark.parametrize("offset", [0, 348, 351, 352.5, -352, NAN, INF])
def test_vox_offset(nifti_file: NiftiFile, offset: float) -> None:
    refused(nifti_file(vox_offset=offset), "vox_offset")


@pytest.mark.parametrize("offset", [0, 540, 543])
def test_vox_offset_of_nifti_2(nifti_file: NiftiFile, offset: int) -> None:
    refused(nifti_file(version=2, vox_offset=offset), "vox_offset")


def test_vox_offset_beyond_the_file(nifti_file: NiftiFile) -> None:
    refused(nifti_file(vox_offset=2**20), "truncated")


# Intensities


@pytest.mark.parametrize(("slope", "inter"), [(0, 5), (0, NAN), (1, 0), (NAN, NAN)])
def test_not_scaled(nifti_file: NiftiFile, voxels: np.ndarray, slope: float, inter: float) -> None:
    scan = read_scan(nifti_file(scl_slope=slope, scl_inter=inter))
    np.testing.assert_array_equal(scan.volume.array, voxels)
    assert not scan.warnings


@pytest.mark.parametrize(("slope", "inter"), [(NAN, 0), (INF, 0), (-INF, NAN)])
def test_not_scaled_with_a_warning(nifti_file: NiftiFile, voxels: np.ndarray, slope: float, inter: float) -> None:
    scan = read_scan(nifti_file(scl_slope=slope, scl_inter=inter))
    np.testing.assert_array_equal(scan.volume.array, voxels)
    assert any("scl_slope" in w for w in scan.warnings)


@pytest.mark.parametrize("inter", [NAN, INF])
def test_intercept_is_no_number(nifti_file: NiftiFile, inter: float) -> None:
    refused(nifti_file(scl_slope=2, scl_inter=inter), "scl_inter")


def test_scaled(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    volume = read(nifti_file(scl_slope=0.37, scl_inter=-12.5))
    np.testing.assert_allclose(volume.array, voxels * np.float64(np.float32(0.37)) - 12.5, rtol=1e-6)


def test_scaling_is_done_in_double_precision(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    """Near 2^24 a float32 product with an offset of the other sign would lose the voxels' differences."""
    array = voxels.astype(np.int32) + 16_777_216
    volume = read(nifti_file(array=array, scl_slope=1, scl_inter=-16_777_216))
    np.testing.assert_array_equal(volume.array, voxels)


def test_scaled_beyond_float32(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    refused(nifti_file(array=voxels.astype(float) * 1e300, scl_slope=1e30), "NaN or Inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_few_invalid_voxels_are_filled(nifti_file: NiftiFile, value: float) -> None:
    """A ramp: the mean of the face neighbours is the voxel itself."""
    ramp = np.add.outer(np.add.outer(np.arange(9.0), 10 * np.arange(8.0)), 100 * np.arange(7.0)).astype(np.float32)
    array = ramp.copy()
    array[4, 4, 4] = value
    scan = read_scan(nifti_file(array=array))
    np.testing.assert_allclose(scan.volume.array, ramp)
    assert scan.invalid is not None
    assert np.argwhere(scan.invalid).tolist() == [[4, 4, 4]]
    assert any("1 voxels are NaN" in w for w in scan.warnings)
    assert scan.volume.provenance.steps[0]["filled_voxels"] == 1


def test_a_hole_is_filled_from_its_rim(nifti_file: NiftiFile) -> None:
    array = np.random.default_rng(0).normal(100, 1, (20, 20, 20)).astype(np.float32)
    array[8:12, 8:12, 8:12] = NAN
    hole = read(nifti_file(array=array)).array[8:12, 8:12, 8:12]
    assert np.isfinite(hole).all()
    assert abs(hole.mean() - 100) < 1
    assert 95 < hole.min() <= hole.max() < 105


def test_too_many_invalid_voxels(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    array = voxels.astype(np.float32)
    array[0, 0, :3] = NAN  # 3 of 210: 1.4 %
    refused(nifti_file(array=array), "1.4%.*accepts 1%")
    refused(nifti_file(array=np.full((7, 6, 5), NAN)), "100.0%")


@pytest.mark.parametrize("value", [0, 7])
def test_constant_image(nifti_file: NiftiFile, value: int) -> None:
    refused(nifti_file(array=np.full((7, 6, 5), value, np.int16)), "constant")


def test_one_slice(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    volume = read(nifti_file(array=voxels[:, :, :1]))
    np.testing.assert_array_equal(volume.array, voxels[:, :, :1])
    np.testing.assert_array_equal(read(nifti_file(array=voxels[:, :, 0])).array, voxels[:, :, :1])


# Where the voxels are


@pytest.mark.parametrize("spacing", [[0, 0, 0], [-1, 1.5, 3], [1, NAN, 3], [1, 1.5, INF]])
class TestPixdim:
    def test_sform_makes_up_for_it(self, nifti_file: NiftiFile, spacing: list[float]) -> None:
        header = inspect(nifti_file(pixdim=[-1, *spacing, 0, 0, 0, 0]))
        np.testing.assert_allclose(header.geometry.spacing, [1, 1.5, 3])
        assert any("pixdim" in w for w in header.warnings)

    @pytest.mark.parametrize("codes", [(0, 1), (0, 0)])
    def test_refused_without(self, nifti_file: NiftiFile, spacing: list[float], codes: tuple[int, int]) -> None:
        refused(nifti_file(pixdim=[-1, *spacing, 0, 0, 0, 0], codes=codes, sform_code=0), "--assume-spacing")

    @pytest.mark.parametrize("codes", [(0, 1), (0, 0)])
    def test_assumed(self, nifti_file: NiftiFile, spacing: list[float], codes: tuple[int, int]) -> None:
        path = nifti_file(pixdim=[-1, *spacing, 0, 0, 0, 0], codes=codes)
        header = inspect(path, assume_spacing=(1, 1.5, 3))
        np.testing.assert_allclose(header.geometry.spacing, [1, 1.5, 3])
        assert header.geometry.axis_codes == ("PSR" if codes[1] else "RAS"), "the quaternion still counts"


def test_assumed_spacing_does_not_replace_a_valid_one(nifti_file: NiftiFile) -> None:
    header = inspect(nifti_file(), assume_spacing=(2,))
    np.testing.assert_allclose(header.geometry.spacing, [1, 1.5, 3])
    assert any("--assume-spacing was not used" in w for w in header.warnings)


@pytest.mark.parametrize("assumed", [(0,), (1, 2), (1, -1, 1), (1, NAN, 1), ()])
def test_assumed_spacing_is_checked(nifti_file: NiftiFile, assumed: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="--assume-spacing"):
        inspect(nifti_file(), assume_spacing=assumed)


BAD_SFORMS = {
    "zero": ([0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], "all zero"),
    "singular": ([1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], "singular"),
    "one column zero": ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], "singular"),
    "sheared": ([1, 0, 0, 0], [0, 1.5, 0.9, 0], [0, 0, 3, 0], "sheared by 16.7 degrees"),
    "NaN": ([NAN, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], "NaN"),
}


@pytest.mark.parametrize("case", BAD_SFORMS)
class TestSform:
    def test_refused(self, nifti_file: NiftiFile, case: str) -> None:
        x, y, z, words = BAD_SFORMS[case]
        refused(nifti_file(srow_x=x, srow_y=y, srow_z=z, sform_code=2, qform_code=0), words)

    def test_refused_naming_a_sound_qform(self, nifti_file: NiftiFile, case: str) -> None:
        x, y, z, words = BAD_SFORMS[case]
        path = nifti_file(srow_x=x, srow_y=y, srow_z=z, sform_code=2)
        refused(path, f"{words}.*--prefer qform")
        refused(path, words, prefer="sform")
        np.testing.assert_allclose(inspect(path, prefer="qform").geometry.affine, inspect(nifti_file()).geometry.affine)


def test_slight_shear_of_rounding_is_read(nifti_file: NiftiFile) -> None:
    x, y, z = [1, 0, 0, 0], [0, 1.5, 0.003, 0], [0, 0, 3, 0]
    assert inspect(nifti_file(srow_x=x, srow_y=y, srow_z=z, qform_code=0)).geometry.spacing[2] == pytest.approx(3)


@pytest.mark.parametrize("quaternion", [[0.9, 0.9, 0], [NAN, 0, 0]])
def test_bad_qform(nifti_file: NiftiFile, quaternion: list[float]) -> None:
    b, c, d = quaternion
    path = nifti_file(quatern_b=b, quatern_c=c, quatern_d=d)
    assert any("qform" in w for w in inspect(path).warnings), "a sound sform beside it: a warning"
    refused(path, "qform", prefer="qform")
    refused(nifti_file(quatern_b=b, quatern_c=c, quatern_d=d, sform_code=0), "qform.*--assume-spacing")


def test_prefer_a_form_that_is_not_there(nifti_file: NiftiFile) -> None:
    refused(nifti_file(qform_code=0), "not set", prefer="qform")
    refused(nifti_file(sform_code=0), "not set", prefer="sform")


class TestFormsThatDiffer:
    def test_a_little(self, nifti_file: NiftiFile) -> None:
        path = nifti_file(qoffset_x=-20 + 0.2)
        header = inspect(path)
        assert any("differ by up to 0.2 mm" in w for w in header.warnings)
        assert header.geometry.affine[0, 3] == -20

    def test_by_half_a_voxel(self, nifti_file: NiftiFile) -> None:
        path = nifti_file(qoffset_x=-20 + 0.6)
        refused(path, "--prefer sform or --prefer qform")
        assert inspect(path, prefer="sform").geometry.affine[0, 3] == -20
        assert inspect(path, prefer="qform").geometry.affine[0, 3] == pytest.approx(-19.4)

    def test_in_handedness(self, nifti_file: NiftiFile) -> None:
        path = nifti_file()
        factor = nibabel.Nifti1Header(path.read_bytes()[:348])["pixdim"][0]
        refused(nifti_file(pixdim=[-factor, 1, 1.5, 3, 0, 0, 0, 0]), "--prefer")


def test_no_forms(nifti_file: NiftiFile) -> None:
    header = inspect(nifti_file(codes=(0, 0)))
    np.testing.assert_allclose(header.geometry.affine, np.diag([1, 1.5, 3, 1]))
    assert any("codes 0" in w for w in header.warnings)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e3), (2, 1), (3, 1e-3), (0, 1), (2 | 8, 1)])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 0)])
def test_units_of_length(nifti_file: NiftiFile, unit: int, factor: float, codes: tuple[int, int]) -> None:
    affine = np.diag([1 / factor, 1.5 / factor, 3 / factor, 1])
    affine[:3, 3] = 10 / factor
    header = inspect(nifti_file(affine=affine, xyzt_units=unit, codes=codes))
    np.testing.assert_allclose(header.geometry.spacing, [1, 1.5, 3], rtol=1e-6)
    if codes != (0, 0):
        np.testing.assert_allclose(header.geometry.affine[:3, 3], 10, rtol=1e-6)
    assert any("converted to mm" in w for w in header.warnings) == (factor != 1)


def test_impossible_size_of_voxels(nifti_file: NiftiFile) -> None:
    refused(nifti_file(affine=np.diag([5000.0, 1, 1, 1])), "cannot be")
    refused(nifti_file(xyzt_units=3, affine=np.diag([0.05, 0.05, 0.05, 1])), "cannot be")


# Dimensions beyond three


def test_4d_needs_a_choice(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    array = np.stack([voxels, voxels + 1, voxels + 2], -1)
    for name in ("scan.nii", "scan.nii.gz"):
        path = nifti_file(name, array=array)
        assert inspect(path).volumes == 3
        refused(path, r"4-D \(7, 6, 5, 3\).*--volume 0")
        for n in range(3):
            np.testing.assert_array_equal(read(path, volume=n).array, voxels + n)
        assert [s.volume.array[0, 0, 0] for s in read_scans(path)] == [0, 1, 2]
        refused(path, "no volume 3", volume=3)
        refused(path, "no volume -1", volume=-1)


def test_axes_of_one_voxel_are_squeezed(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    np.testing.assert_array_equal(read(nifti_file(array=voxels[..., None, None])).array, voxels)
    path = nifti_file(array=np.stack([voxels, voxels + 1], -1)[:, :, :, None, :])  # 5-D, (7, 6, 5, 1, 2)
    assert inspect(path).volumes == 2
    np.testing.assert_array_equal(read(path, volume=1).array, voxels + 1)


# Names and places


def test_gzip_under_a_plain_name_and_the_reverse(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    for path in (nifti_file("packed.nii", packed=True), nifti_file("plain.nii.gz", packed=False)):
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.volume.array, voxels)
        assert any("gzip" in w for w in scan.warnings)


@pytest.mark.parametrize(
    "name",
    ["SCAN.NII.GZ", "SCAN.NII", "a b.nii", "Schädel-\N{CJK UNIFIED IDEOGRAPH-8111}.nii.gz", "a\nb.nii", "-x.nii"],
)
def test_names_that_are_read(nifti_file: NiftiFile, voxels: np.ndarray, name: str) -> None:
    scan = read_scan(nifti_file(name))
    np.testing.assert_array_equal(scan.volume.array, voxels)
    assert not scan.warnings
    assert scan.volume.provenance.source == name


def test_message_with_a_line_break_in_the_name(nifti_file: NiftiFile) -> None:
    refused(nifti_file("a\nb.nii", magic=b"xxx"), r"^a\\nb.nii")


def test_symbolic_links(nifti_file: NiftiFile, voxels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "link_T1w.nii").symlink_to(nifti_file())
    np.testing.assert_array_equal(read(tmp_path / "link_T1w.nii").array, voxels)
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "dangling.nii", "link to nothing")


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.nii", "does not exist")
    refused(tmp_path, "is a folder; give one NIfTI file")
    (tmp_path / "empty.nii").touch()
    refused(tmp_path / "empty.nii", "empty")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read anything")
def test_unreadable_file(nifti_file: NiftiFile) -> None:
    path = nifti_file()
    path.chmod(0)
    refused(path, "cannot be read")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (bytes(128) + b"DICM", "dcm2niix"),
        (b"NRRD0004\n", "NRRD.*convert"),
        (b"ObjectType = Image\n", "MetaImage.*convert"),
        (b"CDF\x01", "MINC.*mnc2nii"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x89PNG\r\n", "PNG"),
        (b"<!doctype html>", "download failed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"/annex/objects/MD5E-s1--0.nii.gz\n", "git annex get"),
        (b"PK\x03\x04", "unpack"),
        (b"hello", "not a NIfTI"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_other_formats(tmp_path: Path, head: bytes, words: str, packed: bool) -> None:
    path = tmp_path / "scan.nii.gz"
    content = head.ljust(600, b" ")
    path.write_bytes(gzip.compress(content) if packed else content)
    refused(path, words)


def test_cifti(nifti_file: NiftiFile) -> None:
    refused(nifti_file("x.dconn.nii", version=2, intent_code=3001), "CIFTI.*wb_command")


def test_pairs(nifti_file: NiftiFile, voxels: np.ndarray, tmp_path: Path) -> None:
    """nibabel writes the pair; either half may be named, packed or not, and vox_offset is 0."""
    image = nibabel.Nifti1Pair(voxels, np.diag([1, 1.5, 3, 1]))
    for suffix in ("", ".gz"):
        nibabel.save(image, tmp_path / f"pair.img{suffix}")
        for half in ("hdr", "img"):
            volume = read(tmp_path / f"pair.{half}{suffix}")
            np.testing.assert_array_equal(volume.array, voxels)
            np.testing.assert_allclose(volume.geometry.affine, image.affine)
        (tmp_path / f"pair.img{suffix}").unlink()
        refused(tmp_path / f"pair.hdr{suffix}", "its .img is missing")
        (tmp_path / f"pair.hdr{suffix}").unlink()
    refused(nifti_file("alone.nii", magic=b"ni1"), "in an .img file")


def test_short_img(voxels: np.ndarray, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(voxels, np.eye(4)), tmp_path / "pair.img")
    os.truncate(tmp_path / "pair.img", 300)
    refused(tmp_path / "pair.hdr", "truncated")


# What is no MR or CT image: refused with exit code 4 unless the user insists


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("scan.nii", {"intent_code": 1002}, "label map"),
        ("scan.nii", {"intent_code": 1007}, "vector field"),
        ("scan.nii", {"intent_code": 5}, "statistical map"),
        ("scan.nii", {"descrip": b"TE=6.4;phase=1"}, "phase"),
        ("sub-01_T1w_seg.nii.gz", {}, "label map"),
        ("sub-01_ADC.nii.gz", {}, "parameter map"),
        ("sub-01_T1map.nii.gz", {}, "parameter map"),
        ("sub-01_pet.nii.gz", {}, "PET"),
    ],
)
def test_not_an_image(nifti_file: NiftiFile, voxels: np.ndarray, name: str, fields: dict, words: str) -> None:
    path = nifti_file(name, **fields)
    assert words in str(inspect(path).foreign)
    with pytest.raises(PlanError, match=f"{words}.*--modality"):
        read(path)
    volume = read(path, modality="MR")
    np.testing.assert_array_equal(volume.array, voxels)
    assert volume.modality == "MR"


def test_label_map_by_its_voxels(nifti_file: NiftiFile) -> None:
    labels = np.zeros((20, 20, 20), np.int16)
    labels[4:16, 4:16, 4:16] = 3
    labels[8:12, 8:12, 8:12] = 7
    path = nifti_file("scan_T1w.nii", array=labels)
    with pytest.raises(PlanError, match="label map"):
        read(path)
    assert read(path, modality="MR").modality == "MR"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_windowed_ct(nifti_file: NiftiFile, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 256, (12, 12, 12)).astype(dtype)
    with pytest.raises(PlanError, match=r"8-bit CT.*window"):
        read(nifti_file("chest_ct.nii", array=array))


# Whatever else: mutated headers


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_headers(nifti_file: NiftiFile, data: st.DataObject) -> None:
    """Random header bytes: a MedsrError, or the same voxels and affine that nibabel reads where it reads them."""
    version, packed = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans())
    path = nifti_file("fuzz.nii", version=version)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 351 if version == 1 else 543))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    try:
        scan = read_scan(path)
    except MedsrError as error:
        assert error.exit_code in (3, 4), error  # noqa: PT017 - most examples raise, some must not
        return
    volume = scan.volume
    assert np.isfinite(volume.array).all()
    assert np.isfinite(volume.geometry.affine).all()
    path.write_bytes(content)
    try:
        image = nibabel.load(path)
        expected = np.asarray(image.dataobj, np.float64)
    except Exception:  # nibabel refuses more, in many ways: then there is no oracle
        return
    expected = np.squeeze(expected).reshape(volume.array.shape)
    valid = np.isfinite(expected) & (np.abs(expected) < 1e38)
    np.testing.assert_allclose(volume.array[valid], expected[valid], rtol=1e-6, atol=1e-30)


# Real files


REFUSED = {
    "bad_truncated_gz.nii.gz": "truncated",
    "bad_truncated_data.nii": "truncated",
    "bad_header_only.nii": "truncated",
    "bad_dim_too_big.nii.gz": "truncated",
    "bad_empty.nii.gz": "empty",
    "bad_magic.nii.gz": "magic",
    "bad_sform_nan.nii.gz": "NaN.*--prefer qform",
    "bad_nan_inf_voxels.nii.gz": "NaN or Inf",
    "annex_pointer_T1w.nii.gz": "git annex get",
    "tilt_sheared_sform_only.nii.gz": "sheared by 16.5 degrees",
    "rii_not-nifti.nii": "not a NIfTI",
    "nib_row_major.dconn.nii": "CIFTI",
    "nib_minc1_1_scale.mnc": "mnc2nii",
    "nib_test.mgz": "sheared",
    "nib_example4d.nii.gz": "4-D.*--volume 0",
    "sct_fmri_float64_4d.nii.gz": "4-D.*--volume 0",
}


@pytest.mark.parametrize("name", REFUSED)
def test_real_files_that_are_refused(data_dir: Path, name: str) -> None:
    refused(data_dir / "odd" / name, REFUSED[name])


FOREIGN = ["rii_5D_small.nii", "rii_big.nii.gz", "rii_with_extension.nii.gz", "sct_venc_oneslice.nii.gz"]


@pytest.mark.parametrize("name", FOREIGN)
def test_real_files_that_are_no_scan(data_dir: Path, name: str) -> None:
    with pytest.raises(PlanError):
        read(data_dir / "odd" / name, volume=0)


READ = {
    "bad_plain_named_gz.nii.gz": 1,
    "bad_pixdim_zero.nii.gz": 1,
    "bad_pixdim_negative.nii.gz": 1,
    "bad_no_affine.nii.gz": 1,
    "rii_air.hdr.gz": 0,
    "rii_air.img.gz": 0,
    "dcmqa_Ph_sclslope.nii.gz": 0,
    "nib_anatomical.nii": 0,
    "nib_example_nifti2.nii.gz": 0,
    "nib_reoriented_anat_moved.nii": 0,
    "nib_standard.nii.gz": 0,
    "niivue_fmri_pitch.nii.gz": 0,
    "sct_mt1_5slices.nii.gz": 0,
    "sct_t2_PSR.nii.gz": 0,
}


@pytest.mark.parametrize("name", READ)
def test_real_files_that_are_read(data_dir: Path, name: str) -> None:
    """Voxels and affine as nibabel has them; the stated number of warnings."""
    path = data_dir / "odd" / name
    scan = read_scan(path, volume=0)
    assert len(scan.warnings) == READ[name], scan.warnings
    if name == "bad_plain_named_gz.nii.gz":  # nibabel refuses it
        image = nibabel.Nifti1Image.from_bytes(path.read_bytes())
    else:
        image = nibabel.load(path)
    expected = np.asarray(image.dataobj, np.float64)
    np.testing.assert_allclose(scan.volume.array, expected[..., 0] if expected.ndim == 4 else expected, rtol=1e-6)
    if name != "bad_no_affine.nii.gz":  # nibabel invents a flip there
        np.testing.assert_allclose(scan.volume.geometry.affine, image.affine, atol=1e-5)
