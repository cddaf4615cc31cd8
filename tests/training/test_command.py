"""``medsr train``: set up, print, train, write."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from medsr import resources
from medsr.card import ModelCard, NetworkSpec, read_card
from medsr.cli import cli
from medsr.diffusion.model import load_model
from medsr.errors import ConfigError, ModelError
from medsr.training import residual
from medsr.training.command import configured, fitted, starting_networks, train_command, validate_command
from medsr.training.networks import PARTS
from medsr.training.setup import TrainingConfig

TINY = {"width": 32, "blocks_top": 1, "blocks_bottom": 1, "embedding": 16}
ROW = {
    "split": "train",
    "weights_ok": "yes",
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
    monkeypatch.setattr(residual, "FIT_BATCHES", 2)
    return folder


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "tiny.yaml"
    stages = [{"part": p, "steps": 2, "batch": 2} for p in PARTS]
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
    for part in PARTS:
        for name, tensor in getattr(model, part).state_dict().items():
            torch.testing.assert_close(tensor, state["weights"][part][name].half().float())
    assert card.residual_scale == state["scale"]
    stages = ["1-mean-000002", "2-variance-000002", "3-sampler-000002"]
    assert sorted(p.stem for p in (tmp_path / "run" / "checkpoints").iterdir()) == stages
    assert sorted(p.stem for p in (tmp_path / "run" / "previews").iterdir()) == stages

    again, _ = command(config_path, tmp_path / "more", init=str(path), overrides=["name=more"])
    assert again.name == "more.safetensors"
    assert read_card(again).residual_scale == card.residual_scale  # not fitted anew
    assert read_card(again).training["steps"] == {"mean": 4, "variance": 4, "sampler": 4}

    with pytest.raises(ConfigError, match="another network"):
        command(config_path, tmp_path / "other", init=str(path), overrides=["context=0"])
    with pytest.raises(ModelError):
        command(config_path, tmp_path / "other", init=str(tmp_path / "none.safetensors"))


def test_overrides(config_path):
    made = configured(config_path, ["patch=64", "seed=3", "network={width: 64}", "stages=[]"])
    assert (made.patch, made.seed, made.network.width, made.stages) == (64, 3, 64, ())
    for bad in ("patch", "pach=64", "patch=wide", "stages=[{", "stages=[{part: mean}]"):
        with pytest.raises(ConfigError, match="--set"):
            configured(config_path, [bad])


def test_untrained_networks_are_the_same_in_every_run_of_a_seed():
    config = TrainingConfig(name="tiny", version="1", data=".", stages=(), network=NetworkSpec(**TINY))
    state = torch.get_rng_state()
    one, same, other = (starting_networks(config.model_copy(update={"seed": s}), None) for s in (1, 1, 2))
    assert torch.equal(one.mean.enter.weight, same.mean.enter.weight)
    assert not torch.equal(one.mean.enter.weight, other.mean.enter.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_comes_with_the_weights_unless_the_configuration_says_another(config_path):
    start = ModelCard(name="start", version="1", network=NetworkSpec(**TINY | {"width": 64}), context=2)
    free = TrainingConfig(name="tiny", version="1", data=".", stages=())
    assert (fitted(free, start).network, fitted(free, start).context) == (start.network, 2)
    with pytest.raises(ConfigError, match=r"another network.*leave network and context away"):
        fitted(configured(config_path, []), start)
    same = configured(config_path, ["network={width: 64, blocks_top: 1, blocks_bottom: 1, embedding: 16}", "context=2"])
    assert fitted(same, start) == same


def test_validation_needs_a_checkpoint(tmp_path, data, config_path):
    with pytest.raises(ConfigError, match="no checkpoint in"):
        validate_command(config_path, tmp_path / "run", (), report=print)


@pytest.mark.parametrize("option", [("--dry-run",), ("--init", "medsr-base"), ("--max-minutes", "1")])
def test_validation_trains_nothing(config_path, option):
    done = CliRunner().invoke(cli, ["train", str(config_path), "--validate", *option])
    assert done.exit_code == 2
    assert "--validate trains nothing" in done.output


@pytest.mark.parametrize(("name", "rounds"), [("base.yaml", 3), ("finetune.yaml", 1)])
def test_the_configurations_of_the_package_are_valid(name, rounds):
    config = configured(resources.config_path(name), [])
    assert [stage.part for stage in config.stages] == rounds * list(PARTS)
    start = read_card()
    assert fitted(config, start).network == start.network
