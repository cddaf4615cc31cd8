"""What a training starts from."""

from __future__ import annotations

import torch

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import FEATURES
from medsr.diffusion.network import mean_channels
from medsr.training.networks import PARTS, new_networks, start_sampler

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)


def test_the_sampler_starts_as_the_mean():
    """Without a noisy state, a correction or a deviation to see, it gives the mean's answer."""
    networks = new_networks(TINY, 1)
    for parameter in networks.mean.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    start_sampler(networks)
    images, conditions = torch.randn(2, mean_channels(1), 16, 16), torch.randn(2, FEATURES)
    none = torch.zeros(2, 1, 16, 16)
    level = torch.zeros(2, 1)
    answer = networks.sampler(torch.cat([none, images, none, none], 1), torch.cat([conditions, level], 1))
    torch.testing.assert_close(answer, networks.mean(images, conditions), atol=1e-4, rtol=1e-3)
    # and what only it sees has no effect yet
    noisy = torch.cat([torch.randn(2, 1, 16, 16), images, torch.randn(2, 2, 16, 16)], 1)
    torch.testing.assert_close(
        networks.sampler(noisy, torch.cat([conditions, torch.ones(2, 1)], 1)), answer, atol=1e-4, rtol=1e-3
    )
    assert networks.sampler.enter.weight.data_ptr() != networks.mean.enter.weight.data_ptr()
    shared = [n for n, p in networks.mean.named_parameters() if p.data_ptr() == dict(
        networks.sampler.named_parameters())[n].data_ptr()]  # fmt: skip
    assert shared == []


def test_one_part_learns():
    networks = new_networks(TINY, 1)
    for chosen in PARTS:
        networks.train_only(chosen)
        learning = {p for p in PARTS if all(w.requires_grad for w in networks.part(p).parameters())}
        held = {p for p in PARTS if not any(w.requires_grad for w in networks.part(p).parameters())}
        assert (learning, held) == ({chosen}, set(PARTS) - {chosen})
