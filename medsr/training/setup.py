"""The training configuration and the volumes that it names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medsr.card import NetworkSpec
from medsr.errors import ConfigError
from medsr.image.acquired import Sharpness, measured_sharpness
from medsr.image.header import Header
from medsr.image.intensity import CT_AIR_HU
from medsr.image.modality import by_voxels
from medsr.image.nifti import inspect, read
from medsr.image.volume import Array, Modality
from medsr.index import read_index
from medsr.training.draws import Source
from medsr.transforms import LoadVolumed, Normalised

# Columns of INDEX.csv beside file, subject and split, and what stands for them where they are absent.
OPTIONAL = {
    "person": "",  # who the subject is, where two names may stand for one
    "modality": "",  # MR or CT; else as the file and its voxels say
    "native": "",  # per axis, how far the grid is filled with true frequencies; else as the spectrum shows
    "phantom": "no",
    "weights_ok": "yes",  # no: the licence forbids weights that were made from it
    "dataset": "",
    "licence": "",
}
MIN_IN_PLANE = 16  # voxels; a drawn scan has 8 along an axis at least, and half of the reference's at most


class Stage(BaseModel):
    """One part of a training: which network, how long, how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    part: Literal["mean", "variance", "sampler"]
    minutes: float = Field(default=0.0, ge=0)  # of wall clock; resumed runs count what is already spent
    steps: int | None = Field(default=None, ge=1)  # instead: a fixed number, which makes a run repeatable bit by bit
    learning_rate: float = 8e-4
    schedule: Literal["cosine", "constant-then-decay"] = "cosine"
    batch: int = Field(default=16, ge=1)  # of all processes together

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.steps is None and self.minutes == 0:
            raise ValueError("a stage needs minutes or steps")
        return self


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
    phantom_weight: float = Field(default=0.3, gt=0)  # of a phantom against a person
    mr_share: float = Field(default=0.6, ge=0, le=1)  # of all samples, where there are both MR and CT
    same_person: tuple[str, ...] = ()  # subjects whose names begin alike, with one of these, count as one person
    licence: str = "Apache-2.0"


def data_root() -> Path:
    """``$MEDSR_DATA``, else ``../shared/data`` beside the working folder."""
    return Path(os.environ.get("MEDSR_DATA", "../shared/data"))


def training_rows(root: Path) -> list[dict[str, str]]:
    """Rows of INDEX.csv that may enter weights, with every column of OPTIONAL.

    They are of the split train, with weights_ok = yes where there is such a column. An empty modality or native is
    filled in from the file. Raises ConfigError for a damaged index and for a file that cannot be trained on, and
    InputError for one that cannot be read.
    """
    return _rows(root, "train")


def validation_rows(root: Path) -> list[dict[str, str]]:
    """Rows of the split val, otherwise as ``training_rows``; no weights are made from them, so any licence will do."""
    return _rows(root, "val")


def load_sources(root: Path, rows: Sequence[dict[str, str]], config: TrainingConfig) -> list[Source]:
    """Read, normalise and cache the volumes of rows such as ``training_rows`` gives, through MONAI."""
    items = [{"image": str(root / r["file"]), "modality": r["modality"]} for r in rows]
    dataset = CacheDataset(
        items, Compose([LoadVolumed("image"), Normalised("image")]), cache_rate=1.0, num_workers=2, progress=False
    )
    loaded = [cast(dict[str, Any], dataset[i]) for i in range(len(rows))]
    weights = sample_weights(rows, config)
    return [
        _source(item, row, inspect(root / row["file"]), w) for item, row, w in zip(loaded, rows, weights, strict=True)
    ]


