"""Several processes: what they agree on, and that together they are one training."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medsr.errors import ConfigError, PlanError
from medsr.training import record
from medsr.training.data import make_batch
from medsr.training.state import load_state
from medsr.training.team import LAUNCHER, Team, assembled

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
CPU = torch.device("cpu")
SPEC = importlib.util.spec_from_file_location("worker", WORKER)
worker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worker)


@pytest.fixture(scope="module")
def joint(sources):
    """A batch whose halves have unlike numbers of pixels."""
    batch = make_batch(sources, 0, size=4, patch=32, context=1, seed=0, device=CPU)
    batch.mask[0, :, 10:] = 0
    batch.mask[2, :, :, 20:] = 0
    return batch


@pytest.fixture(scope="module")
def found(tmp_path_factory, sources, joint):
    """What two processes found, and the folder where they trained."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("two")
    (folder / "sources.pickle").write_bytes(pickle.dumps(sources))
    (folder / "batch.pickle").write_bytes(pickle.dumps(joint))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]


def test_each_has_its_place_and_the_leader_decides(found):
    _, processes = found
    assert [p["place"] for p in processes] == [(0, 2, "cpu"), (1, 2, "cpu")]
    for one in processes:
        assert one["agreed"] == [(10.0, True), (10.0, False)]
        assert one["shared"] == {"made by": 0}


@pytest.mark.parametrize("part", ["mean", "variance"])
def test_two_processes_follow_the_gradient_of_the_joint_batch(found, joint, part):
    expected = worker.first_step(part, joint, Team(CPU))
    assert joint.mask[::2].sum() != joint.mask[1::2].sum()
    for one in found[1]:
        for kind in ("outcome", "gradient"):
            torch.testing.assert_close(one["first step"][part][kind], expected[kind], rtol=1e-4, atol=1e-6)


def test_the_samplers_noise_is_another_in_each_process(found, joint):
    """Its joint loss is the mean over all pixels, each half with its own process's noise."""
    networks = worker.networks()
    networks.train_only("sampler")
    halves = [worker.loss_here("sampler", networks, joint, Team(CPU, rank, 2)) for rank in (0, 1)]
    loss = sum(one * pixels for one, pixels in halves) / sum(pixels for _, pixels in halves)
    loss.backward()
    parameters = list(networks.sampler.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, worker.CONFIG.clip)
    for one in found[1]:
        step = one["first step"]["sampler"]
        torch.testing.assert_close(step["outcome"], [loss.detach(), norm], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(step["gradient"], [p.grad for p in parameters], rtol=1e-4, atol=1e-6)


def test_all_end_with_the_same_weights(found):
    """Bit by bit, though one of them alone has written the state that both resumed from."""
    folder, processes = found
    first, second = (p["training"] for p in processes)
    assert first["steps"] == second["steps"] == {"mean": 6, "sampler": 2}
    written = load_state(folder / "run" / "state.pt").weights
    for part in ("mean", "sampler"):
        for name, tensor in first["weights"][part].items():
            assert torch.equal(tensor, second["weights"][part][name]), name
            assert torch.equal(tensor, written[part][name]), name


def test_one_writes_and_prints(found):
    folder, processes = found
    first, second = (p["training"]["lines"] for p in processes)
    assert second == []
    assert any(line.startswith("resuming stage 1 of 2 at step 3") for line in first)
    assert sorted(p.name for p in (folder / "run" / "checkpoints").iterdir()) == [
        "1-mean-000006.safetensors",
        "2-sampler-000002.safetensors",
    ]


def test_two_processes_train_as_one_does(found, tmp_path, monkeypatch):
    folder, processes = found
    monkeypatch.setattr(record, "LOG_EVERY", 2)
    (tmp_path / "sources.pickle").write_bytes((folder / "sources.pickle").read_bytes())
    _, alone = worker.train(tmp_path, Team(CPU), [])
    start = worker.networks().mean.state_dict()
    together = processes[0]["training"]["weights"]["mean"]
    for name, tensor in alone.mean.state_dict().items():
        moved = (tensor - start[name]).norm()
        assert (tensor - together[name]).norm() <= 0.1 * moved + 1e-9, name
    losses = []
    for run in (folder, tmp_path):
        rows = [json.loads(line) for line in (run / "run" / "stats.jsonl").read_text().splitlines()]
        losses.append({row["step"]: row["loss"] for row in rows if row["stage"] == "mean"})
    assert losses[0][6] == pytest.approx(losses[1][6], rel=1e-3)


def test_alone_nothing_is_sent():
    team = Team(CPU)
    tensor = torch.ones(3)
    team.add([tensor])
    assert tensor.tolist() == [1, 1, 1]
    assert team.agree(3.0, over=True) == (3.0, True)
    assert team.share(lambda: 5) == 5
    assert team.leads


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with assembled() as team:
        assert (team.rank, team.processes) == (0, 1)


def test_a_world_that_no_launcher_made_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2 .*torchrun"), assembled():
        pass


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in LAUNCHER:
        monkeypatch.setenv(name, "0")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(PlanError, match=r"pip install 'medsr\[multi\]'"), assembled():
        pass
