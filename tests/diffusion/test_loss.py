"""Each loss is smallest at what it is meant to find."""

from __future__ import annotations

import math

import pytest
import torch

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import FEATURES
from medsr.diffusion.denoiser import MIN_LOG_VARIANCE
from medsr.diffusion.loss import masked_mean, mean_loss, residual, sampler_loss, variance_loss
from medsr.diffusion.network import SliceNetwork, VarianceHead, mean_channels, sampler_channels

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
SHAPE = (2, 1, 16, 16)


def constant_mean(value: float) -> SliceNetwork:
    """A mean network that answers the same residual everywhere."""
    network = SliceNetwork(TINY, mean_channels(1), FEATURES)
    torch.nn.init.constant_(network.leave.bias, value)
    return network


def constant_head(value: float) -> VarianceHead:
    head = VarianceHead(TINY)
    torch.nn.init.constant_(head.second.bias, value)
    return head


@pytest.fixture
def sample() -> dict[str, torch.Tensor]:
    """u, x, mask, conditions, scale of two slices; the residual over its scale is about N(0, 0.5^2)."""
    torch.manual_seed(0)
    u, scale = torch.rand(2, 3, 16, 16), torch.tensor([0.02, 0.1])
    x = u[:, 1:2] + 0.5 * scale[:, None, None, None] * torch.randn(SHAPE)
    mask = torch.ones(SHAPE)
    mask[1, :, 10:] = 0
    return {"u": u, "x": x, "mask": mask, "conditions": torch.zeros(2, FEATURES), "scale": scale}


def at_mean(value: float, sample: dict[str, torch.Tensor]) -> float:
    return mean_loss(constant_mean(value), **sample, autocast=None).item()


def at_variance(mean: float, log_variance: float, sample: dict[str, torch.Tensor]) -> float:
    return variance_loss(constant_mean(mean), constant_head(log_variance), **sample, autocast=None).item()


def test_masked_mean_counts_what_the_mask_shows():
    values = torch.arange(8.0).reshape(1, 1, 2, 4)
    mask = torch.tensor([[[[1.0, 1, 0, 0], [0, 0, 0, 1]]]])
    assert masked_mean(values, mask).item() == pytest.approx((0 + 1 + 7) / 3)
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0


def test_residual_is_of_the_middle_slice(sample):
    r = residual(sample["u"], sample["x"], sample["scale"])
    back = sample["u"][:, 1:2] + r * sample["scale"][:, None, None, None]
    torch.testing.assert_close(back, sample["x"])


def test_the_mean_of_the_residual_minimises_the_mean_loss(sample):
    r = residual(sample["u"], sample["x"], sample["scale"])
    best = masked_mean(r, sample["mask"]).item()
    losses = {delta: at_mean(best + delta, sample) for delta in (-0.1, 0.0, 0.1)}
    assert losses[0.0] < min(losses[-0.1], losses[0.1])
    assert losses[0.1] - losses[0.0] == pytest.approx(0.01, rel=1e-3)  # a parabola of curvature 2
    assert losses[0.0] == pytest.approx(masked_mean((r - best) ** 2, sample["mask"]).item(), rel=1e-5)


def test_what_the_mask_hides_costs_nothing(sample):
    before = at_mean(0.3, sample)
    sample["x"] = torch.where(sample["mask"] > 0, sample["x"], 99.0)
    assert at_mean(0.3, sample) == pytest.approx(before)
    assert math.isfinite(at_variance(0.0, 0.0, sample))


def test_a_badly_predicted_scale_does_not_rule(sample):
    """A sample whose residual is a hundred scales large weighs no more than one of a scale."""
    sample["x"] = sample["u"][:, 1:2] + 100 * (sample["x"] - sample["u"][:, 1:2])
    assert at_mean(0.0, sample) == pytest.approx(1.0, rel=1e-4)


def test_log_squared_error_minimises_the_variance_loss(sample):
    m = 0.2
    r = residual(sample["u"], sample["x"], sample["scale"])
    best = math.log(masked_mean((r - m) ** 2, sample["mask"]).item())
    losses = {delta: at_variance(m, best + delta, sample) for delta in (-0.2, 0.0, 0.2)}
    assert losses[0.0] < min(losses[-0.2], losses[0.2])
    assert losses[0.0] == pytest.approx((best + 1) / 2, rel=1e-5)  # the entropy of a gaussian, without ln(2 pi)


def test_a_perfect_mean_does_not_send_the_variance_to_nothing(sample):
    sample["x"] = sample["u"][:, 1:2].clone()
    assert at_variance(0.0, -50.0, sample) == pytest.approx(MIN_LOG_VARIANCE / 2)


def test_the_variance_loss_leaves_the_mean_alone(sample):
    mean, head = constant_mean(0.1), constant_head(0.0)
    variance_loss(mean, head, **sample, autocast=None).backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in mean.parameters())
    assert head.second.bias.grad.abs().max() > 0


def whitened(log_variance: float, value: float, n=400) -> float:
    """Sampler loss of the network that answers ``value`` for F, on residuals N(0, exp(log_variance))."""
    torch.manual_seed(1)
    u, scale = torch.rand(n, 3, 8, 8), torch.full((n,), 0.1)
    x = u[:, 1:2] + 0.1 * math.exp(log_variance / 2) * torch.randn(n, 1, 8, 8)
    network = SliceNetwork(TINY, sampler_channels(1), FEATURES + 1)
    torch.nn.init.constant_(network.leave.bias, value)
    with torch.no_grad():
        return sampler_loss(
            constant_mean(0.0),
            constant_head(log_variance),
            network,
            u,
            x,
            torch.ones(n, 1, 8, 8),
            torch.zeros(n, FEATURES),
            scale,
            torch.Generator().manual_seed(0),
            None,
        ).item()


@pytest.mark.parametrize("log_variance", [-4.0, 0.0, 2.0])
def test_the_sampler_sees_whitened_residuals(log_variance):
    """White data of unit variance: F = 0 is the ideal denoiser, its error sigma^2 / (1 + sigma^2), the weighted loss 1
    at every noise level and whatever the variance; any other F costs exactly its square."""
    assert whitened(log_variance, 0.0) == pytest.approx(1.0, rel=0.02)
    assert whitened(log_variance, 0.4) == pytest.approx(1.16, rel=0.02)
    assert whitened(log_variance, -0.4) == pytest.approx(1.16, rel=0.02)


def test_the_sampler_is_trained_alone():
    torch.manual_seed(0)
    mean, head = constant_mean(0.1), constant_head(0.0)
    sampler = SliceNetwork(TINY, sampler_channels(1), FEATURES + 1)
    u = torch.rand(2, 3, 16, 16)
    loss = sampler_loss(
        mean, head, sampler, u, u[:, 1:2] + 0.1, torch.ones(SHAPE), torch.zeros(2, FEATURES),
        torch.tensor([0.1, 0.1]), torch.Generator().manual_seed(0), None,
    )  # fmt: skip
    loss.backward()
    assert all(p.grad is None for part in (mean, head) for p in part.parameters())
    assert sampler.leave.weight.grad.abs().max() > 0
