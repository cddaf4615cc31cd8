"""Real series of many vendors: what medsr reads is what dcm2niix reads, in place and in value."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr.image.dicom_read import Scan, find_series, inspect_series, read_scan
from tests.conftest import IN_CI

DCM2NIIX = shutil.which("dcm2niix")
if DCM2NIIX is None and IN_CI:
    raise RuntimeError("dcm2niix is missing: apt-get install dcm2niix")
needs_dcm2niix = pytest.mark.skipif(DCM2NIIX is None, reason="no dcm2niix")

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
    command = [str(DCM2NIIX), "-z", "n", "-b", "n", "-p", "n", "-f", "%s_%d", *options, "-o", str(folder), str(source)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False)
    return sorted(folder.glob("*.nii"))


def on_grid_of(scan: Scan, image: nibabel.Nifti1Image) -> np.ndarray | None:
    """An image's voxels in the axis order of a scan, or None when its voxels lie elsewhere (1e-3 mm at any corner)."""
    geometry = scan.volume.geometry
    relative = np.linalg.inv(geometry.affine) @ image.affine
    order = np.argmax(np.abs(relative[:3, :3]), axis=0)
    if sorted(order) != [0, 1, 2] or tuple(np.array(geometry.shape)[order]) != image.shape[:3]:
        return None
    signs = np.sign(relative[order, range(3)])
    exact = np.zeros((4, 4))
    exact[order, range(3)] = signs
    exact[:3, 3] = [0 if signs[list(order).index(a)] > 0 else geometry.shape[a] - 1 for a in range(3)]
    exact[3, 3] = 1
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]], [1], indexing="ij")).reshape(4, -1)
    away = ((geometry.affine @ exact - image.affine) @ corners)[:3]
    if np.abs(away).max() > 1e-3:
        return None
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    voxels = voxels[tuple(slice(None, None, int(s)) for s in signs)]
    return np.moveaxis(voxels, range(3), order)


def assert_as(scan: Scan, index: int, images: list[Path]) -> None:
    candidates = []
    for path in images:
        image = nibabel.load(path)
        voxels = on_grid_of(scan, image)
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
    for series in find_series(source):
        header = inspect_series(series)
        modality = header.modality if header.foreign else None
        for index in range(header.volumes):
            assert_as(read_scan(header, volume=index, modality=modality), index, images)
