"""``medsr train``: set up, print, train, write."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
import torch
import yaml

from medsr.card import NetworkSpec, read_card
from medsr.diffusion.conditions import FEATURES
from medsr.diffusion.model import load_model
from medsr.diffusion.network import mean_channels
from medsr.errors import ConfigError, ModelError
from medsr.training import loop
from medsr.training.command import configured, start_from, train_command, write_weights
from medsr.training.loop import State, new_networks
from medsr.training.setup import Stage, TrainingConfig

TINY = {"width": 32, "blocks_top": 1, "blocks_bottom": 1, "embedding": 16}
ROW = {
    "split": "train",
    "weights_ok": "yes",
    "spacing": "1.0x1.0x1.2",
    "native": "native/native/native",
    "phantom": "no",
    "dataset": "phantoms",
    "licence": "CC0",
}


@pytest.fixture
def data(tmp_path, monkeypatch, sources):
    """A folder of two volumes with an index, as $MEDSR_DATA."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for source in sources:
        array = source.array * 800 if source.modality == "MR" else source.array * 2000 - 1024
        image = nibabel.Nifti1Image(np.round(array).astype(np.int16), np.diag([1.0, 1.0, 1.2, 1.0]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / f"{source.subject}.nii.gz")
        rows.append(ROW | {"file": f"{source.subject}.nii.gz", "subject": source.subject, "modality": source.modality})
    with (folder / "INDEX.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setenv("MEDSR_DATA", str(folder))
    monkeypatch.setattr(loop, "FIT_BATCHES", 2)
    return folder


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "tiny.yaml"
    stages = [{"part": p, "minutes": 0, "steps": 2, "batch": 2} for p in ("mean", "variance", "sampler")]
    text = {"name": "tiny", "version": "1.0", "data": ".", "network": TINY, "patch": 32, "stages": stages}
    path.write_text(yaml.safe_dump(text))
    return path


def command(config_path, out, *, init=None, overrides=(), dry_run=False):
    lines: list[str] = []
    made = train_command(config_path, out, init, None, overrides, dry_run=dry_run, report=lines.append)
    return made, lines


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path, data, config_path):
    made, lines = command(config_path, tmp_path / "run", dry_run=True, overrides=["patch=48"])
    assert made is None
    assert lines[0].startswith("tiny: 2 volumes of 2 subjects")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["mean", "variance", "sampler"]
    assert "2 steps, batch 2" in lines[1]
    assert not (tmp_path / "run").exists()


def test_from_configuration_to_weights(tmp_path, data, config_path):
    """The file loads, holds what was trained, and says on what; a second run starts from it."""
    path, lines = command(config_path, tmp_path / "run")
    assert path == tmp_path / "run" / "tiny.safetensors"
    card = read_card(path)
    assert lines[-1].endswith(card.sha256)
    assert card.has_sampler
    assert card.training["steps"] == {"mean": 2, "variance": 2, "sampler": 2}
    assert {row["subject"] for row in card.training["data"]} == {"head", "trunk"}
    assert all(row["licence"] == "CC0" for row in card.training["data"])
    model = load_model(path)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    for part in ("mean", "variance", "sampler"):
        for name, tensor in getattr(model, part).state_dict().items():
            torch.testing.assert_close(tensor, state["weights"][part][name].half().float())
    assert card.residual_scale == state["scale"]

    again, _ = command(config_path, tmp_path / "more", init=str(path), overrides=["name=more"])
    assert again.name == "more.safetensors"
    assert read_card(again).residual_scale == card.residual_scale  # not fitted anew

    with pytest.raises(ConfigError, match="another network"):
        command(config_path, tmp_path / "other", init=str(path), overrides=["context=0"])
    with pytest.raises(ModelError):
        command(config_path, tmp_path / "other", init=str(tmp_path / "none.safetensors"))


def test_overrides(config_path):
    made = configured(config_path, ["patch=64", "seed=3", "network={width: 64}", "stages=[]"])
    assert (made.patch, made.seed, made.network.width, made.stages) == (64, 3, 64, ())
    for bad in ("patch", "pach=64", "patch=wide"):
        with pytest.raises(ConfigError, match="--set"):
            configured(config_path, [bad])


def state_of(networks, **fields) -> State:
    values = {
        "stage": 0,
        "step": 0,
        "seconds": 0.0,
        "weights": {},
        "average": [],
        "optimiser": None,
        "scale": (0.5, 0.25),
        "minutes": {},
        "steps": {},
    }
    return State(**values | fields)


def tiny_config() -> TrainingConfig:
    stages = tuple(Stage(part=p, minutes=1) for p in ("mean", "variance", "sampler"))
    return TrainingConfig(name="tiny", version="1", data=".", stages=stages, network=NetworkSpec(**TINY))


def test_an_unfinished_stage_is_written_as_its_average(tmp_path):
    networks = new_networks(NetworkSpec(**TINY), 1)
    average = [torch.full_like(p, 0.125) for p in networks.mean.parameters()]
    raw = {k: v.clone() for k, v in networks.mean.state_dict().items()}
    path = tmp_path / "tiny.safetensors"
    card = write_weights(path, tiny_config(), state_of(networks, weights={"mean": raw}, average=average), networks, [])
    assert not card.has_sampler
    model = load_model(path)
    assert model.sampler is None
    assert all((p == 0.125).all() for p in model.mean.parameters())
    assert model.variance is not None
    assert card.residual_scale == (0.5, 0.25)


def test_weights_written_and_loaded_answer_alike(tmp_path):
    networks = new_networks(NetworkSpec(**TINY), 1)
    for parameter in networks.mean.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    weights = {"mean": networks.mean.state_dict()}
    path = tmp_path / "tiny.safetensors"
    write_weights(path, tiny_config(), state_of(networks, stage=1, weights=weights), networks, [])
    other = new_networks(NetworkSpec(**TINY), 1)
    assert start_from(str(path), other, tiny_config()).residual_scale == (0.5, 0.25)
    images, conditions = torch.randn(1, mean_channels(1), 16, 16), torch.randn(1, FEATURES)
    expected = networks.mean(images, conditions)
    for network in (other.mean, load_model(path).mean):
        torch.testing.assert_close(network(images, conditions), expected, atol=2e-2, rtol=2e-2)