def sample_weights(rows: Sequence[dict[str, str]], config: TrainingConfig) -> list[float]:
    """Chance of each volume: a person with n volumes counts n ** 0.3 times, a phantom less; modalities as configured.

    Who is one person: the column person, else ``config.same_person``, else the subject. One modality alone gets all.
    """
    people = [_person(r, config) for r in rows]
    raw = [
        (1.0 if r["phantom"] in ("", "no") else config.phantom_weight) / people.count(p) ** 0.7
        for r, p in zip(rows, people, strict=True)
    ]
    total = {m: sum(w for w, r in zip(raw, rows, strict=True) if r["modality"] == m) for m in ("MR", "CT")}
    share = {"MR": config.mr_share, "CT": 1 - config.mr_share} if all(total.values()) else {"MR": 1.0, "CT": 1.0}
    return [w * share[r["modality"]] / total[r["modality"]] for w, r in zip(raw, rows, strict=True)]


# --- INDEX.csv -----------------------------------------------------------------------------------------------------


def _rows(root: Path, split: str) -> list[dict[str, str]]:
    path = root / "INDEX.csv"
    if not path.exists():
        raise ConfigError(
            f"no INDEX.csv in {root}; set MEDSR_DATA to the folder that holds it and the training volumes"
        )
    rows = read_index(path, OPTIONAL, ConfigError)
    wanted = [r for r in rows if r["split"] == split and (split != "train" or r["weights_ok"] == "yes")]
    if not wanted:
        licence = " and weights_ok = yes" if split == "train" else ""
        raise ConfigError(f"{path} has no row with split = {split}{licence}; mark some subjects so")
    return [_described(root, row) for row in wanted]


def _described(root: Path, row: dict[str, str]) -> dict[str, str]:
    """The row with what it leaves open taken from its file, and a file that teaches something."""
    name, path = row["file"], root / row["file"]
    if not path.is_file():
        raise ConfigError(f"INDEX.csv lists {name}, which is not in {root}; correct the path or take the row out")
    header = inspect(path)
    _check_shape(name, header)
    if row["modality"] and row["native"]:
        return row
    # Read as if it were known, for errors that speak of the index and not of the options of another command.
    array = read(path, modality=cast(Modality, row["modality"] or "MR"), header=header).array
    modality = row["modality"] or _modality(name, header, array)
    native = row["native"] or "/".join(measured_sharpness(array - CT_AIR_HU if modality == "CT" else array))
    return row | {"modality": modality, "native": native}


def _check_shape(name: str, header: Header) -> None:
    shape = header.geometry.shape
    if header.volumes > 1:
        raise ConfigError(f"{name} holds {header.volumes} volumes; training takes 3-D files: split it and list each")
    if min(n for axis, n in enumerate(shape) if axis != header.slice_axis) < MIN_IN_PLANE:
        size = " x ".join(map(str, shape))
        raise ConfigError(
            f"{name} has {size} voxels; training needs {MIN_IN_PLANE} on both axes of a slice: take the row out"
        )


def _modality(name: str, header: Header, array: Array) -> Modality:
    verdict = by_voxels(array, header.modality)
    foreign = header.foreign or verdict.foreign
    if foreign or verdict.modality is None:
        what = foreign or f"of unknown modality ({verdict.evidence})"
        raise ConfigError(
            f"{name} is {what}; write MR or CT into its column modality of INDEX.csv, or take the row out"
        )
    return verdict.modality


def _person(row: dict[str, str], config: TrainingConfig) -> str:
    alike = (start for start in config.same_person if row["subject"].startswith(start))
    return row["person"] or next(alike, row["subject"])


def _source(item: dict[str, Any], row: dict[str, str], header: Header, weight: float) -> Source:
    return Source(
        array=np.ascontiguousarray(item["image"][0].numpy(), dtype=np.float32),
        spacing=header.geometry.spacing,
        sharpness=cast(tuple[Sharpness, Sharpness, Sharpness], tuple(row["native"].split("/"))),
        slice_axis=header.slice_axis,
        modality=cast(Modality, row["modality"]),
        subject=row["subject"],
        weight=weight,
    )
