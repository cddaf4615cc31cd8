"""The noise of a scan against noise that was put there, and the ceiling against the PSNR of the truth itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medsr.evaluation.metrics import psnr
from medsr.evaluation.noise import noise_ceiling, noise_level


def everywhere(array: np.ndarray) -> np.ndarray:
    return np.ones(array.shape, bool)


def smooth(shape=(96, 80, 12)) -> np.ndarray:
    return 3000 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), (8, 8, 1))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("sd", [2.0, 30.0])
def test_white_noise_is_found(sd, slice_axis):
    noisy = np.moveaxis(smooth(), 2, slice_axis)
    noisy = noisy + np.random.default_rng(1).normal(scale=sd, size=noisy.shape)
    assert noise_level(noisy, mask=everywhere(noisy), slice_axis=slice_axis) == pytest.approx(sd, rel=0.08)


def test_the_truth_reaches_the_ceiling():
    truth = smooth()
    noisy = truth + np.random.default_rng(1).normal(scale=12, size=truth.shape)
    mask = everywhere(truth)
    ceiling = noise_ceiling(noisy, mask=mask, slice_axis=2, data_range=1000)
    assert psnr(noisy, truth, data_range=1000, mask=mask) == pytest.approx(ceiling, abs=0.5)


def test_only_blocks_inside_the_mask_count():
    """Air without noise around a noisy body would otherwise be the quietest."""
    noisy = smooth() + np.random.default_rng(1).normal(scale=20, size=(96, 80, 12))
    mask = np.zeros(noisy.shape, bool)
    mask[30:70, 20:60] = True
    noisy[~mask] = 0
    assert noise_level(noisy, mask=mask, slice_axis=2) == pytest.approx(20, rel=0.1)
    assert noise_level(noisy, mask=everywhere(noisy), slice_axis=2) == 0


def test_coarse_structure_is_no_noise():
    steps = np.zeros((90, 90, 4))
    steps[30:] += 400
    steps[:, 45:] += 700
    noisy = steps + np.random.default_rng(2).normal(scale=5, size=steps.shape)
    assert noise_level(noisy, mask=everywhere(noisy), slice_axis=2) == pytest.approx(5, rel=0.1)


def test_nothing_to_measure():
    flat = np.ones((32, 32, 4))
    assert noise_ceiling(flat, mask=everywhere(flat), slice_axis=2, data_range=1.0) is None
    assert noise_level(flat, mask=everywhere(flat) & False, slice_axis=2) is None
    thin = np.ones((5, 32, 4))
    assert noise_level(thin, mask=everywhere(thin), slice_axis=2) is None


def test_it_is_what_the_network_is_told(tmp_path):
    """One definition in two places: that of the training is written for tensors."""
    torch = pytest.importorskip("torch")
    from medsr.diffusion.conditions import estimate_noise

    noisy = 0.5 + 0.001 * smooth((60, 61, 5)) + np.random.default_rng(4).normal(scale=0.02, size=(60, 61, 5))
    noisy = np.clip(noisy, 0.1, None)
    y = torch.from_numpy(noisy).movedim(2, 0)[None]
    oracle = float(estimate_noise(y, torch.ones(1, 1, 60, 61, dtype=torch.float64)))
    assert noise_level(noisy, mask=noisy > 0.08, slice_axis=2) == pytest.approx(oracle, rel=1e-6)
