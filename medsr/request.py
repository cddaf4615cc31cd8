"""What a user asks for, and the grid that it means for one scan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medsr.card import ModelCard
from medsr.errors import ConfigError, PlanError
from medsr.image.geometry import Geometry, Triple
from medsr.image.header import Header
from medsr.image.volume import GivenModality

Consistency = Literal["auto", "hard", "soft", "off"]
SamplerName = Literal["heun", "euler", "dpmpp2m", "ancestral"]

ISOTROPIC_FACTOR = 6.0  # --isotropic asks for no more than this
DEFAULT_SCALE = 2.0
MOST_DRAWS = 1000  # samples, and steps of each: more change nothing, and a slip of the hand would run for years
SAME_SPACING = 1e-4  # relative difference up to which two spacings are one


@dataclass(frozen=True)
class Request:
    """What the user asks for; the defaults are those of ``medsr upscale`` (docs: reference)."""

    scale: tuple[float, ...] | None = None  # one number: in plane; three: i, j, k
    spacing: tuple[float, ...] | None = None  # mm; one number: all axes
    isotropic: bool = False
    texture: float = 0.0
    samples: int = 1
    steps: int = 8
    sampler: SamplerName = "dpmpp2m"
    seed: int = 0
    uncertainty: bool = False
    detail_map: bool = False
    report: bool = False  # a page about the run, beside the output
    profile: str = "auto"
    consistency: Consistency = "auto"
    from_acquired: Literal["auto", "off"] = "auto"
    modality: GivenModality = "auto"
    volume: int | Literal["all"] | None = None
    prefer: Literal["sform", "qform"] | None = None
    assume_spacing: tuple[float, ...] | None = None
    series: str | None = None  # of DICOM: UID, number, or either with a part (4/2)
    deskew: bool = False  # slide the slices of a tilted gantry back
    fill_gaps: bool = False  # interpolate missing slices
    dicom_template: Path | None = None  # series that a NIfTI scan was made from; the output is DICOM then
    series_description: str | None = None
    series_number: int | None = None
    keep_private: Literal["none"] = "none"
    burn_in: bool = False  # a visible mark in the pixels of a DICOM output
    device: str = "auto"
    model: str = "medsr-base"
    threads: int | None = None
    target: Geometry | None = None  # an exact target grid (evaluation); excludes scale, spacing and isotropic


def check_request(request: Request, card: ModelCard) -> None:
    """Refuse a request that contradicts itself (ConfigError) or asks for more than the model has (PlanError)."""
    ways = {"--scale": request.scale, "--spacing": request.spacing, "a target grid": request.target}
    given = [name for name, value in ways.items() if value is not None] + ["--isotropic"] * request.isotropic
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} each set the target grid; give one of them")
    if not 0 <= request.texture <= 1:
        raise ConfigError(f"--texture {request.texture:g} is outside 0 (mean) to 1 (full sample)")
    if not (1 <= request.samples <= MOST_DRAWS and 1 <= request.steps <= MOST_DRAWS):
        raise ConfigError(f"--samples {request.samples} --steps {request.steps}: each must be 1 to {MOST_DRAWS}")
    if request.seed < 0:
        raise ConfigError(f"--seed {request.seed}; give a whole number from 0 up")
    if request.threads is not None and request.threads < 1:
        raise ConfigError(f"--threads {request.threads}; give a whole number from 1 up")
    if request.texture > 0 and not card.has_sampler:
        raise PlanError(f"model {card.name} holds no sampler, so it cannot add texture; use --texture 0")
    if request.uncertainty and not (card.has_sampler or card.calibration):
        raise PlanError(f"model {card.name} predicts no uncertainty; leave --uncertainty away or use another model")


def target_grid(header: Header, request: Request) -> Geometry:
    """The grid that is asked for. Raises ConfigError for a request that contradicts itself, PlanError otherwise."""
    source = header.geometry
    if request.target is not None:
        return request.target
    if request.spacing is not None:
        asked = _three(request.spacing, "--spacing")
        # An axis that is already finer stays as it is.
        return source.with_spacing([s if s < old * (1 - SAME_SPACING) else old for s, old in _pairs(asked, source)])
    if request.isotropic:
        goal = max(min(source.spacing), max(source.spacing) / ISOTROPIC_FACTOR)
        return source.with_spacing([goal if old > goal * (1 + SAME_SPACING) else old for old in source.spacing])
    scale = request.scale or (DEFAULT_SCALE,)
    if len(scale) == 1:
        scale = tuple(1.0 if axis == header.slice_axis else scale[0] for axis in range(3))
    factors = _three(scale, "--scale")
    if min(factors) < 1:
        raise PlanError(f"--scale {min(factors):g} would make the scan coarser; a factor is 1 or more. To make a "
                        "coarser scan use: medsr degrade")  # fmt: skip
    return source.with_scale(factors)


def _pairs(asked: Triple, source: Geometry) -> list[tuple[float, float]]:
    return list(zip(asked, source.spacing, strict=True))


def _three(values: tuple[float, ...], option: str) -> Triple:
    """One number for all axes, or three for i, j, k; each finite and above zero."""
    numbers = tuple(values) * 3 if len(values) == 1 else tuple(values)
    if len(numbers) != 3:
        raise ConfigError(f"{option} takes one number or three (i x j x k), not {len(numbers)}")
    if not all(math.isfinite(v) and v > 0 for v in numbers):
        raise ConfigError(f"{option} {'x'.join(f'{v:g}' for v in values)}: every number must be finite and above 0")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
