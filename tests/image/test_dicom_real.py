"""Real series of many vendors: what medsr reads is what dcm2niix reads, in place and in value."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from medsr.errors import InputError, PlanError
from medsr.image.dicom_read import Scan, choose_series, find_series, inspect, inspect_series, read, read_scan
from tests.image.dicom_judges import on_grid_of
from tests.image.dicom_phantom import needs_tool

needs_dcm2niix = needs_tool("dcm2niix")

# One series in one folder that both accept.
ALIKE = [
    "ct_ricord-jpeglossless", "d2n_failing-slicecount-001", "d2n_ge-anatomical-001",
    "d2n_generic-anatomical-002_non_isotropic", "d2n_generic-compressed_j2k-001", "d2n_generic-compressed_jpeg-001",
    "d2n_generic-compressed_rle-001", "d2n_hitachi-anatomical-001", "d2n_hyperfine-anatomical-001",
    "d2n_philips-anatomical-001", "d2n_philips_enhanced-anatomical-001", "d2n_philips_enhanced-fmri-001",
    "d2n_siemens-anatomical-001", "d2n_siemens_multiframe-anatomical-001", "d2n_failing-sliceorientation-001",
    "enh_philips-fieldmap", "enh_siemens-xa10", "loc_tcga-topogram", "loc_philips-surview", "mr_brainix-flair",
    "mr_hippocrop-btp003",
]  # fmt: skip


def converted(source: Path, folder: Path, *options: str) -> list[Path]:
    """What dcm2niix makes of a folder or file."""
    command = ["dcm2niix", "-z", "n", "-b", "n", "-p", "n", "-f", "%s_%d", *options, "-o", str(folder), str(source)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False)
    return sorted(folder.glob("*.nii"))


def assert_as(scan: Scan, index: int, images: list[Path], tolerance: float = 1e-3) -> None:
    candidates = []
    for path in images:
        image = nibabel.load(path)
        voxels = on_grid_of(scan.volume.geometry, image, tolerance)
        if voxels is not None:
            candidates.append(voxels if voxels.ndim == 3 else voxels[..., index])
    assert candidates, f"no image of dcm2niix has the grid of {scan.header.extra.series}"
    errors = [float(np.abs(c - scan.volume.array).max()) for c in candidates]
    assert min(errors) <= 1e-6 * float(np.abs(scan.volume.array).max()), errors


@needs_dcm2niix
@pytest.mark.parametrize("folder", ALIKE)
def test_as_dcm2niix(data_dir: Path, tmp_path: Path, folder: str) -> None:
    source = data_dir / "dicom" / folder
    images = converted(source, tmp_path)
    assert images
    # There SpacingBetweenSlices is rounded to 3.313; dcm2niix uses it, medsr the positions, which are 3.3125 mm apart.
    tolerance = 0.005 if folder == "d2n_philips_enhanced-fmri-001" else 1e-3
    for series in find_series(source):
        header = inspect_series(series)
        modality = header.modality if header.foreign else None
        for index in range(header.volumes):
            assert_as(read_scan(header, volume=index, modality=modality), index, images, tolerance)


@needs_dcm2niix
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 9])  # 7 and 8: JPEG-LS, which this dcm2niix does not read
def test_mosaic_as_dcm2niix(data_dir: Path, tmp_path: Path, number: int) -> None:
    """One Siemens mosaic in many transfer syntaxes."""
    source = data_dir / "dicom" / "ts_siemens-mosaic" / f"{number}.dcm"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.dcm").write_bytes(source.read_bytes())
    scan = read_scan(inspect(source))
    assert scan.volume.array.shape == (64, 64, 35)
    assert_as(scan, 0, converted(tmp_path / "in", tmp_path))


def test_mosaic_nine_times_is_one(data_dir: Path) -> None:
    """The same image in nine transfer syntaxes: 8 x 35 slices are dropped, since their voxels are the same."""
    scan = read_scan(inspect(data_dir / "dicom" / "ts_siemens-mosaic"))
    assert scan.volume.provenance.steps[0]["dropped_duplicates"] == 280


@pytest.mark.parametrize("folder", ["ts_wg04-CT2", "ts_wg04-MR3"])
def test_lossless_syntaxes_hold_the_same_voxels(data_dir: Path, folder: str) -> None:
    source = data_dir / "dicom" / folder
    plain = read(inspect(next(source.glob("*_UNC")))).array
    for kind in ("J2KR", "JLSL", "JPLL", "RLE"):
        np.testing.assert_array_equal(read(inspect(next(source.glob(f"*_{kind}")))).array, plain, err_msg=kind)
    for kind in ("J2KI", "JLSN"):
        header = inspect(next(source.glob(f"*_{kind}")))
        assert "compressed with loss" in header.warnings[0]
        error = np.abs(read(header).array - plain)
        assert 0 < error.mean() < 0.02 * np.ptp(plain), kind


def test_twelve_bit_lossy_jpeg_is_named(data_dir: Path) -> None:
    with pytest.raises(InputError, match=r"MR3_JPLY is compressed with 12-bit lossy JPEG.*dcmdjpeg"):
        inspect(data_dir / "dicom" / "ts_wg04-MR3" / "MR3_JPLY")


@needs_dcm2niix
def test_gantry_tilt(data_dir: Path, tmp_path: Path) -> None:
    """Refused; slid back, every slice lies as in dcm2niix's result, but for one shift that all slices share.

    dcm2niix turns about the middle of the stack by half pixels, and writes an origin that is not in the slice plane.
    """
    source = data_dir / "dicom" / "tilt_philips-phantom"
    with pytest.raises(InputError, match=r"tilted by 16\.5 degrees.*--deskew"):
        inspect(source)
    scan = read_scan(inspect(source, deskew=True))
    theirs = nibabel.load(next(p for p in converted(source, tmp_path) if "_Tilt" in p.name))
    voxels = np.asarray(theirs.dataobj, dtype=np.float32)[:, ::-1]
    assert voxels.shape == scan.volume.array.shape
    np.testing.assert_allclose(np.abs(theirs.affine[:3, :3]), np.abs(scan.volume.geometry.affine[:3, :3]), atol=1e-5)
    shifts = []
    for k in range(3):
        ours = scan.volume.array[:, :, k]
        shift, _, _ = phase_cross_correlation(np.clip(ours, -200, 800), np.clip(voxels[:, :, k], -200, 800),
                                              upsample_factor=50)  # fmt: skip
        shifts.append(shift)
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[0], (3, 2)), atol=0.12)  # 1.75 pixels a slice were undone
    assert np.abs(shifts).max() < 1


def test_tilted_and_uneven(data_dir: Path) -> None:
    source = data_dir / "dicom" / "tilt_ge-head"
    with pytest.raises(InputError, match=r"tilted by 18\.5 degrees"):
        inspect(source)
    with pytest.raises(InputError, match=r"uneven gaps.*1\.081 mm between 14\.dcm and 15\.dcm.*--fill-gaps"):
        inspect(source, deskew=True)
    header = inspect(source, deskew=True, fill_gaps=True)
    assert read(header).geometry.shape == (512, 526, 6)
    assert len(header.warnings) == 2


def test_missing_slice(data_dir: Path) -> None:
    with pytest.raises(InputError, match=r"1 of its slices missing: 10 mm between IM-0001-0009-0001\.dcm and IM"):
        inspect(data_dir / "dicom" / "d2n_failing-sliceincrement-001")


def test_two_acquisitions_that_overlap(data_dir: Path) -> None:
    """Two slices 0.005 mm apart, of two acquisitions: two parts, each in order by itself."""
    found = find_series(data_dir / "dicom" / "dup_rider-0109")
    assert [(s.label, len(s.volumes[0])) for s in found] == [("2/1", 1), ("2/2", 2)]


def test_streams_that_do_not_decode(data_dir: Path) -> None:
    header = inspect(data_dir / "dicom" / "bad_j2k-truncated")
    assert "different frames of reference" in header.warnings[0]
    with pytest.raises(InputError, match=r"00000\d\.dcm: its compressed voxels do not decode"):
        read(header)


def test_colour_and_localizers_are_listed_with_the_reason(data_dir: Path) -> None:
    with pytest.raises(InputError, match=r"4 files, a colour image \(RGB\)"):
        inspect(data_dir / "dicom" / "d2n_generic-rgb-001")
    for folder in ("loc_tcga-topogram", "loc_philips-surview"):
        header = inspect(data_dir / "dicom" / folder)
        assert header.foreign == "a localizer"
        with pytest.raises(PlanError, match="a localizer"):
            read(header)


def test_fieldmap_beside_its_magnitude(data_dir: Path) -> None:
    found = find_series(data_dir / "dicom" / "enh_philips-fieldmap")
    assert [s.foreign for s in found] == [None, "a parameter map (ImageType FIELD_MAP)"]
    assert choose_series(found) is found[0]


def test_what_pydicom_ships(data_dir: Path) -> None:
    """Odd files, one by one: what is read, and why the others are not."""
    folder = data_dir / "dicom" / "pydicom_singles"
    expected = {
        "CT_small.dcm": "CT", "MR_small.dcm": "MR", "MR_small_RLE.dcm": "MR", "MR_small_bigendian.dcm": "MR",
        "MR_small_implicit.dcm": "MR", "MR_small_jp2klossless.dcm": "MR", "MR_small_jpeg_ls_lossless.dcm": "MR",
        "MR_small_padded.dcm": "MR", "bad_sequence.dcm": "CT",
        "MR_truncated.dcm": "truncated: 8192 bytes of voxels declared, 8130 there",
        "ExplVR_BigEnd.dcm": "Ultrasound Image Storage, neither CT nor MR",
        "eCT_Supplemental.dcm": "a parameter map", "image_dfl.dcm": "without place in the patient",
        "meta_missing_tsyntax.dcm": "does not say its transfer syntax", "no_meta.dcm": "no DICOM preamble",
        "rtplan.dcm": "RT Plan", "test-SR.dcm": "Comprehensive SR", "emri_small.dcm": "10 frames, and places for 0",
        "emri_small_RLE.dcm": "places for 0", "emri_small_big_endian.dcm": "places for 0",
        "emri_small_jpeg_2k_lossless.dcm": "places for 0", "emri_small_jpeg_ls_lossless.dcm": "places for 0",
        "emri_small_jpeg_2k_lossless_too_short.dcm": "places for 0",
    }  # fmt: skip
    found = {}
    for path in sorted(folder.iterdir()):
        try:
            found[path.name] = read(inspect(path)).modality
        except (InputError, PlanError) as error:
            found[path.name] = str(error)
    assert found.keys() == expected.keys()
    for name, what in expected.items():
        assert what in found[name], name
    arrays = [read(inspect(folder / name)).array for name in expected if name.startswith("MR_small")]
    for array in arrays:
        np.testing.assert_array_equal(array, arrays[0])
