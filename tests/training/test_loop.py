"""The training loop: it learns, it resumes bit by bit, and its stages build on each other."""

from __future__ import annotations

import pytest
import torch

from medsr.card import ModelCard, NetworkSpec
from medsr.diffusion.conditions import FEATURES, REGRESSORS, residual_scale
from medsr.diffusion.network import SliceNetwork, mean_channels
from medsr.errors import ConfigError
from medsr.training import loop, residual
from medsr.training.data import make_batch
from medsr.training.learner import stage_loss
from medsr.training.loop import train
from medsr.training.networks import new_networks
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.team import Team

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
CPU = torch.device("cpu")
COEFFICIENTS = (-0.5,) + (0.0,) * (REGRESSORS - 1)
START = ModelCard(name="start", version="0", residual_scale=COEFFICIENTS)


def config(*stages: Stage, **fields) -> TrainingConfig:
    plain = {"name": "tiny", "version": "0", "data": ".", "network": TINY, "patch": 32, "preview_minutes": 0.0}
    return TrainingConfig(**plain | {"stages": stages} | fields)


def stage(part: str, steps: int, rate: float = 1e-2, batch: int = 2) -> Stage:
    return Stage(part=part, minutes=0, steps=steps, learning_rate=rate, batch=batch)


def run(configuration, sources, out, *, max_minutes=None, networks=None, start=START):
    torch.manual_seed(7)
    networks = networks or new_networks(configuration.network, configuration.context)
    lines: list[str] = []
    state = train(
        configuration,
        sources,
        [],
        out,
        networks=networks,
        team=Team(CPU),
        dtype=None,
        max_minutes=max_minutes,
        report=lines.append,
        start=start,
    )
    return state, networks, lines


def weights(networks) -> dict[str, torch.Tensor]:
    parts = ("mean", "variance", "sampler")
    return {f"{p}.{k}": v.clone() for p in parts for k, v in networks.part(p).state_dict().items()}


class KilledError(Exception):
    """Stands for the signal that ends a run."""


def kill_at(monkeypatch, call: int) -> None:
    """The run dies while it makes its batch number ``call``."""
    calls = iter(range(10**6))

    def dying(*args, **kwargs):
        if next(calls) == call:
            raise KilledError
        return make_batch(*args, **kwargs)

    monkeypatch.setattr(loop, "make_batch", dying)


@pytest.mark.parametrize("killed", [3, 8])
def test_a_killed_run_goes_on_bit_by_bit(tmp_path, monkeypatch, sources, killed):
    """In the first stage and in the second: the same weights, averages and step counts as without the interruption."""
    plan = config(stage("mean", 6), stage("variance", 3), stage("sampler", 3), save_every_minutes=0.0)
    whole, expected, _ = run(plan, sources, tmp_path / "whole")
    with monkeypatch.context() as patched:
        kill_at(patched, killed)
        with pytest.raises(KilledError):
            run(plan, sources, tmp_path / "killed")
    resumed, found, lines = run(plan, sources, tmp_path / "killed")
    assert lines[0] == f"resuming stage {1 if killed == 3 else 2} of 3 at step {killed if killed == 3 else killed - 6}"
    for name, tensor in weights(expected).items():
        assert torch.equal(tensor, weights(found)[name]), name
    assert whole.steps == resumed.steps == {"mean": 6, "variance": 3, "sampler": 3}
    assert resumed.stage == 3


def test_time_that_is_up_ends_the_run_and_a_repeat_goes_on(tmp_path, sources):
    plan = config(stage("mean", 2))
    state, _, lines = run(plan, sources, tmp_path, max_minutes=0.0)
    assert (state.stage, state.step) == (0, 0)
    assert "time is up" in lines[-1]
    state, networks, lines = run(plan, sources, tmp_path)
    assert "resuming" in lines[0]
    assert state.steps == {"mean": 2}
    # once more does nothing, and keeps the weights
    again, same, lines = run(plan, sources, tmp_path)
    assert lines[0] == "every stage is done already"
    assert again.steps == {"mean": 2}
    assert all(torch.equal(v, weights(same)[k]) for k, v in weights(networks).items() if k.startswith("mean"))


def test_a_stage_moves_its_own_part_alone(tmp_path, sources):
    torch.manual_seed(7)
    before = weights(new_networks(TINY, 1))
    _, networks, _ = run(config(stage("mean", 2)), sources, tmp_path)
    moved = {name.split(".")[0] for name, tensor in weights(networks).items() if not torch.equal(tensor, before[name])}
    assert moved == {"mean"}


