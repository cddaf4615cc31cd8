"""The slice network: silent before training, local, within its budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsr.card import ModelCard, NetworkSpec
from medsr.diffusion.conditions import FEATURES
from medsr.diffusion.network import (
    FOLD,
    STRIDE,
    Block,
    SliceNetwork,
    VarianceHead,
    build_networks,
    mean_channels,
    sampler_channels,
)

TINY = NetworkSpec(width=32, blocks_top=2, blocks_bottom=1, embedding=16)


def awake(network: nn.Module, seed=0) -> nn.Module:
    """The network with random weights everywhere, its zero layers too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def test_an_untrained_network_returns_zero():
    torch.manual_seed(0)
    network, head = SliceNetwork(TINY, 4, 5), VarianceHead(TINY)
    images, conditions = torch.randn(2, 4, 16, 24), torch.randn(2, 5)
    assert network(images, conditions).abs().max() == 0
    features = network.features(images, conditions)
    assert features.shape == (2, 32, 16 // FOLD, 24 // FOLD)
    assert features.abs().max() > 0
    assert head(features).shape == (2, 1, 16, 24)
    assert head(features).abs().max() == 0
    x = torch.randn(1, 32, 8, 8)
    torch.testing.assert_close(Block(32, 16)(x, torch.randn(1, 16)), x)


def test_gradients_reach_every_weight_once_the_last_layer_has_moved():
    network = awake(SliceNetwork(TINY, 4, 5)).requires_grad_(True)
    network(torch.randn(2, 4, 16, 16), torch.randn(2, 5)).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_conditions_change_the_answer():
    network = awake(SliceNetwork(TINY, 4, 5))
    images = torch.randn(1, 4, 16, 16)
    assert not torch.allclose(network(images, torch.zeros(1, 5)), network(images, torch.ones(1, 5)), atol=1e-3)


def test_samples_of_a_batch_do_not_see_each_other():
    network = awake(SliceNetwork(TINY, 4, 5))
    images, conditions = torch.randn(3, 4, 16, 16), torch.randn(3, 5)
    whole = network(images, conditions)
    for i in range(3):
        alone = network(images[i : i + 1], conditions[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_a_tile_is_the_slice_in_its_interior():
    """Without normalisation nothing in a tile depends on what is far away; group norm would fail this."""
    network = awake(SliceNetwork(TINY, 4, 5))
    images, conditions = torch.randn(1, 4, 160, 160), torch.randn(1, 5)
    images[..., 120:] *= 20  # what is far away is nothing alike
    start, size, reach = 20, 120, 40
    assert start % STRIDE == 0
    tile = network(images[..., start : start + size, start : start + size], conditions)
    whole = network(images, conditions)[..., start : start + size, start : start + size]
    inner = (..., slice(reach, -reach), slice(reach, -reach))
    torch.testing.assert_close(tile[inner], whole[inner], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tile, whole, atol=1e-3)  # the edge does differ, so the test sees something


def test_shift_by_the_stride_shifts_the_answer():
    network = awake(SliceNetwork(TINY, 4, 5))
    images, conditions = torch.randn(1, 4, 120, 120), torch.randn(1, 5)
    moved = network(images.roll((STRIDE, -STRIDE), (2, 3)), conditions).roll((-STRIDE, STRIDE), (2, 3))
    inner = (..., slice(44, -44), slice(44, -44))
    torch.testing.assert_close(moved[inner], network(images, conditions)[inner], atol=1e-5, rtol=1e-5)


def test_the_packaged_networks_fit_their_budget():
    """Mean, variance and sampler of the default card: at most 7.5 million parameters, 15 MB in half precision."""
    with torch.device("meta"):
        networks = build_networks(ModelCard(name="base", version="1", has_sampler=True))
    parameters = sum(p.numel() for network in networks.values() for p in network.parameters())
    assert parameters <= 7.5e6
    assert 2 * parameters <= 15e6


@pytest.mark.parametrize("has_sampler", [True, False])
@pytest.mark.parametrize("context", [0, 1, 2])
def test_networks_of_a_card(has_sampler, context):
    card = ModelCard(name="t", version="1", network=TINY, context=context, has_sampler=has_sampler)
    networks = build_networks(card)
    assert list(networks) == ["mean", "variance", "sampler"][: 2 + has_sampler]
    neighbours = 2 * context + 1
    assert mean_channels(context) == neighbours + 1
    images = torch.zeros(1, mean_channels(context), 8, 8)
    assert networks["mean"](images, torch.zeros(1, FEATURES)).shape == (1, 1, 8, 8)
    if has_sampler:
        images = torch.zeros(1, sampler_channels(context), 8, 8)
        assert networks["sampler"](images, torch.zeros(1, FEATURES + 1)).shape == (1, 1, 8, 8)


def test_a_single_block_at_the_top():
    network = SliceNetwork(NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16), 4, 5)
    assert (len(network.top_in), len(network.top_out)) == (0, 1)
