"""What the network is told: noise, roughness and gradient measured as they are defined, sample by sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medsr.degradation import CORRELATION
from medsr.diffusion.conditions import (
    DETAIL_SIGMA,
    FEATURES,
    FOREGROUND,
    SMALLEST_RESIDUAL,
    TOLD_KINDS,
    ScanStatistics,
    condition_vector,
    estimate_noise,
    fine_detail,
    gradient_rms,
    log_roughness,
    noise_over_signal,
    residual_features,
    residual_scale,
    slice_correlation,
)


def noise(shape, sd=1.0, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, sd, shape)).float()


def smooth(size=120, batch=1) -> torch.Tensor:
    """A bright disc of slowly varying tissue on air, with a soft edge."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    tissue = 0.6 + 0.2 * torch.sin(3 * x) * torch.cos(2 * y)
    return (tissue * torch.sigmoid((0.8 - torch.hypot(x, y)) * 40)).expand(batch, 1, size, size).contiguous()


def edged() -> torch.Tensor:
    """Flat regions with sharp edges between them."""
    image = torch.zeros(1, 1, 128, 128)
    for top in range(8, 120, 28):
        for left in range(8, 120, 28):
            image[..., top : top + 26, left : left + 26] = 0.3 + 0.02 * ((top * 7 + left) % 29)
    return image


@pytest.mark.parametrize("sd", [0.003, 0.01, 0.03])
@pytest.mark.parametrize("shape", [(1, 1, 144, 144), (1, 8, 60, 90)])
def test_noise_of_white_noise(sd, shape):
    y = 0.5 + noise(shape, sd)
    found = estimate_noise(y, torch.ones_like(y))
    assert found.item() == pytest.approx(sd, rel=0.1)


@pytest.mark.parametrize("sd", [0.005, 0.02])
def test_noise_is_found_beside_anatomy(sd):
    for clean in (smooth(), edged()):
        y = clean + noise(clean.shape, sd)
        assert estimate_noise(y, torch.ones_like(y)).item() == pytest.approx(sd, rel=0.2)


def test_a_smooth_scan_has_no_noise():
    y = smooth()
    assert estimate_noise(y, torch.ones_like(y)).item() < 3e-4


def test_without_a_whole_block_of_tissue_the_noise_is_zero():
    y = noise((2, 1, 40, 40), 0.01)  # air alone
    assert estimate_noise(y, torch.ones_like(y)).tolist() == [0.0, 0.0]
    assert estimate_noise(torch.rand(1, 1, 6, 30) + 1, torch.ones(1, 1, 6, 30)).item() == 0.0
    y = 0.5 + noise((1, 1, 40, 40), 0.01)
    assert estimate_noise(y, torch.zeros_like(y)).item() == 0.0


def test_what_is_not_valid_does_not_count_as_noise():
    y = 0.5 + noise((1, 1, 96, 96), 0.01)
    valid = torch.ones_like(y)
    valid[..., 48:, :] = 0
    padded = torch.where(valid > 0, y, torch.zeros_like(y))
    assert estimate_noise(padded, valid).item() == pytest.approx(0.01, rel=0.15)


def test_roughness_of_white_noise_is_ln_3():
    """Second differences of white noise have variance 6, first differences 2."""
    y = noise((2, 2, 200, 200))
    assert log_roughness(y, torch.ones(2, 1, 200, 200)).flatten().tolist() == pytest.approx([math.log(3)] * 4, abs=0.03)


def test_roughness_of_a_smooth_scan_is_low_along_the_smooth_axis_alone():
    wave = torch.sin(torch.arange(128) * 2 * math.pi / 32)
    rough = noise((128,), 0.3)
    y = (wave[:, None] + rough[None, :])[None, None]
    first, second = log_roughness(y, torch.ones_like(y))[0].tolist()
    # a wave of period p: ratio (2 sin(pi / p))^2
    assert first == pytest.approx(2 * math.log(2 * math.sin(math.pi / 32)), abs=0.05)
    assert second == pytest.approx(math.log(3), abs=0.3)


