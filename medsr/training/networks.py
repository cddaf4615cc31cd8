"""The networks of a training, and what one starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import FEATURES
from medsr.diffusion.network import SliceNetwork, VarianceHead, mean_channels, sampler_channels

PARTS = ("mean", "variance", "sampler")  # in the order of training


@dataclass
class Networks:
    """What is trained, in the order of training."""

    mean: SliceNetwork
    variance: VarianceHead
    sampler: SliceNetwork

    def part(self, name: str) -> nn.Module:
        """``mean``, ``variance`` or ``sampler``."""
        part: nn.Module = getattr(self, name)
        return part

    def to(self, device: torch.device) -> None:
        """Move every part, in the memory format that convolutions like best."""
        for name in PARTS:
            self.part(name).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train_only(self, name: str) -> None:
        """One part learns, the others are held."""
        for other in PARTS:
            self.part(other).requires_grad_(other == name)


def new_networks(spec: NetworkSpec, context: int) -> Networks:
    """Untrained networks."""
    return Networks(
        SliceNetwork(spec, mean_channels(context), FEATURES),
        VarianceHead(spec),
        SliceNetwork(spec, sampler_channels(context), FEATURES + 1),
    )


def start_sampler(networks: Networks) -> None:
    """The sampler starts from the mean's weights; channels that only it has start at zero."""
    own = networks.sampler.state_dict()
    for name, value in networks.mean.state_dict().items():
        if own[name].shape == value.shape:
            own[name] = value.clone()
        else:  # the first convolution and the first condition layer: more inputs
            grown = torch.zeros_like(own[name])
            if name.startswith("enter"):  # the noisy state is the first channel, the mean's images follow
                grown[:, 4 : 4 + value.shape[1]] = value
            else:
                grown[:, : value.shape[1]] = value
            own[name] = grown
    networks.sampler.load_state_dict(own)
