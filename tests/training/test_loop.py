"""The training loop: it learns, it resumes bit by bit, and its stages build on each other."""

from __future__ import annotations

import json

import pytest
import torch

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import FEATURES, residual_features, residual_scale
from medsr.diffusion.network import SliceNetwork, mean_channels
from medsr.errors import ConfigError
from medsr.training import loop
from medsr.training.data import make_batch
from medsr.training.loop import (
    fit_residual_scale,
    learning_rate,
    load_state,
    new_networks,
    save_state,
    stage_loss,
    start_sampler,
    train,
)
from medsr.training.setup import Stage, TrainingConfig

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
CPU = torch.device("cpu")
COEFFICIENTS = (-0.5,) + (0.0,) * (residual_features(torch.zeros(1, FEATURES)).shape[1] - 1)


def config(*stages: Stage, **fields) -> TrainingConfig:
    return TrainingConfig(
        **{"name": "tiny", "version": "0", "data": ".", "stages": stages, "network": TINY, "patch": 32} | fields
    )


def stage(part: str, steps: int, rate: float = 1e-2, batch: int = 2) -> Stage:
    return Stage(part=part, minutes=0, steps=steps, learning_rate=rate, batch=batch)


def run(configuration, sources, out, *, max_minutes=None, networks=None, scale=COEFFICIENTS):
    torch.manual_seed(7)
    networks = networks or new_networks(configuration.network, configuration.context)
    lines: list[str] = []
    state = train(
        configuration,
        sources,
        out,
        networks=networks,
        device=CPU,
        dtype=None,
        max_minutes=max_minutes,
        report=lines.append,
        scale=scale,
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
    again, same, _ = run(plan, sources, tmp_path)
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
    scale = fixed.gradient * residual_scale(fixed.conditions, COEFFICIENTS)
    torch.manual_seed(7)
    networks = new_networks(TINY, 1)

    def loss() -> float:
        generators = [torch.Generator().manual_seed(i) for i in range(8)]
        with torch.no_grad():
            return sum(stage_loss(part, networks, fixed, scale, g, None).item() for g in generators) / 8

    before = loss()
    run(config(stage(part, 60, rate=2e-2)), sources, tmp_path, networks=networks)
    assert loss() < {"mean": 0.9 * before, "variance": before - 0.05, "sampler": 0.97 * before}[part]


def test_progress_is_logged(tmp_path, monkeypatch, sources):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    _, _, lines = run(config(stage("mean", 4)), sources, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"stage", "step", "loss", "grad_norm", "progress", "samples_per_second", "seconds"} == set(rows[0])
    assert rows[-1]["progress"] == pytest.approx(0.75)
    assert sum("samples/s" in line for line in lines) == 2


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


def test_the_sampler_stage_starts_from_the_trained_mean(tmp_path, sources):
    plan = config(stage("mean", 3), stage("sampler", 1, rate=0.0))
    _, networks, _ = run(plan, sources, tmp_path)
    for name, tensor in networks.mean.state_dict().items():
        own = networks.sampler.state_dict()[name]
        if own.shape == tensor.shape:
            torch.testing.assert_close(own, tensor)


def test_the_scale_of_the_residual_can_be_predicted(monkeypatch, sources):
    """On unseen samples of the phantoms less than half of its log variance is left."""
    monkeypatch.setattr(loop, "FIT_BATCHES", 16)
    coefficients, left = fit_residual_scale(sources, config(stage("mean", 1)))
    assert left < 0.5
    batch = make_batch(sources, 123, size=32, patch=32, context=1, seed=5, device=CPU)
    centre = batch.u[:, 1:2]
    count = batch.mask.sum((1, 2, 3))
    error = (((batch.x - centre).square() * batch.mask).sum((1, 2, 3)) / count).clamp_min(1e-10).sqrt()
    predicted = (batch.gradient * residual_scale(batch.conditions, coefficients)).log()
    assert (error.log() - predicted).var() < 0.6 * (error / batch.gradient).log().var()


def test_learning_rate_warms_up_and_falls():
    peak = 8e-4
    assert learning_rate(0.0, peak, 0) == pytest.approx(peak / 200)
    assert learning_rate(0.0, peak, 199) == pytest.approx(peak)
    assert learning_rate(0.5, peak, 10**5) == pytest.approx(peak * (0.01 + 0.99 / 2))
    assert learning_rate(1.0, peak, 10**5) == learning_rate(3.0, peak, 10**5) == pytest.approx(peak / 100)


def test_state_survives_the_disk(tmp_path, sources):
    state, _, _ = run(config(stage("mean", 2)), sources, tmp_path)
    path = tmp_path / "copy.pt"
    save_state(path, state)
    again = load_state(path)
    assert vars(again).keys() == vars(state).keys()
    assert (again.scale, again.steps, again.stage) == (state.scale, state.steps, state.stage)
    for name, tensor in state.weights["mean"].items():
        assert torch.equal(tensor, again.weights["mean"][name])
    assert not list(tmp_path.glob("*.tmp"))


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
        torch.testing.assert_close(tensor, before[name])
