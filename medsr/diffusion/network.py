"""The slice network: a plain two-level residual U-Net on the pixel-unshuffled slice, without normalisation.

Without normalisation a tile gives the same answer as the whole slice. Conditions enter every block as FiLM
(Perez et al. 2018). Blocks and modulations start at zero, so that an untrained network returns zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from medsr.card import ModelCard, NetworkSpec
from medsr.diffusion.conditions import FEATURES

FOLD = 2  # pixel unshuffle
STRIDE = 2 * FOLD  # slices are padded to multiples of it


def _start_at_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Block(nn.Module):
    """x + conv(relu(film(conv(x))))."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for layer in (self.film, self.second):
            _start_at_zero(layer)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: (B, width, h, w), embedding: (B, E); same shape as x."""
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        change: Tensor = self.second(functional.relu(torch.addcmul(shift, self.first(x), 1 + gain)))
        return x + change


class SliceNetwork(nn.Module):
    """(images (B, C, H, W), conditions (B, F)) -> (B, 1, H, W) and, on request, its features.

    H and W are multiples of STRIDE. The last layer starts at zero.
    """

    def __init__(self, spec: NetworkSpec, image_channels: int, condition_features: int) -> None:
        super().__init__()
        width, deep, embedding = spec.width, 2 * spec.width, spec.embedding
        half = spec.blocks_top // 2
        self.embed = nn.Sequential(
            nn.Linear(condition_features, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter = nn.Conv2d(image_channels * FOLD**2, width, 3, padding=1)
        self.top_in = nn.ModuleList(Block(width, embedding) for _ in range(half))
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.bottom = nn.ModuleList(Block(deep, embedding) for _ in range(spec.blocks_bottom))
        self.up = nn.Conv2d(deep, 4 * width, 1)
        self.top_out = nn.ModuleList(Block(width, embedding) for _ in range(spec.blocks_top - half))
        self.leave = nn.Conv2d(width, FOLD**2, 3, padding=1)
        _start_at_zero(self.leave)

    def features(self, images: Tensor, conditions: Tensor) -> Tensor:
        """Last feature map, (B, width, H / FOLD, W / FOLD)."""
        embedding = self.embed(conditions)
        x: Tensor = self.enter(functional.pixel_unshuffle(images, FOLD))
        for block in self.top_in:
            x = block(x, embedding)
        y = self.down(x)
        for block in self.bottom:
            y = block(y, embedding)
        x = x + functional.pixel_shuffle(self.up(y), 2)
        for block in self.top_out:
            x = block(x, embedding)
        return x

    def read_out(self, features: Tensor) -> Tensor:
        """Feature map to slice, (B, 1, H, W)."""
        return functional.pixel_shuffle(self.leave(features), FOLD)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        """Slices to slices, (B, 1, H, W)."""
        return self.read_out(self.features(images, conditions))


class VarianceHead(nn.Module):
    """Mean network's features -> log variance of the normalised residual, (B, 1, H, W). Starts at 0 (variance 1)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.first = nn.Conv2d(spec.width, spec.width, 3, padding=1)
        self.second = nn.Conv2d(spec.width, FOLD**2, 3, padding=1)
        _start_at_zero(self.second)

    def forward(self, features: Tensor) -> Tensor:
        """features: (B, width, H / FOLD, W / FOLD)."""
        return functional.pixel_shuffle(self.second(functional.relu(self.first(features))), FOLD)


def mean_channels(context: int) -> int:
    """u and its neighbours, and the fine detail of u in units of the residual."""
    return 2 * context + 2


def sampler_channels(context: int) -> int:
    """The mean's channels, the noisy state, the mean's correction and the log standard deviation."""
    return mean_channels(context) + 3


def build_networks(card: ModelCard) -> Mapping[str, nn.Module]:
    """Untrained networks of a card: ``mean``, ``variance`` and, when the card has one, ``sampler``."""
    networks: dict[str, nn.Module] = {
        "mean": SliceNetwork(card.network, mean_channels(card.context), FEATURES),
        "variance": VarianceHead(card.network),
    }
    if card.has_sampler:
        networks["sampler"] = SliceNetwork(card.network, sampler_channels(card.context), FEATURES + 1)
    return networks
