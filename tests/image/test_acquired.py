"""Zero-filling is found where it is beyond doubt, never on a scan that is not zero-filled, and undone exactly."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from medsr.degradation import make_axis
from medsr.image.acquired import acquired_matrix, confirmed, crop_k_space, crop_rows, falloff
from medsr.image.geometry import Geometry
from medsr.image.volume import Volume


def zero_filled(array: np.ndarray, axis: int, stored: int) -> np.ndarray:
    """Complex image whose k-space along ``axis`` is padded with zeros to ``stored`` samples."""
    spectrum = np.fft.fftshift(np.fft.fft(array, axis=axis), axes=axis)
    pad = [(0, 0)] * array.ndim
    low = stored // 2 - array.shape[axis] // 2
    pad[axis] = (low, stored - array.shape[axis] - low)
    spectrum = np.fft.ifftshift(np.pad(spectrum, pad), axes=axis)
    return np.fft.ifft(spectrum, axis=axis) * stored / array.shape[axis]


def anatomy(shape: tuple[int, int, int], seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """Complex image of random ellipsoids in one large one, in air, with complex noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), axis=-1)
    image = 400.0 * (np.square(grid / 0.9).sum(-1) < 1.0)
    for _ in range(60):
        centre, radius = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.03, 0.25, 3)
        image = image + rng.uniform(-40, 40) * (np.square((grid - centre) / radius).sum(-1) < 1.0)
    return image + noise * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


@pytest.mark.parametrize("noise", [0.0, 8.0])
@pytest.mark.parametrize(("acquired", "stored"), [(80, 160), (110, 144), (81, 128), (80, 113)])
def test_finds_the_edge(acquired, stored, noise):
    image = np.abs(zero_filled(anatomy((acquired, 60, 24), noise=noise), 0, stored)).astype(np.float32)
    found = acquired_matrix(image)
    assert found[1:] == (None, None)
    assert found[0] is not None
    assert acquired - 2 <= found[0] <= acquired + 0.07 * stored
    assert confirmed(image, 0, acquired)


def test_finds_the_edge_of_a_rounded_and_cropped_scan():
    image = np.abs(zero_filled(zero_filled(anatomy((100, 90, 20), noise=4), 0, 200), 1, 180))
    image = np.round(image)[20:190, 11:160].astype(np.float32)
    assert acquired_matrix(image)[:2] == (85, 75)


@pytest.mark.parametrize("noise", [0.0, 2.0, 20.0])
def test_no_false_alarm_on_noise_blur_and_edges(noise):
    image = np.abs(anatomy((96, 80, 56), noise=noise)).astype(np.float32)
    assert acquired_matrix(image) == (None, None, None)
    blurred = gaussian_filter(image, 0.6).astype(np.float32)
    assert acquired_matrix(blurred) == (None, None, None)
    assert acquired_matrix(np.full((64, 64, 64), 3, np.float32)) == (None, None, None)
    assert acquired_matrix(np.zeros((64, 64, 64), np.float32)) == (None, None, None)


# Truly sampled along both in-plane axes by the matrix in their DICOM header, or isotropic 3-D scans.
SAMPLED = [
    "train/uih-vol-a_T1w-k2.nii.gz",
    "train/studyforrest-02_T1w.nii.gz",
    "train/prostatex0000_T2w-tra.nii.gz",
    "train/papaya_brain_PDw.nii.gz",
    "train/larsonlab-rat985_body_bSSFP.nii.gz",
    "train/rorden-lab_T2w.nii.gz",
    "val/sctoriginal_T2w.nii.gz",
    "val/scttest_T1w.nii.gz",
    "val/scttest_T2star.nii.gz",
]


@pytest.mark.parametrize("name", SAMPLED)
def test_no_false_alarm_on_real_scans(data_dir, name):
    image = np.asarray(nibabel.load(data_dir / name).dataobj, dtype=np.float32)
    assert acquired_matrix(image) == (None, None, None)