def test_the_average_becomes_the_weights(tmp_path, monkeypatch, sources):
    """What a finished stage leaves is the average over its steps, not where the optimiser stopped."""
    seen = []
    update = loop.update_ema

    def watched(average, parameters, step):
        update(average, parameters, step)
        seen.append(([a.clone() for a in average], [p.detach().clone() for p in parameters]))

    monkeypatch.setattr(loop, "update_ema", watched)
    _, networks, _ = run(config(stage("mean", 4)), sources, tmp_path)
    average, last = seen[-1]
    final = [p.detach() for p in networks.mean.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(average, final, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(last, final, strict=True))


@pytest.mark.parametrize("part", ["mean", "variance", "sampler"])
def test_loss_falls_on_a_batch_that_is_seen_again_and_again(tmp_path, monkeypatch, sources, part):
    fixed = make_batch(sources, 0, size=4, patch=32, context=1, seed=0, device=CPU)
    monkeypatch.setattr(loop, "make_batch", lambda *args, **kwargs: fixed)
    scale = residual_scale(fixed.gradient, fixed.conditions, COEFFICIENTS)
    torch.manual_seed(7)
    networks = new_networks(TINY, 1)

    def loss() -> float:
        generators = [torch.Generator().manual_seed(i) for i in range(8)]
        with torch.no_grad():
            return sum(stage_loss(part, networks, fixed, scale, g, None).item() for g in generators) / 8

    before = loss()
    run(config(stage(part, 60, rate=2e-2)), sources, tmp_path, networks=networks)
    assert loss() < {"mean": 0.9 * before, "variance": before - 0.05, "sampler": 0.97 * before}[part]


def test_the_sampler_stage_starts_from_the_trained_mean(tmp_path, sources):
    plan = config(stage("mean", 3), stage("sampler", 1, rate=0.0))
    _, networks, _ = run(plan, sources, tmp_path)
    for name, tensor in networks.mean.state_dict().items():
        own = networks.sampler.state_dict()[name]
        if own.shape == tensor.shape:
            torch.testing.assert_close(own, tensor)


def test_a_training_from_nothing_fits_the_scale_of_the_residual(tmp_path, monkeypatch, sources):
    monkeypatch.setattr(residual, "FIT_BATCHES", 2)
    plan = config(stage("mean", 1))
    state, _, lines = run(plan, sources, tmp_path / "new", start=None)
    assert "residual scale fitted" in lines[0]
    assert state.scale == residual.fit_residual_scale(sources, plan)[0]


def test_a_training_from_weights_counts_on(tmp_path, sources):
    """Scale, steps and minutes of the weights are kept, and their sampler is not begun again from the mean."""
    spent = {"steps": {"mean": 10}, "minutes": {"mean": 0.5, "sampler": 3.0}}
    card = START.model_copy(update={"has_sampler": True, "training": spent})
    torch.manual_seed(1)
    networks = new_networks(TINY, 1)
    before = weights(networks)
    plan = config(stage("mean", 2), stage("sampler", 1, rate=0.0))
    state, networks, _ = run(plan, sources, tmp_path, networks=networks, start=card)
    assert state.scale == COEFFICIENTS
    assert state.steps == {"mean": 12, "sampler": 1}
    assert state.minutes["mean"] > 0.5
    assert state.minutes["sampler"] > 3.0
    after = weights(networks)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("sampler"))
    assert not all(torch.equal(after[name], before[name]) for name in before if name.startswith("mean"))


def test_every_process_needs_a_sample(tmp_path, sources):
    plan = config(stage("mean", 1, batch=2))
    with pytest.raises(ConfigError, match="batch of 2 for 3 processes"):
        train(
            plan,
            sources,
            [],
            tmp_path,
            networks=new_networks(TINY, 1),
            team=Team(CPU, 0, 3),
            dtype=None,
            max_minutes=None,
            report=print,
        )


@pytest.mark.parametrize(
    "other",
    [
        config(stage("mean", 4), network=TINY.model_copy(update={"width": 64})),
        config(stage("variance", 4)),
        config(),
    ],
)
def test_a_state_of_another_configuration_is_refused(tmp_path, monkeypatch, sources, other):
    with monkeypatch.context() as patched:
        kill_at(patched, 2)
        with pytest.raises(KilledError):
            run(config(stage("mean", 4), save_every_minutes=0.0), sources, tmp_path)
    with pytest.raises(ConfigError, match=r"another network or other stages.*another --out"):
        run(other, sources, tmp_path)


def test_a_damaged_state_is_named(tmp_path, sources):
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(ConfigError, match=r"state\.pt is damaged.*delete it"):
        run(config(stage("mean", 1)), sources, tmp_path)


def test_a_loss_that_is_not_finite_moves_nothing(tmp_path, monkeypatch, sources):
    batch = make_batch(sources, 0, size=2, patch=32, context=1, seed=0, device=CPU)
    batch.x[0, 0, 3, 3] = float("nan")
    monkeypatch.setattr(loop, "make_batch", lambda *args, **kwargs: batch)
    torch.manual_seed(7)
    before = SliceNetwork(TINY, mean_channels(1), FEATURES).state_dict()
    _, networks, _ = run(config(stage("mean", 2)), sources, tmp_path)
    for name, tensor in networks.mean.state_dict().items():
        assert torch.equal(tensor, before[name])
