"""Preconditioning, and the images that the slice networks see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import FEATURES, fine_detail
from medsr.diffusion.denoiser import (
    denoise_slices,
    edm_weight,
    log_normal_sigma,
    mean_and_variance,
    mean_images,
    precondition,
)
from medsr.diffusion.network import SliceNetwork, VarianceHead, mean_channels, sampler_channels

SIGMAS = torch.logspace(-2.5, 1.3, 30, dtype=torch.float64)
TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)


def test_preconditioning_is_table_1_of_edm():
    """With sigma_data = 1: c_skip, c_out, c_in, c_noise of Karras et al. 2022."""
    data = 1.0
    c_skip, c_out, c_in, c_noise = precondition(SIGMAS)
    torch.testing.assert_close(c_skip, data**2 / (SIGMAS**2 + data**2))
    torch.testing.assert_close(c_out, SIGMAS * data / (data**2 + SIGMAS**2).sqrt())
    torch.testing.assert_close(c_in, 1 / (SIGMAS**2 + data**2).sqrt())
    torch.testing.assert_close(c_noise, SIGMAS.log() / 4)


def test_preconditioning_gives_the_network_unit_inputs_and_targets():
    """What the table is for (their equations 114 to 144): input variance, target variance, weight times c_out^2."""
    c_skip, c_out, c_in, _ = precondition(SIGMAS)
    torch.testing.assert_close(c_in**2 * (1 + SIGMAS**2), torch.ones_like(SIGMAS))
    target = ((1 - c_skip) ** 2 + c_skip**2 * SIGMAS**2) / c_out**2
    torch.testing.assert_close(target, torch.ones_like(SIGMAS))
    torch.testing.assert_close(edm_weight(SIGMAS) * c_out**2, torch.ones_like(SIGMAS))


def test_an_untrained_sampler_is_the_denoiser_of_white_gaussian_data():
    """F = 0 leaves c_skip x = x / (1 + sigma^2): the ideal estimate of data of unit variance."""
    network = SliceNetwork(TINY, sampler_channels(1), FEATURES + 1)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 20.0])
    images, conditions = torch.randn(3, sampler_channels(1) - 1, 8, 8), torch.randn(3, FEATURES)
    expected = x / (1 + sigma[:, None, None, None] ** 2)
    torch.testing.assert_close(denoise_slices(network, x, sigma, images, conditions, None), expected)


def test_denoiser_is_the_preconditioned_network():
    network = SliceNetwork(TINY, sampler_channels(1), FEATURES + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 5.0])
    images, conditions = torch.randn(2, sampler_channels(1) - 1, 8, 8), torch.randn(2, FEATURES)
    found = denoise_slices(network, x, sigma, images, conditions, None)
    for i, s in enumerate(sigma.tolist()):
        root = math.sqrt(1 + s * s)
        seen = torch.cat([x[i : i + 1] / root, images[i : i + 1]], 1)
        told = torch.cat([conditions[i : i + 1], torch.tensor([[math.log(s) / 4]])], 1)
        expected = x[i : i + 1] / root**2 + s / root * network(seen, told)
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-4, rtol=1e-4)


def test_half_precision_answers_in_float32_and_is_close():
    torch.manual_seed(0)
    network = SliceNetwork(TINY, sampler_channels(1), FEATURES + 1)
    torch.nn.init.normal_(network.leave.weight, 0, 0.02)
    x, sigma = torch.randn(1, 1, 16, 16), torch.tensor([1.0])
    images, conditions = torch.randn(1, sampler_channels(1) - 1, 16, 16), torch.randn(1, FEATURES)
    exact = denoise_slices(network, x, sigma, images, conditions, None)
    half = denoise_slices(network, x, sigma, images, conditions, torch.bfloat16)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert float((half - exact).detach().abs().max()) < 0.05


def test_mean_images_show_the_slice_its_neighbours_and_its_detail():
    u, scale = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0])
    seen = mean_images(u, scale)
    assert seen.shape == (2, mean_channels(1), 16, 16)
    torch.testing.assert_close(seen[:, :3], u)
    torch.testing.assert_close(seen[:, 3:] * scale[:, None, None, None], fine_detail(u[:, 1:2]))


@pytest.mark.parametrize("with_variance", [True, False])
def test_mean_and_variance(with_variance):
    """Variance 1 before training; the head never moves the mean's weights."""
    mean, head = SliceNetwork(TINY, 4, FEATURES), VarianceHead(TINY)
    torch.nn.init.normal_(head.second.weight)
    found, log_variance = mean_and_variance(
        mean, head if with_variance else None, torch.randn(2, 4, 16, 16), torch.randn(2, FEATURES)
    )
    assert found.shape == (2, 1, 16, 16)
    assert found.abs().max() == 0
    if not with_variance:
        assert log_variance is None
        return
    assert log_variance.shape == (2, 1, 16, 16)
    log_variance.sum().backward()
    assert all(p.grad is None for p in mean.parameters())
    assert head.first.weight.grad.abs().max() > 0


def test_training_noise_levels():
    sigma = log_normal_sigma(200_000, torch.Generator().manual_seed(0))
    assert sigma.max() <= 20
    low, middle, high = np.quantile(sigma.log(), [0.1587, 0.5, 0.8413])
    assert (low, middle, high) == pytest.approx((-1.8, -0.5, 0.8), abs=0.03)
