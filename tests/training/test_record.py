"""What a training leaves in its folder, and when."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from medsr.card import NetworkSpec, read_card
from medsr.diffusion.conditions import REGRESSORS
from medsr.diffusion.model import load_model
from medsr.training import record
from medsr.training.ema import start_ema
from medsr.training.learner import start_learner
from medsr.training.networks import new_networks
from medsr.training.record import Every, Record
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State, load_state

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
STAGE = Stage(part="mean", steps=10, batch=4)
OFTEN = {"save_every_minutes": 1e-9, "checkpoint_minutes": 1e-9, "preview_minutes": 1e-9}
NEVER = {"save_every_minutes": 1e9, "checkpoint_minutes": 0.0, "preview_minutes": 0.0}


class Bench:
    """A record with what it writes of: a stage at its first step."""

    def __init__(self, out, sources, **fields) -> None:
        config = TrainingConfig(
            **{"name": "tiny", "version": "0", "data": ".", "stages": (STAGE,), "network": TINY, "patch": 32} | fields
        )
        networks = new_networks(TINY, 1)
        self.state = State(0, 0, 0.0, {}, [], None, (0.0,) * REGRESSORS, {}, {})
        self.learner = start_learner(STAGE, self.state, networks, config)
        self.state.average = start_ema(self.learner.parameters)
        self.lines: list[str] = []
        self.record = Record(
            out, config, sources, [], networks, device=torch.device("cpu"), dtype=None, report=self.lines.append
        )

    def step(self, loss: float, norm: float) -> None:
        self.state.step += 1
        self.state.seconds += 2.0
        outcome = torch.tensor([loss, norm])
        self.record.after_step(STAGE, self.state, self.learner, outcome, progress=self.state.step / 10, rate=1e-3)


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_steps_are_averaged_and_skipped_ones_are_counted_apart(tmp_path, monkeypatch, sources):
    monkeypatch.setattr(record, "LOG_EVERY", 3)
    bench = Bench(tmp_path, sources, **NEVER)
    for loss, norm in ((1.0, 0.5), (float("nan"), float("nan")), (2.0, 0.25), (5.0, 1.0)):
        bench.step(loss, norm)
    (row,) = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert row == {
        "stage": "mean",
        "step": 3,
        "loss": 1.5,
        "grad_norm": 0.25,
        "learning_rate": 1e-3,
        "skipped": 1,
        "progress": 0.3,
        "samples_per_second": 2.0,
        "seconds": 6.0,
    }
    assert "2.0 samples/s" in bench.lines[-1]
    assert "1 steps skipped" in bench.lines[-1]


def test_curves_hold_what_the_log_holds(tmp_path, monkeypatch, sources):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(record, "LOG_EVERY", 2)
    bench = Bench(tmp_path, sources, **NEVER | {"preview_minutes": 1e-9})
    for loss in (1.0, 2.0, 3.0, 4.0):
        bench.step(loss, 1.0)
    bench.record.close()
    curves = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [(e.step, e.value) for e in curves.Scalars("loss/mean")] == [(2, 1.5), (4, 3.5)]
    assert [e.value for e in curves.Scalars("samples_per_second/mean")] == [2.0, 2.0]
    assert curves.Scalars("learning_rate/mean")[0].value == pytest.approx(1e-3)
    assert [e.step for e in curves.Images("1-mean")] == [1, 2, 3, 4]


def test_without_tensorboard_it_is_said_once(tmp_path, monkeypatch, sources):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    bench = Bench(tmp_path, sources, **NEVER)
    for _ in range(3):
        bench.step(1.0, 1.0)
    bench.record.close()
    assert sum("pip install 'medsr[tensorboard]'" in line for line in bench.lines) == 1
    assert not (tmp_path / "tensorboard").exists()


def test_what_is_due_is_written_and_can_be_used(tmp_path, sources):
    bench = Bench(tmp_path, sources, **OFTEN)
    with torch.no_grad():
        for average in bench.state.average:
            average.fill_(0.125)
    before = [p.detach().clone() for p in bench.learner.parameters]
    bench.step(1.0, 1.0)
    assert load_state(tmp_path / "state.pt").step == 1
    assert names(tmp_path / "previews") == ["1-mean-000001.png"]
    picture = Image.open(tmp_path / "previews" / "1-mean-000001.png")
    assert picture.size[0] > 4 * 192
    assert names(tmp_path / "checkpoints") == ["1-mean-000001.safetensors"]
    path = tmp_path / "checkpoints" / "1-mean-000001.safetensors"
    assert read_card(path).training["steps"] == {"mean": 1}
    assert all((p == 0.125).all() for p in load_model(path).mean.parameters()), "the average is what is published"
    assert all(torch.equal(p, b) for p, b in zip(bench.learner.parameters, before, strict=True))


def test_zero_minutes_are_never_and_the_end_of_a_stage_is_kept(tmp_path, sources):
    bench = Bench(tmp_path, sources, **NEVER)
    bench.step(1.0, 1.0)
    assert not (tmp_path / "checkpoints").exists()
    bench.record.end_stage(STAGE, bench.state, bench.learner)
    assert names(tmp_path / "checkpoints") == ["1-mean-000001.safetensors"]
    assert not (tmp_path / "previews").exists()
    assert not (tmp_path / "state.pt").exists()


def test_minutes_start_anew_when_they_have_passed(monkeypatch):
    clock = iter((160.0, 221.0, 222.0, 341.0, 342.0))
    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    every = Every(2.0, last=100.0)
    assert [every.due() for _ in range(5)] == [False, True, False, False, True]