def test_gradient_is_the_root_mean_square_of_first_differences():
    x = torch.arange(12.0)[:, None] * 0.3 + torch.arange(9.0)[None, :] * 0.4
    x = x.expand(1, 2, 12, 9)
    assert gradient_rms(x, torch.ones(1, 1, 12, 9)).item() == pytest.approx(math.sqrt((0.09 + 0.16) / 2), rel=1e-5)
    masked = torch.zeros(1, 1, 12, 9)
    masked[..., :5, :] = 1
    torn = x.clone()
    torn[..., 5:, :] = 99
    assert gradient_rms(torn, masked).item() == pytest.approx(math.sqrt((0.09 + 0.16) / 2), rel=1e-5)


def test_gradient_counts_masks_of_one_and_of_every_slice_alike():
    x = noise((2, 3, 20, 20))
    mask = (noise((2, 1, 20, 20), seed=1) > 0).float()
    torch.testing.assert_close(gradient_rms(x, mask), gradient_rms(x, mask.expand(-1, 3, -1, -1).contiguous()))


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_noise_over_signal_of_the_assumed_prior(factor):
    """A first-order process of known variance, with known noise: lambda is their ratio."""
    step, sd, n = int(factor), 0.2, 4096
    rng = np.random.default_rng(1)
    process = np.zeros((64, n))
    process[:, 0] = rng.normal(size=64)
    for i in range(1, n):
        process[:, i] = CORRELATION * process[:, i - 1] + math.sqrt(1 - CORRELATION**2) * rng.normal(size=64)
    y = process[:, ::step] + sd * rng.normal(size=(64, n // step))
    image = torch.from_numpy(y).float()[None, None]
    ratio = noise_over_signal(image, torch.ones_like(image), torch.tensor([sd]), torch.tensor([[1.0, factor]]))
    assert ratio[0, 1].item() == pytest.approx(sd**2, rel=0.1)


def test_noise_over_signal_stays_in_its_bounds():
    y = noise((1, 1, 30, 30))
    factors = torch.tensor([[2.0, 3.0]])
    assert noise_over_signal(y, torch.ones_like(y), torch.tensor([0.0]), factors).tolist() == [
        pytest.approx([1e-4, 1e-4])
    ]
    assert noise_over_signal(y, torch.ones_like(y), torch.tensor([9.0]), factors).max().item() <= 1.0


def test_every_statistic_is_of_its_own_sample():
    """The same whatever else is in the batch: training measures sixteen at once, inference one."""
    y = torch.cat(
        [smooth(64) + noise((1, 1, 64, 64), 0.01), 0.4 + noise((1, 1, 64, 64), 0.03, 1), edged()[..., :64, :64]]
    )
    valid = torch.ones_like(y)
    valid[1, :, 50:] = 0
    foreground = valid * (y > FOREGROUND)
    factors = torch.tensor([[2.0, 2.0], [1.0, 4.0], [3.0, 1.0]])
    noises = estimate_noise(y, valid)

    def measured(pick: list[int]) -> list[torch.Tensor]:
        return [
            estimate_noise(y[pick], valid[pick]),
            log_roughness(y[pick], foreground[pick]),
            gradient_rms(y[pick], foreground[pick]),
            noise_over_signal(y[pick], foreground[pick], noises[pick], factors[pick]),
        ]

    whole, turned = measured([0, 1, 2]), measured([2, 0, 1])
    for i, position in enumerate((1, 2, 0)):
        for a, b, c in zip(whole, measured([i]), turned, strict=True):
            torch.testing.assert_close(a[i], b[0])
            torch.testing.assert_close(a[i], c[position])


def conditions(n=3, factors=None, kinds=None, widths=None, seed=0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    statistics = ScanStatistics(
        torch.from_numpy(rng.uniform(0, 0.03, n)).float(),
        torch.from_numpy(rng.uniform(-3, 1, (n, 2))).float(),
        torch.from_numpy(rng.uniform(0.01, 0.2, n)).float(),
    )
    return condition_vector(
        torch.from_numpy(rng.uniform(1, 6, (n, 2))).float() if factors is None else factors,
        torch.from_numpy(rng.integers(0, 3, (n, 2))) if kinds is None else kinds,
        torch.from_numpy(rng.uniform(0.6, 1.4, (n, 2))).float() if widths is None else widths,
        torch.tensor([0.0, 1.0, 0.0])[:n],
        torch.tensor([1.0, 0.0, 0.0])[:n],
        torch.from_numpy(rng.uniform(0.3, 10, n)).float(),
        statistics,
    )


def test_conditions_are_of_order_one():
    made = conditions()
    assert made.shape == (3, FEATURES)
    assert torch.isfinite(made).all()
    assert made.abs().max() < 5


def test_what_is_said_of_an_axis_that_is_not_scaled_does_not_matter():
    factors = torch.tensor([[1.0, 2.0]] * 3)
    one = conditions(factors=factors, kinds=torch.tensor([[0, 1]] * 3), widths=torch.tensor([[1.0, 1.2]] * 3))
    other = conditions(factors=factors, kinds=torch.tensor([[2, 1]] * 3), widths=torch.tensor([[0.7, 1.2]] * 3))
    torch.testing.assert_close(one, other)


def test_kinds_and_widths_are_told_apart():
    factors = torch.full((3, 2), 2.0)
    kinds = torch.tensor([[0, 0], [1, 1], [2, 2]])
    made = conditions(factors=factors, kinds=kinds, widths=torch.full((3, 2), 1.3))
    assert len({tuple(row) for row in made[:, 2:8].tolist()}) == len(TOLD_KINDS)
    wider = conditions(factors=factors, kinds=kinds, widths=torch.full((3, 2), 1.4))
    changed = (made != wider).any(1).tolist()
    assert changed == [False, True, True]  # a crop of k-space has no width


@given(scale=st.floats(-5, 2.5))
def test_residual_scale_is_log_linear(scale):
    """The first regressor is constant: with it alone the scale is exp of its coefficient, for every sample."""
    made = conditions()
    coefficients = (scale,) + (0.0,) * (residual_features(made).shape[1] - 1)
    gradient = torch.tensor([0.1, 1.0, 2.0])
    expected = [math.exp(scale) * g for g in gradient.tolist()]
    assert residual_scale(gradient, made, coefficients).tolist() == pytest.approx(expected, rel=1e-5)


def test_residual_scale_is_bounded():
    """Far from anything seen in training the prediction must not run away, nor vanish where a slice is flat."""
    coefficients = (50.0,) + (0.0,) * (residual_features(conditions()).shape[1] - 1)
    one = torch.ones(3)
    assert residual_scale(one, conditions(), coefficients).max().item() == pytest.approx(math.exp(3), rel=1e-5)
    assert residual_scale(1e-9 * one, conditions(), coefficients).tolist() == pytest.approx([SMALLEST_RESIDUAL] * 3)


def test_fine_detail_is_what_a_gaussian_takes_away():
    """Against scipy: the same standard deviation and reach, edges repeated."""
    u = torch.randn(1, 1, 30, 24)
    smooth = ndimage.gaussian_filter(u[0, 0].numpy(), DETAIL_SIGMA, mode="nearest", radius=6)
    np.testing.assert_allclose(fine_detail(u)[0, 0], u[0, 0].numpy() - smooth, atol=1e-5)


@given(shared=st.floats(0, 1), seed=st.integers(0, 50))
@settings(max_examples=10)
def test_slice_correlation_is_the_share_of_common_detail(shared, seed):
    """Detail in common of variance ``shared`` beside detail of their own of the rest, on tissue."""
    common, own = noise((1, 128, 128), seed=seed), noise((7, 128, 128), seed=seed + 1000)
    u = 10 + math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    assert slice_correlation(u) == pytest.approx(min(shared, 0.98), abs=0.03)
    assert slice_correlation(u[:1]) == 0
    assert slice_correlation(u - 10.0 - 1e3) == 0  # air
