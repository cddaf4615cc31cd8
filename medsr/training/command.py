"""``medsr train``: configuration to weights file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from medsr.card import ModelCard
from medsr.config import load_config
from medsr.diffusion.device import dtype_for, resolve_device
from medsr.diffusion.model import load_model, save_model
from medsr.errors import ConfigError
from medsr.training.loop import Networks, State, new_networks, train
from medsr.training.setup import TrainingConfig, data_root, load_sources, training_rows


def train_command(
    config_path: Path,
    out: Path | None,
    init: str | None,
    max_minutes: float | None,
    overrides: Sequence[str],
    *,
    dry_run: bool,
    report: Callable[[str], None],
) -> Path | None:
    """Set up, print, train, write. Returns the weights file, None after a dry run.

    out: default ``runs/<name>``. init: a model's name or file to start from. overrides: ``key=value``, the value in
    YAML. Raises ConfigError, ModelError.
    """
    config = configured(config_path, overrides)
    root = data_root() / config.data
    rows = training_rows(root)
    folder = out or Path("runs") / config.name
    device = resolve_device("auto")
    dtype = dtype_for(device)
    subjects = len({r["subject"] for r in rows})
    report(f"{config.name}: {len(rows)} volumes of {subjects} subjects, device {device}, {dtype}")
    for stage in config.stages:
        length = f"{stage.steps} steps" if stage.steps else f"{stage.minutes:g} min"
        report(f"  {stage.part}: {length}, batch {stage.batch}, learning rate {stage.learning_rate:g}")
    if dry_run:
        return None
    networks = new_networks(config.network, config.context)
    start = start_from(init, networks, config) if init is not None else None
    sources = load_sources(root, config)
    autocast = None if dtype == torch.float32 else dtype
    state = train(
        config,
        sources,
        folder,
        networks=networks,
        device=device,
        dtype=autocast,
        max_minutes=max_minutes,
        report=report,
        start=start,
    )
    path = folder / f"{config.name}.safetensors"
    card = write_weights(path, config, state, networks, rows)
    report(f"{path}: sha256 {card.sha256}")
    return path


def configured(path: Path, overrides: Sequence[str]) -> TrainingConfig:
    """The file's configuration with ``key=value`` replacements of top-level values."""
    config = load_config(path, TrainingConfig)
    changed: dict[str, Any] = config.model_dump()
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or key not in changed:
            raise ConfigError(f"--set {item}: give key=value with one of {', '.join(sorted(changed))}")
        changed[key] = yaml.safe_load(value)
    try:
        return TrainingConfig.model_validate(changed)
    except ValueError as error:
        raise ConfigError(f"--set does not fit: {str(error).splitlines()[0]}") from error


def start_from(init: str, networks: Networks, config: TrainingConfig) -> ModelCard:
    """Load a model's weights into the networks; returns its card. Raises ConfigError."""
    model = load_model(init)
    if model.card.network != config.network or model.card.context != config.context:
        raise ConfigError(f"{init} has another network than the configuration; set network and context to its values")
    networks.mean.load_state_dict(model.mean.state_dict())
    if model.variance is not None:
        networks.variance.load_state_dict(model.variance.state_dict())
    if model.sampler is not None:
        networks.sampler.load_state_dict(model.sampler.state_dict())
    return model.card


def write_weights(
    path: Path, config: TrainingConfig, state: State, networks: Networks, rows: Sequence[dict[str, str]]
) -> ModelCard:
    """The weights file of a training, finished or not: averaged weights where a stage is under way."""
    weights = {name: dict(values) for name, values in state.weights.items()}
    if state.average and state.stage < len(config.stages):
        part = config.stages[state.stage].part
        names = [name for name, _ in networks.part(part).named_parameters()]
        weights[part] = dict(zip(names, state.average, strict=True))
    for name in ("mean", "variance"):
        weights.setdefault(name, networks.part(name).state_dict())
    card = ModelCard(
        name=config.name,
        version=config.version,
        network=config.network,
        context=config.context,
        has_sampler="sampler" in weights,
        residual_scale=state.scale,
        licence=config.licence,
        training={
            "minutes": {k: round(v, 1) for k, v in state.minutes.items()},
            "steps": dict(state.steps),
            "seed": config.seed,
            "patch": config.patch,
            "data": [{k: r[k] for k in ("file", "subject", "modality", "dataset", "licence")} for r in rows],
        },
    )
    tensors = {f"{part}.{key}": value for part, values in weights.items() for key, value in values.items()}
    return save_model(path, card, tensors)
