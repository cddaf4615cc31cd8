"""The training configuration and the volumes that it names."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose
from pydantic import BaseModel, ConfigDict, Field

from medsr.card import NetworkSpec
from medsr.errors import ConfigError
from medsr.image.geometry import slice_axis_by_spacing
from medsr.image.volume import Modality
from medsr.training.draws import Sharpness, Source
from medsr.transforms import LoadVolumed, Normalised


class Stage(BaseModel):
    """One part of a training: which network, how long, how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    part: Literal["mean", "variance", "sampler"]
    minutes: float  # of wall clock on the machine at hand; resumed runs count what is already spent
    steps: int | None = None  # instead of minutes: a fixed number, which makes a run repeatable bit by bit
    learning_rate: float = 8e-4
    schedule: Literal["cosine", "constant-then-decay"] = "cosine"
    batch: int = 16  # of all processes together


class Validation(BaseModel):
    """``medsr train CONFIG --validate``: which degradations, and how much of each scan of the split val."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    protocols: tuple[str, ...] = ("inplane-x2", "inplane-x4", "slice-x4", "blind-x2")
    in_plane: int = Field(default=128, ge=32)  # voxels at most, from the middle of the scan
    slices: int = Field(default=32, ge=8)


class TrainingConfig(BaseModel):
    """``medsr train CONFIG``; every value can be changed by ``--set key=value``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: str
    data: str  # folder with an INDEX.csv, relative to $MEDSR_DATA
    stages: tuple[Stage, ...]
    network: NetworkSpec = NetworkSpec()
    context: int = 1
    patch: int = 96
    seed: int = 0
    weight_decay: float = 1e-4
    clip: float = 1.0
    save_every_minutes: float = 4.0
    checkpoint_minutes: float = 10.0  # 0: only at the end of a stage
    preview_minutes: float = 10.0  # 0: no pictures
    validation: Validation = Validation()
    phantom_weight: float = 0.3  # of a phantom against a person
    mr_share: float = 0.6  # of all samples
    licence: str = "Apache-2.0"


def data_root() -> Path:
    """``$MEDSR_DATA``, else ``../shared/data`` beside the working folder. Raises ConfigError when there is neither."""
    root = Path(os.environ.get("MEDSR_DATA", "../shared/data"))
    if not (root / "INDEX.csv").is_file():
        raise ConfigError(f"no INDEX.csv in {root}; set MEDSR_DATA to the folder that holds the training volumes")
    return root


def training_rows(root: Path) -> list[dict[str, str]]:
    """Rows of INDEX.csv that may enter weights: split train, open licence."""
    with (root / "INDEX.csv").open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["split"] == "train" and r["weights_ok"] == "yes"]
    if not rows:
        raise ConfigError(f"{root / 'INDEX.csv'} has no row with split = train and weights_ok = yes")
    return rows


def load_sources(root: Path, config: TrainingConfig) -> list[Source]:
    """Read, normalise and cache every training volume through MONAI."""
    rows = training_rows(root)
    items = [{"image": str(root / r["file"]), "modality": r["modality"], "row": r} for r in rows]
    dataset = CacheDataset(
        items, Compose([LoadVolumed("image"), Normalised("image")]), cache_rate=1.0, num_workers=2, progress=False
    )
    loaded = [cast(dict[str, Any], dataset[i]) for i in range(len(rows))]
    weights = sample_weights(rows, config)
    return [_source(item, row, w) for item, row, w in zip(loaded, rows, weights, strict=True)]


def sample_weights(rows: list[dict[str, str]], config: TrainingConfig) -> list[float]:
    """Chance of each volume: a subject with n volumes counts n ** 0.3 times, a phantom less; modalities as configured.

    Subjects of the collection RORDEN may be one person and count as one.
    """
    person = [r["subject"].split(" ")[0].split("-lab")[0] for r in rows]
    person = ["RORDEN" if p.startswith("RORDEN") else p for p in person]
    raw = [
        (config.phantom_weight if r["phantom"] != "no" else 1.0) / person.count(p) ** 0.7
        for r, p in zip(rows, person, strict=True)
    ]
    share = {"MR": config.mr_share, "CT": 1 - config.mr_share}
    total = {m: sum(w for w, r in zip(raw, rows, strict=True) if r["modality"] == m) for m in share}
    return [w * share[r["modality"]] / total[r["modality"]] for w, r in zip(raw, rows, strict=True)]


def _source(item: dict[str, Any], row: dict[str, str], weight: float) -> Source:
    image = item["image"]
    array = np.ascontiguousarray(image[0].numpy(), dtype=np.float32)
    spacing = tuple(float(v) for v in row["spacing"].split("x"))
    sharpness = cast(tuple[Sharpness, Sharpness, Sharpness], tuple(row["native"].split("/")))
    return Source(
        array,
        (spacing[0], spacing[1], spacing[2]),
        sharpness,
        slice_axis_by_spacing(spacing),
        cast(Modality, row["modality"]),
        row["subject"],
        weight,
    )
