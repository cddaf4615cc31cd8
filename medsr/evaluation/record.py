"""``metrics.json``: what a study measured, under which degradation, with what; its schema, read and written."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medsr.errors import InputError
from medsr.image.files import atomic_write
from medsr.image.volume import Modality

SCHEMA: Literal[1] = 1


@dataclass(frozen=True)
class Metric:
    """A metric as tables and plots show it. better: which way is good; digits: after the point."""

    label: str
    unit: str
    better: Literal["higher", "lower", "zero", "one"]
    digits: int


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "dB", "higher", 2),
    "psnr_whole": Metric("PSNR, whole volume", "dB", "higher", 2),
    "ssim_3d": Metric("SSIM, 3-D", "", "higher", 4),
    "ssim_2d": Metric("SSIM, 2-D", "", "higher", 4),
    "mae": Metric("mean absolute error", "units of the scan", "lower", 2),
    "spectrum_error": Metric("spectrum error", "dB", "lower", 2),
    "hfen": Metric("HFEN", "", "lower", 3),
    "between_slices": Metric("between slices", "", "one", 2),
    "between_slices_fine": Metric("between slices, fine", "", "one", 2),
    "shift": Metric("shift", "voxels", "zero", 3),
    "bias_lung": Metric("bias of lung", "HU", "zero", 2),
    "bias_fat": Metric("bias of fat", "HU", "zero", 2),
    "bias_soft": Metric("bias of soft tissue", "HU", "zero", 2),
    "bias_bone": Metric("bias of bone", "HU", "zero", 2),
    "bias_foreground": Metric("bias of the foreground", "HU", "zero", 2),
    "certificate": Metric("certificate", "", "lower", 5),
    "spread_skill": Metric("spread / error", "", "one", 2),
    "coverage_90": Metric("coverage of the 90 % interval", "", "higher", 3),
    "mse_ratio": Metric("MSE ratio", "", "one", 2),
    "seconds": Metric("time", "s", "lower", 2),
    "peak_memory_mb": Metric("peak memory", "MB", "lower", 0),
    "evaluations": Metric("evaluations", "", "lower", 0),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VolumeFacts(_Part):
    """A reference volume. name: its path below the data folder, with slashes. shape: (I, J, K), spacing in mm."""

    name: str
    subject: str
    modality: Modality
    phantom: bool
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    slice_axis: int
    sha256: str


class ProtocolFacts(_Part):
    """A degradation, and in words what it does and what methods are told of it. factor 1: not known (axes: other)."""

    name: str
    axes: Literal["in-plane", "slice", "other"]
    factor: float
    text: str


class MethodFacts(_Part):
    """A method. kind: a classical one, medsr itself, or files that were brought along (``--compare``)."""

    name: str
    kind: Literal["classical", "medsr", "other"]
    text: str
    texture: float | None = None


class ModelFacts(_Part):
    """The model of the methods of kind medsr."""

    name: str
    version: str
    sha256: str


class Curve(_Part):
    """Radial power over the reference's, in dB, at frequencies in cycles per voxel of the reference."""

    frequency: tuple[float, ...]
    decibels: tuple[float, ...]


class Reliability(_Part):
    """Bins of foreground voxels by stated standard deviation: its RMS, the RMS error there, and their number."""

    stated: tuple[float, ...]
    error: tuple[float, ...]
    voxels: tuple[int, ...]


class Outcome(_Part):
    """One method on one volume under one protocol. metrics: keys of METRICS, those that the volume allows."""

    volume: str
    protocol: str
    method: str
    metrics: dict[str, float]
    spectrum: Curve | None = None
    reliability: Reliability | None = None
    warnings: tuple[str, ...] = ()


class Exclusion(_Part):
    """A volume that a protocol does not admit, or that could not be read, and why."""

    volume: str
    protocol: str
    reason: str


class Study(_Part):
    """All of ``metrics.json``. noise_ceiling: by volume, the PSNR in dB that the reference's own noise allows."""

    schema_version: Literal[1] = SCHEMA
    title: str
    created: str  # ISO 8601, UTC
    command: str
    split: str | None
    versions: dict[str, str]  # of medsr, Python, torch, numpy, ...
    model: ModelFacts | None
    seed: int
    protocols: tuple[ProtocolFacts, ...]
    methods: tuple[MethodFacts, ...]
    volumes: tuple[VolumeFacts, ...]
    outcomes: tuple[Outcome, ...]
    excluded: tuple[Exclusion, ...] = ()
    noise_ceiling: dict[str, float] = {}


def read_study(folder: Path) -> Study:
    """The ``metrics.json`` of a study's folder, or the file itself. Raises InputError."""
    path = folder / "metrics.json" if folder.is_dir() else folder
    try:
        return Study.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{folder} is no study: {error.strerror} ({path.name}); give a folder of evaluate") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is no study of schema {SCHEMA}: {place}: {first['msg']}") from error


def write_study(study: Study, folder: Path) -> None:
    """Replace ``metrics.json`` and ``metrics.csv`` (long form) in ``folder``."""
    with atomic_write(folder / "metrics.json", overwrite=True) as stream:
        stream.write(study.model_dump_json(indent=1).encode() + b"\n")
    with atomic_write(folder / "metrics.csv", overwrite=True) as stream:
        stream.write(long_form(study.volumes, study.outcomes).encode())


def long_form(volumes: Sequence[VolumeFacts], outcomes: Sequence[Outcome]) -> str:
    """CSV with one number a line: subject, volume, protocol, method, metric, value."""
    subject = {v.name: v.subject for v in volumes}
    rows = [
        (subject[o.volume], o.volume, o.protocol, o.method, name, repr(value))
        for o in outcomes
        for name, value in o.metrics.items()
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("subject", "volume", "protocol", "method", "metric", "value"))
    writer.writerows(rows)
    return text.getvalue()


def command_text(arguments: Sequence[str]) -> str:
    """A command for the record: studies travel, so that of an absolute path only the last part is kept."""
    words = ["medsr"]
    for argument in arguments[1:]:
        name, equals, value = argument.rpartition("=")
        words.append(name + equals + Path(value).name if Path(value).is_absolute() else argument)
    return shlex.join(words)
