"""Shifts that were made by Fourier's theorem are found again; what upscaling does to a scan is not taken for one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medsr.degradation import Degradation, interpolate, linear_mmse, parse_profile
from medsr.evaluation.registration import MISALIGNED, shift, shift_of_smoothed, smoothed
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.nifti import read
from medsr.image.volume import Volume
from medsr.protocols import protocol, simulate
from medsr.resources import sample_path

# Crops of real scans: MR 1 mm and CT 1.5 mm isotropic, CT of 2.5 mm and MR of 6.5 mm slices; and both phantoms.
SCANS = {
    "val/sctoriginal_T2w.nii.gz": (96, 96, 48),
    "val/totalseg-aorta_CT.nii.gz": (96, 96, 64),
    "val/kits-00072_abdomen_CT.nii.gz": (128, 128, 18),
    "val/btp-PGBM003_FLAIR.nii.gz": (128, 128, 22),
    "head_fine.nii.gz": (80, 80, 80),
    "trunk_ct_fine.nii.gz": (80, 80, 48),
}


@lru_cache
def crop(path: Path, size: tuple[int, int, int]) -> Volume:
    whole = read(path)
    cut = tuple(slice((n - min(n, m)) // 2, (n + min(n, m)) // 2) for n, m in zip(whole.array.shape, size, strict=True))
    array = np.ascontiguousarray(whole.array[cut])
    return Volume(array, Geometry(array.shape, whole.geometry.affine), whole.modality)


@pytest.fixture(params=SCANS)
def scan(request) -> Volume:
    name = request.param
    path = sample_path(name) if "/" not in name else request.getfixturevalue("data_dir") / name
    return crop(path, SCANS[name])


def moved(array: np.ndarray, voxels: tuple[float, float, float]) -> np.ndarray:
    """Content further on by so many voxels, by the shift theorem, mirrored at the edges."""
    padded = np.pad(array.astype(float), 8, mode="reflect")
    shifted = np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(padded), voxels)).real
    return shifted[8:-8, 8:-8, 8:-8]


def mask_of(scan: Volume) -> np.ndarray:
    return foreground(scan.array, scan.modality)


@pytest.mark.parametrize(
    "voxels", [(0.5, 0, 0), (0, -0.5, 0), (0.5, -0.5, 0.25), (0.1, 0, 0), (1.5, 0, 0), (0, 4.3, 0)]
)
def test_a_shift_is_found(scan, voxels):
    assert shift(scan.array, moved(scan.array, voxels), mask=mask_of(scan)) == pytest.approx(voxels, abs=0.02)


@pytest.mark.parametrize("voxels", [(0, 0, 0), (0, 0.5, 0)])
def test_blur_noise_and_contrast_are_no_shift(scan, voxels):
    """Beside a shift they leave it as it was; without one, a blur alone leaves nothing."""
    mask, rng = mask_of(scan), np.random.default_rng(0)
    noise = rng.normal(scale=0.03 * np.ptp(np.percentile(scan.array, [1, 99])), size=scan.array.shape)
    blurred = moved(ndimage.gaussian_filter(scan.array, 1.0), voxels)
    assert shift(scan.array, blurred, mask=mask) == pytest.approx(voxels, abs=0.015)
    assert shift(scan.array, 0.9 * blurred + noise + 50, mask=mask) == pytest.approx(voxels, abs=0.04)


def upscaled(scan: Volume, name: str) -> dict[str, np.ndarray]:
    """The scan degraded by a protocol and brought back by classical methods, as a user's scan would be."""
    named = protocol(name)
    low = simulate(scan, named, torch.Generator().manual_seed(0), slice_axis=2)
    y, source, target = torch.from_numpy(low.array), low.geometry, scan.geometry
    A = Degradation.between(target, source, [parse_profile(named.profile)] * 3)
    return {
        "cubic": interpolate(y, source, target, "cubic").numpy(),
        "linear": interpolate(y, source, target, "linear").numpy(),
        "zero-fill": Degradation.between(target, source, [("sinc", 1.0)] * 3).pinv(y).numpy(),
        "linear MMSE": linear_mmse(y, A, 0.01).numpy(),
    }


