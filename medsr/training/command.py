"""``medsr train``: configuration to weights file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from medsr.card import ModelCard, read_card
from medsr.config import load_config
from medsr.diffusion.device import dtype_for
from medsr.diffusion.model import load_model
from medsr.errors import ConfigError
from medsr.training.loop import train
from medsr.training.networks import Networks, new_networks
from medsr.training.record import Report
from medsr.training.setup import TrainingConfig, data_root, load_sources, training_rows
from medsr.training.team import Team, assembled
from medsr.training.weights import write_weights


def train_command(
    config_path: Path,
    out: Path | None,
    init: str | None,
    max_minutes: float | None,
    overrides: Sequence[str],
    *,
    dry_run: bool,
    report: Report,
) -> Path | None:
    """Set up, print, train, write. Returns the weights file, None after a dry run.

    out: default ``runs/<name>``. init: a model's name or file to start from. overrides: ``key=value``, the value in
    YAML. In several processes the leading one alone prints and writes. Raises ConfigError, ModelError, PlanError.
    """
    config = configured(config_path, overrides)
    start = read_card(init) if init is not None else None
    if start is not None:
        config = fitted(config, start)
    root = data_root() / config.data
    rows = training_rows(root)
    folder = run_folder(config, out)
    with assembled() as team:
        report = report if team.leads else _silent
        dtype = dtype_for(team.device)
        describe(config, rows, team, dtype, report)
        if dry_run:
            return None
        networks = starting_networks(config, init)
        state = train(
            config,
            load_sources(root, rows, config),
            rows,
            folder,
            networks=networks,
            team=team,
            dtype=None if dtype == torch.float32 else dtype,
            max_minutes=max_minutes,
            report=report,
            start=start,
        )
        path = folder / f"{config.name}.safetensors"
        if team.leads:
            card = write_weights(path, config, state, networks, rows)
            report(f"{path}: sha256 {card.sha256}")
        return path


def validate_command(config_path: Path, out: Path | None, overrides: Sequence[str], *, report: Report) -> None:
    """Score the checkpoints of a run that are not scored yet, and print all scores. Arguments as of train_command."""
    from medsr.training.validation import validate  # MONAI's metrics cost seconds to import

    config = configured(config_path, overrides)
    validate(config, data_root() / config.data, run_folder(config, out), report)


def run_folder(config: TrainingConfig, out: Path | None) -> Path:
    """Where a run leaves its files."""
    return out or Path("runs") / config.name


def describe(
    config: TrainingConfig, rows: Sequence[dict[str, str]], team: Team, dtype: torch.dtype, report: Report
) -> None:
    """What will be trained, on what."""
    subjects = len({r["subject"] for r in rows})
    devices = (
        f"{team.processes} processes, device {team.device.type}" if team.processes > 1 else f"device {team.device}"
    )
    report(f"{config.name}: {len(rows)} volumes of {subjects} subjects, {devices}, {dtype}")
    for stage in config.stages:
        length = f"{stage.steps} steps" if stage.steps else f"{stage.minutes:g} min"
        report(
            f"  {stage.part}: {length}, batch {stage.batch}, learning rate {stage.learning_rate:g} ({stage.schedule})"
        )


def configured(path: Path, overrides: Sequence[str]) -> TrainingConfig:
    """The file's configuration with ``key=value`` replacements of top-level values."""
    config = load_config(path, TrainingConfig)
    changed: dict[str, Any] = config.model_dump(exclude_unset=True)
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or key not in TrainingConfig.model_fields:
            known = ", ".join(sorted(TrainingConfig.model_fields))
            raise ConfigError(f"--set {item}: give key=value with one of {known}")
        try:
            changed[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: the value is not YAML; quote it for the shell") from error
    try:
        return TrainingConfig.model_validate(changed)
    except ValueError as error:
        raise ConfigError(f"--set does not fit: {' '.join(str(error).splitlines()[1:3])}") from error


def fitted(config: TrainingConfig, start: ModelCard) -> TrainingConfig:
    """The configuration with the network of the weights that training starts from. Raises ConfigError."""
    own: dict[str, Any] = {"network": start.network, "context": start.context}
    for key, value in own.items():
        if key in config.model_fields_set and getattr(config, key) != value:
            raise ConfigError(
                f"{start.name} has another network than the configuration: {key} is {value}, not "
                f"{getattr(config, key)}; leave network and context away, and they are taken from {start.name}"
            )
    return config.model_copy(update=own)


def starting_networks(config: TrainingConfig, init: str | None) -> Networks:
    """Untrained networks, the same in every process and every run, or those of a model. Raises ModelError."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        networks = new_networks(config.network, config.context)
    if init is None:
        return networks
    model = load_model(init)
    networks.mean.load_state_dict(model.mean.state_dict())
    if model.variance is not None:
        networks.variance.load_state_dict(model.variance.state_dict())
    if model.sampler is not None:
        networks.sampler.load_state_dict(model.sampler.state_dict())
    return networks


def _silent(_line: str) -> None:
    """Not the leading process."""