def test_finds_a_zero_filled_phase_axis(data_dir):
    """192 of 256 lines were acquired along y, says the DICOM header; cropping the volume kept the fraction."""
    image = np.asarray(nibabel.load(data_dir / "train/larsonlab-tramp1325_body_T2w.nii.gz").dataobj, dtype=np.float32)
    found = acquired_matrix(image)
    assert found[0] is None
    assert found[1] == pytest.approx(0.75 * image.shape[1], abs=0.05 * image.shape[1])


def test_a_tag_of_another_grid_is_not_confirmed():
    image = np.abs(anatomy((128, 60, 24), noise=4)).astype(np.float32)
    assert not confirmed(image, 0, 64)
    assert confirmed(np.abs(anatomy((30, 60, 24))).astype(np.float32), 0, 20), "too short to judge: the tag is believed"


@pytest.mark.parametrize("sigma", [0.0, 0.4, 0.8])
def test_falloff_is_that_of_the_blur(sigma):
    """White noise through a Gaussian has power exp(-(2 pi f sigma)^2); the axis beside it stays white."""
    noisy = np.random.default_rng(1).normal(1000, 100, (96, 96, 64)).astype(np.float32)
    transfer = np.exp(-((2 * np.pi * np.fft.fftfreq(96) * sigma) ** 2) / 2)[:, None]
    blurred = np.fft.ifft(np.fft.fft(noisy, axis=1) * transfer, axis=1).real
    frequency = np.linspace(0, 0.5, 33)
    power = np.exp(-((2 * np.pi * frequency * sigma) ** 2))
    fine, middle = power[frequency >= 0.42].mean(), power[(frequency >= 0.17) & (frequency <= 0.25)].mean()
    assert falloff(blurred, 1) == pytest.approx(np.log10(fine / middle), abs=0.1)
    assert falloff(blurred, 0) == pytest.approx(0, abs=0.1)
    assert falloff(noisy[:40], 0) is None


def test_crop_of_a_zero_filled_scan_gives_back_the_acquired_band():
    """Zero-filling keeps sample 0 in place, the crop keeps the field of view: the same signal, elsewhere sampled."""
    acquired, stored = 48, 96
    rng = np.random.default_rng(1)
    amplitude, phase = rng.uniform(-8, 8, 23), rng.uniform(0, 6, 23)

    def signal(at: np.ndarray) -> np.ndarray:
        """Continuous, with every frequency below Nyquist of the acquired samples; ``at`` in their indices."""
        waves = np.cos(2 * np.pi * np.outer(at, np.arange(1, 24)) / acquired + phase)
        return 300 + waves @ amplitude

    x = np.arange(acquired)
    line = signal(x)[:, None, None] * np.ones((1, 3, 2))
    filled = zero_filled(line, 0, stored).real
    scan = Volume(filled.astype(np.float32), Geometry(filled.shape, np.eye(4)), "MR")
    cropped = crop_k_space(scan, scan.geometry.with_shape((acquired, 3, 2)))
    where = cropped.geometry.affine[0, 0] * x + cropped.geometry.affine[0, 3]  # stored index of each sample
    np.testing.assert_allclose(cropped.array[:, 0, 0], signal(where * acquired / stored), rtol=1e-5)
    assert cropped.provenance.steps[-1]["acquired"] == [acquired, 3, 2]


@given(stored=st.integers(4, 80), data=st.data())
def test_rows_are_orthogonal_and_keep_constants(stored, data):
    acquired = data.draw(st.integers(2, stored))
    rows = crop_rows(stored, acquired)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-9)
    if acquired % 2:
        np.testing.assert_allclose(rows @ rows.T, np.eye(acquired) * acquired / stored, atol=1e-9)


@pytest.mark.parametrize(("stored", "acquired"), [(96, 48), (101, 64), (60, 45), (33, 33)])
def test_rows_are_those_of_the_degradation(stored, acquired):
    ratio = stored / acquired
    axis = make_axis(stored, acquired, (ratio - 1) / 2, ratio, "sinc", 1.0)
    np.testing.assert_allclose(crop_rows(stored, acquired), axis.matrix.numpy(), atol=1e-9)
