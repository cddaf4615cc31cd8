"""One step: the joint gradient is followed, unless it is not finite."""

from __future__ import annotations

import pytest
import torch

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import REGRESSORS
from medsr.training.learner import Learner, start_learner, take_step
from medsr.training.networks import new_networks
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State
from medsr.training.team import Team

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
STAGE = Stage(part="variance", steps=10)
ALONE = Team(torch.device("cpu"))


def learner() -> Learner:
    config = TrainingConfig(name="tiny", version="0", data=".", stages=(STAGE,), network=TINY)
    torch.manual_seed(7)
    state = State(0, 0, 0.0, {}, [], None, (0.0,) * REGRESSORS, {}, {})
    return start_learner(STAGE, state, new_networks(TINY, 1), config)


def loss_of(one: Learner, factor: float = 1.0) -> torch.Tensor:
    return factor * sum((p - 1).square().sum() for p in one.parameters)


def step(one: Learner, loss: torch.Tensor, rate: float = 1e-2) -> torch.Tensor:
    return take_step(one, loss, torch.tensor(5.0), rate=rate, clip=1.0, team=ALONE)


def everything(one: Learner) -> list[torch.Tensor]:
    moments = one.optimiser.state_dict()["state"].values()
    return [p.detach().clone() for p in one.parameters] + [v.clone() for m in moments for v in m.values()]


def test_it_is_the_step_of_the_plain_optimiser():
    """Clipped gradient, AdamW, the rate of this step."""
    one, other = learner(), learner()
    plain = torch.optim.AdamW(other.parameters, lr=1.0, weight_decay=1e-4)
    for rate in (1e-2, 3e-3):
        before = loss_of(one).item()
        outcome = step(one, loss_of(one), rate)
        loss_of(other).backward()
        norm = torch.nn.utils.clip_grad_norm_(other.parameters, 1.0)
        for group in plain.param_groups:
            group["lr"] = rate
        plain.step()
        plain.zero_grad()
        assert outcome.tolist() == pytest.approx([before, norm.item()])
        for a, b in zip(one.parameters, other.parameters, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_leaves_all_as_it_is(factor):
    """Weights, moments and the optimiser's count of steps; and the next step is as if it had not been."""
    one, other = learner(), learner()
    step(one, loss_of(one))
    step(other, loss_of(other))
    before = everything(one)
    outcome = step(one, loss_of(one, factor))
    assert not outcome[1].isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, everything(one), strict=True))
    step(one, loss_of(one))
    step(other, loss_of(other))
    assert all(torch.equal(a, b) for a, b in zip(everything(one), everything(other), strict=True))


def test_without_a_pixel_there_is_no_gradient():
    one = learner()
    outcome = take_step(one, loss_of(one, 0.0), torch.tensor(0.0), rate=1e-2, clip=1.0, team=ALONE)
    assert outcome.tolist() == [0.0, 0.0]
