"""The average of the weights: a closed form, and quick at first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsr.training.ema import DECAY, averaged, start_ema, update_ema


def test_it_starts_as_a_copy():
    parameter = nn.Parameter(torch.ones(3))
    (average,) = start_ema([parameter])
    assert not average.requires_grad
    with torch.no_grad():
        parameter.fill_(5)
    assert average.tolist() == [1, 1, 1]


def test_it_follows_the_recursion():
    """average <- d average + (1 - d) weight with d = min(0.999, (1 + n) / (10 + n))."""
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    average, expected = start_ema([parameter]), 0.0
    for step in range(50):
        with torch.no_grad():
            parameter.fill_(float(step % 7))
        update_ema(average, [parameter], step)
        decay = min(DECAY, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    assert average[0].tolist() == pytest.approx([expected] * 2)


def test_a_short_training_is_not_averaged_with_its_start():
    """After a hundred steps little of the first weights is left; a constant decay of 0.999 would keep 90 %."""
    parameter = nn.Parameter(torch.ones(1))
    average = start_ema([parameter])
    with torch.no_grad():
        parameter.zero_()
    for step in range(100):
        update_ema(average, [parameter], step)
    assert average[0].item() < 0.01


def test_late_in_a_training_the_decay_is_bounded():
    parameter = nn.Parameter(torch.zeros(1))
    average = [torch.ones(1)]
    update_ema(average, [parameter], 10**6)
    assert average[0].item() == pytest.approx(DECAY)


def test_the_average_stands_in_for_the_weights_and_leaves_no_trace():
    parameters = [nn.Parameter(torch.tensor([1.0 / 3, 2.0])), nn.Parameter(torch.tensor([5.0]))]
    before = [p.detach().clone() for p in parameters]
    average = [torch.tensor([7.0, 8.0]), torch.tensor([9.0])]
    with averaged(average, parameters):
        assert all(torch.equal(p, a) for p, a in zip(parameters, average, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    assert [a.tolist() for a in average] == [[7.0, 8.0], [9.0]]