@pytest.mark.parametrize("name", ["inplane-x4", "slice-x4", "blind-x2"])
def test_upscaled_scans_are_not_flagged(scan, name):
    if name == "slice-x4" and scan.array.shape[2] < 48:
        pytest.skip("fewer than twelve coarse slices")
    for method, image in upscaled(scan, name).items():
        assert max(map(abs, shift(scan.array, image, mask=mask_of(scan)))) < MISALIGNED / 2, method


def test_an_origin_off_by_half_a_coarse_voxel_is_flagged(scan):
    """The common fault: the centre of the first fine voxel laid on that of the first coarse one."""
    low = simulate(scan, protocol("inplane-x2"), torch.Generator(), slice_axis=2)
    affine = low.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.affine[:3, 3]
    wrong = interpolate(torch.from_numpy(low.array), Geometry(low.array.shape, affine), scan.geometry, "cubic").numpy()
    assert shift(scan.array, wrong, mask=mask_of(scan)) == pytest.approx((-0.5, -0.5, 0), abs=0.05)


@settings(max_examples=8)
@given(order=st.permutations(range(3)), flips=st.lists(st.integers(0, 2), unique=True))
def test_follows_axis_order_and_flips(order, flips):
    scan = crop(sample_path("head_fine.nii.gz"), (40, 48, 44))
    pair = scan.array, moved(scan.array, (0.3, -0.4, 0.1))
    found = np.array(shift(*pair, mask=mask_of(scan)))
    turned = [np.flip(a, flips).transpose(order) for a in (*pair, mask_of(scan))]
    signs = np.array([-1 if a in flips else 1 for a in range(3)])
    assert shift(*turned[:2], mask=turned[2]) == pytest.approx((signs * found)[order], abs=2e-5)  # float32


def test_smoothing_is_scipys():
    array = np.random.default_rng(0).normal(size=(30, 20, 25)).astype(np.float32)
    oracle = ndimage.gaussian_filter(array.astype(float), 3.0, truncate=3.0, mode="nearest")
    np.testing.assert_allclose(smoothed(array), oracle, atol=1e-5)
    thin = np.random.default_rng(0).normal(size=(7, 20, 25)).astype(np.float32)
    oracle = ndimage.gaussian_filter(thin.astype(float), (0, 3.0, 3.0), truncate=3.0, mode="nearest")
    np.testing.assert_allclose(smoothed(thin), oracle, atol=1e-5)


def test_an_axis_that_tells_nothing_has_shift_zero():
    """Few slices, and slices that are all alike."""
    scan = crop(sample_path("head_fine.nii.gz"), (80, 80, 80))
    for thin in (scan.array[:, :, 40:48], np.repeat(scan.array[:, :, 40:41], 30, axis=2)):
        found = shift(thin, moved(thin, (0.5, 0, 0)), mask=np.ones(thin.shape, bool))
        assert found == pytest.approx((0.5, 0, 0), abs=0.02)


def test_refusals():
    array, mask = np.random.default_rng(0).normal(size=(20, 20, 20)), np.ones((20, 20, 20), bool)
    with pytest.raises(ValueError, match="one shape"):
        shift(array, array[1:], mask=mask)
    with pytest.raises(ValueError, match="too small"):
        shift(array[:9, :9, :9], array[:9, :9, :9], mask=mask[:9, :9, :9])
    with pytest.raises(ValueError, match="too few"):
        shift(array, array, mask=mask & False)
    with pytest.raises(ValueError, match="flat"):
        shift_of_smoothed(np.ones((20, 20, 20), np.float32), np.ones((20, 20, 20), np.float32), mask=mask)
