from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr.image.nifti import inspect

NiftiFile = Callable[..., Path]


def test_what_a_header_says(nifti_file: NiftiFile) -> None:
    path = nifti_file("sub-01_T1w.nii.gz")
    header = inspect(path)
    assert (header.path, header.format, header.dtype, header.volumes) == (path, "nifti", "int16", 1)
    assert (header.modality, header.modality_evidence) == ("MR", "file name: t1w")
    assert header.geometry.shape == (7, 6, 5)
    assert header.geometry.axis_codes == "PSR"
    np.testing.assert_allclose(header.geometry.spacing, [1, 1.5, 3])
    assert (header.slice_thickness, header.acquisition_type, header.acquired) == (None, None, (None, None, None))
    assert header.warnings == ()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_versions_and_byte_orders(nifti_file: NiftiFile, version: int, endianness: str) -> None:
    path = nifti_file(version=version, endianness=endianness)
    np.testing.assert_allclose(inspect(path).geometry.affine, nibabel.load(path).affine)


def test_no_voxel_is_read(nifti_file: NiftiFile) -> None:
    """The stream may be broken after the header: only reading notices."""
    path = nifti_file("scan.nii.gz", array=np.random.default_rng(0).integers(0, 999, (40, 40, 40)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert inspect(path).geometry.shape == (40, 40, 40)


@pytest.mark.parametrize(
    ("spacing", "dim_info", "axis"),
    [
        ((1, 1, 3), 0, 2),
        ((3, 1, 1), 0, 0),
        ((1, 1.2, 1), 0, 1),
        ((1.05, 1, 1), 0, 2),
        ((2, 2, 1), 0, 2),
        ((1, 1, 1), 0b01_10_11, 0),
        ((1, 1, 1.5), 0b10_01_11, 1),
        ((1, 1, 5), 0b01_10_11, 2),
    ],
)
def test_slice_axis(nifti_file: NiftiFile, spacing: tuple[float, ...], dim_info: int, axis: int) -> None:
    """Stated; else 1.1 times coarser than both others; else k. A stated axis yields to one twice as coarse."""
    header = inspect(nifti_file(affine=np.diag([*spacing, 1]), dim_info=dim_info))
    assert header.slice_axis == axis
    assert any("dim_info" in w for w in header.warnings) == (spacing == (1, 1, 5))


def with_sidecar(path: Path, content: object) -> Path:
    path.with_name(path.name.split(".")[0] + ".json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return path


def test_sidecar(nifti_file: NiftiFile) -> None:
    """As dcm2niix writes it, for an axial scan with phase encoding along j."""
    path = with_sidecar(
        nifti_file("scan.nii.gz", affine=np.diag([1, 1, 4, 1.0])),
        {
            "Modality": "MR",
            "MRAcquisitionType": "2D",
            "SliceThickness": 3.5,
            "SpacingBetweenSlices": 4,
            "PhaseEncodingDirection": "j-",
            "AcquisitionMatrixPE": 4,
            "BaseResolution": 7,
        },
    )
    header = inspect(path)
    assert (header.modality, header.modality_evidence) == ("MR", "sidecar: Modality MR")
    assert (header.acquisition_type, header.slice_thickness) == ("2D", 3.5)
    assert header.acquired == (7, 4, None)


@pytest.mark.parametrize(
    ("fields", "dim_info", "acquired"),
    [
        ({"AcquisitionMatrixPE": 4}, 0, (None, None, None)),
        ({"AcquisitionMatrixPE": 4}, 0b11_01_10, (4, None, None)),
        ({"AcquisitionMatrixPE": 4, "InPlanePhaseEncodingDirectionDICOM": "COL"}, 0, (None, 4, None)),
        ({"AcquisitionMatrixPE": 4, "PhaseEncodingDirection": "k"}, 0, (None, None, None)),
        ({"AcquisitionMatrixPE": 99, "PhaseEncodingDirection": "j"}, 0, (None, None, None)),
        ({"AcquisitionMatrixPE": "many", "PhaseEncodingDirection": "j"}, 0, (None, None, None)),
    ],
)
def test_acquired_matrix(
    nifti_file: NiftiFile, fields: dict, dim_info: int, acquired: tuple[int | None, int | None, int | None]
) -> None:
    path = with_sidecar(nifti_file(affine=np.diag([1, 1, 4, 1.0]), dim_info=dim_info), fields)
    assert inspect(path).acquired == acquired


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\0\0", "[1, 2]", '"text"', '{"SliceThickness": -3}'])
def test_broken_sidecar_is_ignored(nifti_file: NiftiFile, content: str) -> None:
    header = inspect(with_sidecar(nifti_file(), content))
    assert header.slice_thickness is None
    assert header.geometry.shape == (7, 6, 5)


def test_mgh(tmp_path: Path) -> None:
    affine = np.array([[-1, 0, 0, 12], [0, 0, 2, -30], [0, -1.5, 0, 9], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.MGHImage(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine), tmp_path / "T1.mgz")
    header = inspect(tmp_path / "T1.mgz")
    assert (header.format, header.dtype, header.modality) == ("mgh", "int16", "MR")
    np.testing.assert_allclose(header.geometry.affine, affine, atol=1e-6)
    assert header.warnings == ()


def test_every_real_scan(data_dir: Path) -> None:
    """Shape and affine as nibabel has them, for every scan of the data set."""
    for path in sorted([*data_dir.glob("t*/*.nii.gz"), *data_dir.glob("val/*.nii.gz")]):
        header, image = inspect(path), nibabel.load(path)
        assert header.geometry.shape == image.shape, path.name
        np.testing.assert_allclose(header.geometry.affine, image.affine, atol=1e-5, err_msg=path.name)
        assert header.foreign is None, path.name
