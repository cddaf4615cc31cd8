from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medsr.image.dicom_read import inspect, read
from medsr.image.geometry import Geometry
from tests.image.dicom_judges import complaints, needs_judges

FOLDER = Path(__file__).parent.parent / "sample_data"
PAIRS = [("head_fine", "head_coarse"), ("head_fine", "head_thick"), ("trunk_ct_fine", "trunk_ct_coarse")]
NAMES = sorted({name for pair in PAIRS for name in pair})


@pytest.fixture(scope="module")
def phantoms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_phantoms", FOLDER / "make_phantoms.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load(name: str) -> tuple[np.ndarray, Geometry]:
    image = nib.load(FOLDER / f"{name}.nii.gz")
    return np.asarray(image.dataobj, dtype=np.float64), Geometry(image.shape, image.affine)


def box_averaged(fine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Means over blocks of fine voxels; symmetric, so it shifts nothing."""
    (i, fi), (j, fj), (k, fk) = ((n, m // n) for n, m in zip(shape, fine.shape, strict=True))
    return fine.reshape(i, fi, j, fj, k, fk).mean((1, 3, 5))


def shift(moved: np.ndarray, still: np.ndarray) -> np.ndarray:
    """Least-squares translation of ``moved`` against ``still`` in voxels (Lucas and Kanade 1981)."""
    inner = (slice(2, -2),) * 3
    gradient = np.stack([g[inner].ravel() for g in np.gradient(still)], axis=1)
    difference = (still - moved)[inner].ravel()
    return np.linalg.lstsq(gradient, difference, rcond=None)[0]


@pytest.mark.parametrize("scans", ["head_scans", "trunk_scans"])
def test_the_script_makes_the_files(phantoms: ModuleType, scans: str) -> None:
    """Rounding may differ between machines for a voxel in a thousand, and nothing more."""
    for name, made in getattr(phantoms, scans)().items():
        kept = nib.load(FOLDER / f"{name}.nii.gz")
        np.testing.assert_array_equal(made.affine, kept.affine)
        assert made.shape == kept.shape
        differing = np.asarray(made.dataobj) != np.asarray(kept.dataobj)
        assert differing.mean() < 1e-3, name


@pytest.mark.parametrize("name", NAMES)
def test_headers(name: str) -> None:
    image = nib.load(FOLDER / f"{name}.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header["sform_code"] > 0
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)


def test_the_folder_stays_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.glob("*.nii.gz")) < 4.2e6


@pytest.mark.parametrize(("fine", "coarse"), PAIRS)
def test_one_field_of_view(fine: str, coarse: str) -> None:
    (_, a), (_, b) = load(fine), load(coarse)
    assert b.same_grid(a.with_shape(b.shape), tolerance_mm=1e-4)


@pytest.mark.parametrize(("fine", "coarse"), PAIRS)
def test_coarse_scans_are_not_shifted(fine: str, coarse: str) -> None:
    (x, _), (y, _) = load(fine), load(coarse)
    averaged = box_averaged(x, y.shape)
    assert np.abs(shift(y, averaged)).max() < 0.03
    moved = 0.8 * y + 0.2 * np.roll(y, 1, axis=0)
    assert shift(moved, averaged)[0] > 0.1, "the measure sees a fifth of a voxel"


@pytest.mark.parametrize(("fine", "coarse"), PAIRS)
def test_coarse_scans_show_the_same_object(fine: str, coarse: str) -> None:
    (x, _), (y, _) = load(fine), load(coarse)
    averaged = box_averaged(x, y.shape)
    assert np.corrcoef(averaged.ravel(), y.ravel())[0, 1] > 0.985
    assert y.mean() == pytest.approx(averaged.mean(), abs=0.005 * np.ptp(averaged))


def test_ct_is_in_hounsfield_units() -> None:
    voxels = load("trunk_ct_fine")[0]
    assert voxels.min() >= -1024
    assert np.median(voxels[:8, :8]) == pytest.approx(-1000, abs=3)
    assert voxels.max() > 600, "cortical bone"


def test_anatomy_is_the_same_at_any_resolution(phantoms: ModuleType) -> None:
    """A grid twice as fine, averaged, is the coarser grid: anatomy depends on position alone."""
    truth = phantoms.trunk(2)
    fine = phantoms.Scan((24, 20, 12), (1.0, 1.0, 1.0), (-30.0, 10.0, 5.0), (0, 0, 0))
    coarse = phantoms.Scan((12, 10, 6), (2.0, 2.0, 2.0), (-30.0, 10.0, 5.0), (0, 0, 0))
    detailed = phantoms.acquire(truth, [fine], oversampling=2)[0]
    plain = phantoms.acquire(truth, [coarse], oversampling=4)[0]
    np.testing.assert_allclose(box_averaged(detailed, plain.shape), plain, atol=0.5)


@pytest.fixture(scope="module")
def dicom_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dicom", FOLDER / "make_dicom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_the_dicom_series(dicom_maker: ModuleType, tmp_path: Path) -> None:
    dicom_maker.main(tmp_path)
    kept = sorted((FOLDER / "head_dicom").iterdir())
    assert [p.name for p in kept] == sorted(p.name for p in (tmp_path / "head_dicom").iterdir())
    assert len(kept) == 12
    for path in kept:
        assert (tmp_path / "head_dicom" / path.name).read_bytes() == path.read_bytes(), path.name
    assert sum(p.stat().st_size for p in kept) < 150e3


def test_the_dicom_series_shows_the_thick_scan() -> None:
    """Every voxel is the mean of four of the NIfTI scan around the same place in the patient."""
    volume = read(inspect(FOLDER / "head_dicom"))
    assert volume.modality == "MR"
    voxels, geometry = load("head_thick")
    i, j, k = np.indices(volume.array.shape).reshape(3, -1)
    ras = volume.geometry.affine @ np.stack([i, j, k, np.ones(i.size)])
    index = (np.linalg.inv(geometry.affine) @ ras)[:3]
    low = np.floor(index + 1e-3).astype(int)
    np.testing.assert_allclose(index - low, np.broadcast_to([[0.5], [0.5], [0]], index.shape), atol=1e-4)
    mean = np.mean([voxels[low[0] + a, low[1] + b, low[2]] for a in (0, 1) for b in (0, 1)], axis=0)
    np.testing.assert_allclose(volume.array.reshape(-1), mean, atol=0.51)


@needs_judges
def test_the_dicom_series_is_valid(tmp_path: Path) -> None:
    volume = read(inspect(FOLDER / "head_dicom"))
    assert complaints(FOLDER / "head_dicom", [volume], None, tmp_path) == []
