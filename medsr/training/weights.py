"""The weights file of a training, finished or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsr.card import ModelCard
from medsr.diffusion.model import save_model
from medsr.training.networks import Networks
from medsr.training.setup import TrainingConfig
from medsr.training.state import State

DATA_KEYS = ("file", "subject", "modality", "dataset", "licence")  # what the card tells of each training scan


def write_weights(
    path: Path, config: TrainingConfig, state: State, networks: Networks, rows: Sequence[dict[str, str]]
) -> ModelCard:
    """Weights and card: averaged weights where a stage is under way. rows: those of INDEX.csv that were trained on."""
    weights = {name: dict(values) for name, values in state.weights.items()}
    steps, minutes = dict(state.steps), dict(state.minutes)
    if state.average:
        part = config.stages[state.stage].part
        names = [name for name, _ in networks.part(part).named_parameters()]
        weights[part] = dict(zip(names, state.average, strict=True))
        steps[part] = steps.get(part, 0) + state.step
        minutes[part] = minutes.get(part, 0.0) + state.seconds / 60
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
            "minutes": {k: round(v, 1) for k, v in minutes.items()},
            "steps": steps,
            "seed": config.seed,
            "patch": config.patch,
            "data": [{k: r[k] for k in DATA_KEYS} for r in rows],
        },
    )
    tensors = {f"{part}.{key}": value for part, values in weights.items() for key, value in values.items()}
    return save_model(path, card, tensors)
