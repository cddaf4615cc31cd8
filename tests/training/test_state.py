"""What lies in the folder between two commands."""

from __future__ import annotations

import pytest
import torch

from medsr.errors import ConfigError
from medsr.training.state import State, load_state, save_state


def state() -> State:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimiser = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.tensor([0.5, -0.5])
    optimiser.step()
    weights = {"mean": {"layer.weight": parameter.detach()}}
    return State(
        1, 7, 2.5, weights, [torch.tensor([3.0])], optimiser.state_dict(), (0.5, 0.25), {"mean": 1.5}, {"mean": 9}
    )


def test_it_survives_the_disk(tmp_path):
    one = state()
    path = tmp_path / "state.pt"
    path.write_bytes(b"an older one")
    save_state(path, one)
    again = load_state(path)
    assert (again.stage, again.step, again.seconds) == (1, 7, 2.5)
    assert (again.scale, again.minutes, again.steps) == (one.scale, one.minutes, one.steps)
    assert torch.equal(again.weights["mean"]["layer.weight"], one.weights["mean"]["layer.weight"])
    assert torch.equal(again.average[0], one.average[0])
    for name, value in one.optimiser["state"][0].items():
        assert torch.equal(again.optimiser["state"][0][name], value), name
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_stage_leaves_its_weights_and_its_count_alone():
    one = state()
    one.begin_next_stage()
    assert (one.stage, one.step, one.seconds, one.average, one.optimiser) == (2, 0, 0.0, [], None)
    assert one.steps == {"mean": 9}
    assert set(one.weights) == {"mean"}


def test_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"half a file")
    with pytest.raises(ConfigError, match=r"state\.pt is damaged.*delete it"):
        load_state(path)
