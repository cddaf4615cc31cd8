"""The weights file of a training: what was averaged, and on what."""

from __future__ import annotations

import pytest
import torch

from medsr.card import NetworkSpec, read_card
from medsr.diffusion.conditions import FEATURES
from medsr.diffusion.model import load_model
from medsr.diffusion.network import mean_channels
from medsr.training.command import starting_networks
from medsr.training.networks import PARTS, new_networks
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State
from medsr.training.weights import write_weights

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
CONFIG = TrainingConfig(
    name="tiny", version="1", data=".", stages=tuple(Stage(part=p, minutes=1) for p in PARTS), network=TINY
)
ROW = {"file": "a.nii.gz", "subject": "a", "modality": "MR", "dataset": "lab", "licence": "CC0", "split": "train"}


def state_of(**fields) -> State:
    plain = State(0, 0, 0.0, {}, [], None, (0.5, 0.25), {}, {})
    return State(**vars(plain) | fields)


def test_an_unfinished_stage_is_written_as_its_average_and_counted(tmp_path):
    networks = new_networks(TINY, 1)
    average = [torch.full_like(p, 0.125) for p in networks.mean.parameters()]
    raw = {k: v.clone() for k, v in networks.mean.state_dict().items()}
    path = tmp_path / "tiny.safetensors"
    state = state_of(weights={"mean": raw}, average=average, step=5, seconds=90.0, steps={"mean": 7}, minutes={})
    card = write_weights(path, CONFIG, state, networks, [ROW])
    assert not card.has_sampler
    model = load_model(path)
    assert model.sampler is None
    assert all((p == 0.125).all() for p in model.mean.parameters())
    assert model.variance is not None
    assert card.residual_scale == (0.5, 0.25)
    assert card.training["steps"] == {"mean": 12}
    assert card.training["minutes"] == {"mean": 1.5}
    assert card.training["data"] == [{k: v for k, v in ROW.items() if k != "split"}]
    assert state.steps == {"mean": 7}
    assert read_card(path) == card


def test_weights_written_and_loaded_answer_alike(tmp_path):
    networks = new_networks(TINY, 1)
    for parameter in networks.mean.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    path = tmp_path / "tiny.safetensors"
    write_weights(path, CONFIG, state_of(stage=1, weights={"mean": networks.mean.state_dict()}), networks, [])
    images, conditions = torch.randn(1, mean_channels(1), 16, 16), torch.randn(1, FEATURES)
    expected = networks.mean(images, conditions)
    for network in (starting_networks(CONFIG, str(path)).mean, load_model(path).mean):
        torch.testing.assert_close(network(images, conditions), expected, atol=2e-2, rtol=2e-2)


def test_the_parts_of_one_file_are_those_that_training_has_reached(tmp_path):
    networks = new_networks(TINY, 1)
    weights = {part: networks.part(part).state_dict() for part in PARTS}
    path = tmp_path / "tiny.safetensors"
    for reached, sampler in ((PARTS[:1], False), (PARTS[:2], False), (PARTS, True)):
        state = state_of(stage=len(reached), weights={p: weights[p] for p in reached})
        assert write_weights(path, CONFIG, state, networks, []).has_sampler == sampler


@pytest.mark.parametrize("part", PARTS)
def test_it_loads_in_the_middle_of_every_stage(tmp_path, part):
    networks = new_networks(TINY, 1)
    index = PARTS.index(part)
    weights = {p: networks.part(p).state_dict() for p in PARTS[:index]}
    average = [p.detach().clone() for p in networks.part(part).parameters()]
    path = tmp_path / "tiny.safetensors"
    write_weights(path, CONFIG, state_of(stage=index, weights=weights, average=average), networks, [])
    assert (load_model(path).sampler is not None) == (part == "sampler")
