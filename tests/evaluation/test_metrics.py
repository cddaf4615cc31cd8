from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import PSNRMetric, SSIMMetric
from scipy import ndimage
from scipy.signal import fftconvolve
from skimage.metrics import structural_similarity

from medsr.evaluation import blocks, metrics
from medsr.image.foreground import foreground


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth positive reference of values 0 to 1000 and a blurred, noisy prediction of it."""
    rng = np.random.default_rng(seed)
    reference = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    reference = 1000 * (reference - reference.min()) / np.ptp(reference)
    prediction = ndimage.gaussian_filter(reference, 0.8) + rng.normal(scale=15, size=shape)
    return reference.astype(np.float32), prediction.astype(np.float32)


def batch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))[None, None]


@pytest.mark.parametrize("shape", [(24, 31, 17), (12, 13), (40, 11, 11)])
def test_psnr_equals_monai(shape: tuple[int, ...]) -> None:
    reference, prediction = pair(shape)
    oracle = PSNRMetric(max_val=900.0)(batch(prediction), batch(reference)).item()
    assert metrics.psnr(reference, prediction, data_range=900.0) == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("shape", [(24, 31, 17), (11, 24, 25), (70, 14, 12)])
def test_ssim_3d_equals_monai(shape: tuple[int, int, int]) -> None:
    """Shape (70, ...) has three slabs, (11, ...) a single window position along the first axis."""
    reference, prediction = pair(shape)
    oracle = SSIMMetric(spatial_dims=3, data_range=900.0)(batch(prediction), batch(reference)).item()
    assert metrics.ssim_3d(reference, prediction, data_range=900.0) == pytest.approx(oracle, abs=2e-5)


@pytest.mark.parametrize("shape", [(11, 11, 11), (12, 30, 14)])
def test_ssim_3d_equals_the_formula_in_double_precision(shape: tuple[int, int, int]) -> None:
    """MONAI computes in float32, which leaves 2e-5 for a handful of windows; the formula itself holds to 1e-12."""
    x, y = (a.astype(np.float64) for a in pair(shape))
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.einsum("i,j,k->ijk", taps, taps, taps) / taps.sum() ** 3

    def mean(array: np.ndarray) -> np.ndarray:
        return fftconvolve(array, window, mode="valid")

    mx, my, c1, c2 = mean(x), mean(y), (0.01 * 900) ** 2, (0.03 * 900) ** 2
    covariance, variances = mean(x * y) - mx * my, mean(x * x) - mx**2 + mean(y * y) - my**2
    formula = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (variances + c2))
    assert metrics.ssim_3d(x, y, data_range=900.0) == pytest.approx(formula.mean(), abs=1e-11)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ssim_2d_equals_monai_slice_by_slice(axis: int) -> None:
    reference, prediction = pair((15, 22, 19))
    metric = SSIMMetric(spatial_dims=2, data_range=900.0)
    slices = zip(np.moveaxis(reference, axis, 0), np.moveaxis(prediction, axis, 0), strict=True)
    oracle = np.mean([metric(batch(p), batch(r)).item() for r, p in slices])
    assert metrics.ssim_2d(reference, prediction, data_range=900.0, axis=axis) == pytest.approx(oracle, abs=2e-5)


@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(3)), flips=st.lists(st.integers(0, 2), unique=True), seed=st.integers(0, 999))
def test_invariant_to_axis_order_and_flips(order: list[int], flips: list[int], seed: int) -> None:
    """How a file stores its axes must not change a score."""
    reference, prediction = pair((14, 29, 12), seed)
    moved = [np.flip(a, flips).transpose(order) for a in (reference, prediction)]
    for before, after in [
        (metrics.psnr_whole(reference, prediction), metrics.psnr_whole(*moved)),
        (metrics.ssim_3d(reference, prediction, data_range=1e3), metrics.ssim_3d(*moved, data_range=1e3)),
        (
            metrics.ssim_2d(reference, prediction, data_range=1e3, axis=2),
            metrics.ssim_2d(*moved, data_range=1e3, axis=order.index(2)),
        ),
    ]:
        assert before == pytest.approx(after, abs=1e-9)


def test_a_sub_voxel_shift_costs_and_costs_alike_both_ways() -> None:
    """A tenth of a voxel must be seen, more must cost more, and neither direction may be favoured."""
    reference = pair((40, 40, 20))[0].astype(np.float64)
    spectrum = np.fft.rfft(reference, axis=0)
    phase = 2j * np.pi * np.fft.rfftfreq(40)[:, None, None]

    def shifted(voxels: float) -> np.ndarray:
        return np.fft.irfft(spectrum * np.exp(-phase * voxels), n=40, axis=0)

    scores = [metrics.psnr(reference, shifted(s), data_range=1e3) for s in (0.1, 0.2, 0.5)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[1] == pytest.approx(20 * np.log10(2), abs=0.2), "small shifts: error grows linearly"
    assert metrics.psnr(reference, shifted(-0.2), data_range=1e3) == pytest.approx(scores[1], abs=1e-6)


def test_closed_form_and_mask() -> None:
    reference = np.zeros((4, 5, 6), np.int16)
    prediction = reference + np.int16(10)
    prediction[0] = 3000
    mask = np.ones(reference.shape, bool)
    mask[0] = False
    assert metrics.psnr(reference, prediction, data_range=1000, mask=mask) == pytest.approx(40.0)
    assert metrics.psnr(reference, reference, data_range=1000) == np.inf


def test_int16_does_not_overflow() -> None:
    reference = np.full((3, 3, 3), -32000, np.int16)
    prediction = np.full((3, 3, 3), 32000, np.int16)
    assert metrics.psnr(reference, prediction, data_range=64000) == pytest.approx(0.0)


def test_the_prediction_never_sets_the_range() -> None:
    reference, prediction = pair((16, 16, 16))
    wild = prediction.copy()
    wild[0, 0, 0] = 1e6
    for p in (prediction, wild):
        assert metrics.data_range(reference, "MR") == np.percentile(reference, 99.9) - reference.min()
        mse = np.mean((reference.astype(float) - p) ** 2)
        assert metrics.psnr_whole(reference, p) == pytest.approx(10 * np.log10(np.ptp(reference) ** 2 / mse), abs=1e-4)
    assert metrics.data_range(reference, "CT") == 4095


def test_thin_volumes_have_no_3d_ssim() -> None:
    reference, prediction = pair((30, 28, 7))
    with pytest.raises(ValueError, match="ssim_2d"):
        metrics.ssim_3d(reference, prediction, data_range=1e3)
    with pytest.raises(ValueError, match="slices"):
        metrics.ssim_2d(reference, prediction, data_range=1e3, axis=0)
    scores = metrics.score(reference, prediction, "MR", 2)
    assert scores.ssim_3d is None
    assert scores.ssim_2d == metrics.ssim_2d(
        reference, prediction, data_range=metrics.data_range(reference, "MR"), axis=2
    )
    assert metrics.score(reference, prediction, "MR", 0).ssim_2d is None


def test_score_is_the_single_metrics_together() -> None:
    reference, prediction = pair((26, 25, 24))
    scores = metrics.score(reference, prediction, "MR", 1)
    span = metrics.data_range(reference, "MR")
    mask = foreground(reference, "MR", 1)
    assert scores.psnr == metrics.psnr(reference, prediction, data_range=span, mask=mask)
    assert scores.ssim_3d == metrics.ssim_3d(reference, prediction, data_range=span)
    assert scores.psnr_whole == metrics.psnr_whole(reference, prediction)


@pytest.mark.parametrize(
    ("prediction", "options", "message"),
    [
        (np.zeros((4, 4, 5)), {"data_range": 1.0}, "shape"),
        (np.zeros((4, 4, 4)), {"data_range": 0.0}, "constant"),
        (np.zeros((4, 4, 4)), {"data_range": float("nan")}, "range"),
        (np.zeros((4, 4, 4)), {"data_range": 1.0, "mask": np.zeros((4, 4, 4), bool)}, "empty"),
        (np.zeros((4, 4, 4)), {"data_range": 1.0, "mask": np.ones((4, 4), bool)}, "mask has shape"),
    ],
)
def test_refusals(prediction: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.psnr(np.zeros((4, 4, 4)), prediction, **options)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(30, 14, 12), (11, 29, 40)])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (3.0, -1000.0)])
def test_ssim_equals_scikit_image(shape: tuple[int, int, int], axis: int, gain: float, offset: float) -> None:
    """Both SSIMs at once are scikit-image's, each alone, also for CT's negative numbers."""
    reference, prediction = (gain * a.astype(np.float64) + offset for a in pair(shape))

    def oracle(x: np.ndarray, y: np.ndarray) -> float:
        values = structural_similarity(
            x, y, data_range=900, gaussian_weights=True, sigma=1.5, win_size=11, use_sample_covariance=False, full=True
        )[1]
        return values[(slice(5, -5),) * x.ndim].mean()

    found = metrics.ssim(reference, prediction, data_range=900, axis=axis)
    slices = zip(np.moveaxis(reference, axis, 0), np.moveaxis(prediction, axis, 0), strict=True)
    assert found.ssim_2d == pytest.approx(np.mean([oracle(x, y) for x, y in slices]), abs=1e-9)
    assert found.ssim_3d == pytest.approx(oracle(reference, prediction), abs=1e-9)


@pytest.mark.parametrize("cores", [2, 7, 64])
def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    reference, prediction = pair((40, 20, 33))
    found = []
    for count in (1, cores):
        for module in (blocks, metrics):
            monkeypatch.setattr(module, "cores", lambda count=count: count)
        similarity = metrics.ssim(reference, prediction, data_range=1e3, axis=2)
        found.append((metrics.psnr(reference, prediction, data_range=1e3), similarity.ssim_2d, similarity.ssim_3d))
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_mean_absolute_error() -> None:
    reference, prediction = pair((40, 20, 33))
    mask = reference > 500
    error = np.abs(prediction.astype(float) - reference)
    assert metrics.mean_absolute_error(reference, prediction) == pytest.approx(error.mean())
    assert metrics.mean_absolute_error(reference, prediction, mask=mask) == pytest.approx(error[mask].mean())
    with pytest.raises(ValueError, match="empty"):
        metrics.mean_absolute_error(reference, prediction, mask=mask & False)
