from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr.errors import InputError
from medsr.image.geometry import Geometry
from medsr.image.nifti import inspect, read, read_scan, read_scans

NiftiFile = Callable[..., Path]


def test_provenance(nifti_file: NiftiFile) -> None:
    path = nifti_file("sub-01_T1w.nii.gz", scl_slope=2)
    provenance = read(path).provenance
    assert (provenance.source, provenance.sha256) == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    step = provenance.steps[0]
    assert (step["step"], step["dtype"], step["scaling"], step["affine"]) == ("read", "int16", [2.0, 0.0], "sform")
    assert (step["modality"], step["modality_evidence"]) == ("MR", "file name: t1w")


def test_modality_given_by_the_user(nifti_file: NiftiFile) -> None:
    volume = read(nifti_file("sub-01_T1w.nii.gz"), modality="CT")
    assert volume.modality == "CT"
    assert volume.provenance.steps[0]["modality_evidence"] == "given by the user"


def test_unknown_modality(nifti_file: NiftiFile) -> None:
    phase = np.random.default_rng(0).integers(-4096, 4096, (20, 20, 20)).astype(np.int16)
    with pytest.raises(InputError, match=r"unknown modality.*--modality"):
        read(nifti_file(array=phase))


def test_header_given_is_used(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    path = nifti_file(codes=(0, 0))
    header = inspect(path, prefer=None)
    scan = read_scan(path, header=header)
    assert scan.header is header
    np.testing.assert_array_equal(scan.volume.array, voxels)
    assert scan.warnings == header.warnings


def test_volumes_share_the_modality_of_the_first(nifti_file: NiftiFile) -> None:
    """A later volume that alone would be taken for CT."""
    rng = np.random.default_rng(0)
    first = rng.gamma(2, 200, (12, 12, 12)).astype(np.int16)
    later = np.where(rng.random((12, 12, 12)) < 0.5, -1000, 400).astype(np.int16) + rng.integers(-9, 9, first.shape)
    path = nifti_file(array=np.stack([first, later.astype(np.int16)], -1))
    assert [s.volume.modality for s in read_scans(path)] == ["MR", "MR"]
    assert read(path, volume=1).modality == "CT"


def test_read_scans_checks_the_end_of_the_stream(nifti_file: NiftiFile, voxels: np.ndarray) -> None:
    path = nifti_file("scan.nii.gz", array=np.stack([voxels, voxels + 1], -1))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="corrupt"):
        list(read_scans(path))


def test_invalid_voxels_on_another_grid(nifti_file: NiftiFile) -> None:
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    array[4, 5, 6] = np.nan
    scan = read_scan(nifti_file(array=array))
    fine = scan.invalid_on(scan.volume.geometry.with_scale((2, 3, 1)))
    assert fine is not None
    expected = np.zeros((18, 24, 7), bool)
    expected[8:10, 15:18, 6] = True
    np.testing.assert_array_equal(fine, expected)
    assert read_scan(nifti_file()).invalid_on(Geometry((7, 6, 5), np.eye(4))) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_mgh(tmp_path: Path, dtype: type) -> None:
    """FreeSurfer's axis order, big-endian voxels, and the scan parameters that follow them."""
    array = (np.arange(3 * 4 * 5 * 2).reshape(3, 4, 5, 2) * 2).astype(dtype)
    nibabel.save(nibabel.MGHImage(array, np.diag([1, 2, 3, 1.0])), tmp_path / "T1.mgz")
    for index in range(2):
        np.testing.assert_array_equal(read(tmp_path / "T1.mgz", volume=index).array, array[..., index])


def test_mgh_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "T1.mgh"
    nibabel.save(nibabel.MGHImage(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[: 284 + 100])
    with pytest.raises(InputError, match="truncated"):
        read(path)
