"""Exponential moving average of weights, quick at first so that short trainings profit too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DECAY = 0.999


def start_ema(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """A copy of the weights to average into."""
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def update_ema(average: Sequence[Tensor], parameters: Sequence[nn.Parameter], step: int) -> None:
    """``average <- d average + (1 - d) weights`` with ``d = min(DECAY, (1 + step) / (10 + step))``."""
    decay = min(DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), [p.detach() for p in parameters], 1 - decay)


@torch.no_grad()
def copy_weights(source: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """``source`` becomes the weights."""
    for parameter, value in zip(parameters, source, strict=True):
        parameter.copy_(value)


@contextmanager
def averaged(average: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the block the average stands in for the weights."""
    current = start_ema(parameters)
    copy_weights(average, parameters)
    try:
        yield
    finally:
        copy_weights(current, parameters)
