"""The named degradations of the evaluation protocol: the scan that a coarser scanner would have made."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from medsr.config import load_config
from medsr.degradation import Degradation, Kind, parse_profile
from medsr.errors import ConfigError, PlanError
from medsr.image.acquired import Sharpness
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.intensity import CT_AIR_HU
from medsr.image.nifti import write
from medsr.image.scan import inspect, read_scan
from medsr.image.volume import Modality, Volume
from medsr.resources import config_path

MIN_IN_PLANE, MIN_SLICES = 32, 16  # voxels of the coarse scan along a scaled axis
MAX_SLICE_MM = 3.5  # thicker slices are no reference along the slice axis


class Noise(BaseModel):
    """White noise after the operator. mr_percent: of the foreground's 99.5th percentile, Rician. ct_hu: Gaussian."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mr_percent: float = Field(ge=0)
    ct_hu: float = Field(ge=0)


class Protocol(BaseModel):
    """One named degradation, see configs/protocols.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    axes: Literal["in-plane", "slice"]
    factor: float = Field(gt=1)
    profile: str
    magnitude: bool = False
    noise: Noise | None = None
    told: bool
    modalities: tuple[Modality, ...] = ("MR", "CT")

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, text: str) -> str:
        parse_profile(text)
        return text

    @property
    def told_profile(self) -> str:
        """What a method is told, in the form of ``--profile``."""
        return self.profile if self.told else "auto"

    def scaled_axes(self, slice_axis: int) -> tuple[int, ...]:
        """The voxel axes that become coarser."""
        return (slice_axis,) if self.axes == "slice" else tuple(a for a in range(3) if a != slice_axis)

    def coarse_grid(self, fine: Geometry, slice_axis: int) -> Geometry:
        """The coarse scan's grid: the same field of view, the number of voxels rounded."""
        axes = self.scaled_axes(slice_axis)
        return fine.with_scale([1 / self.factor if a in axes else 1.0 for a in range(3)])

    def unfit(
        self, fine: Geometry, modality: Modality, slice_axis: int, sharpness: Sequence[Sharpness] = ()
    ) -> str | None:
        """Why a volume on ``fine`` cannot be this protocol's reference; None where it can.

        sharpness: of each axis i, j, k; empty where nobody looked. An axis that holds nothing up to its Nyquist
        frequency has no detail to compare in plane.
        """
        if modality not in self.modalities:
            return f"the protocol is for {' and '.join(self.modalities)}, and this is {modality}"
        coarse = self.coarse_grid(fine, slice_axis)
        if self.axes == "slice":
            spacing, slices = fine.spacing[slice_axis], coarse.shape[slice_axis]
            if spacing > MAX_SLICE_MM:
                return f"its slices are {spacing:.3g} mm apart; a reference has at most {MAX_SLICE_MM:g} mm"
            return f"{slices} slices are left of it; {MIN_SLICES} are needed" if slices < MIN_SLICES else None
        axes = self.scaled_axes(slice_axis)
        pixels = [coarse.shape[a] for a in axes]
        if min(pixels) < MIN_IN_PLANE:
            return f"{pixels[0]} x {pixels[1]} pixels are left of a slice; {MIN_IN_PLANE} each way are needed"
        limited = [a for a in axes if sharpness and sharpness[a] == "band-limited"]
        return f"axis {'ijk'[limited[0]]} was interpolated or zero-filled: no detail to compare" if limited else None

    @property
    def text(self) -> str:
        """What is done to the reference and what methods are told, in one sentence."""
        where = "along the slice axis" if self.axes == "slice" else "in plane"
        kind, width = parse_profile(self.profile)
        parts = [f"{self.factor:g} times coarser {where}: {_OPERATORS[kind].format(width=width)}"]
        if self.magnitude:
            parts.append("magnitude taken (MR)")
        if self.noise is not None:
            parts.append(
                f"noise added, Rician of {self.noise.mr_percent:g} % of the foreground's 99.5th percentile (MR) or "
                f"Gaussian of {self.noise.ct_hu:g} HU (CT)"
            )
        told = f"methods are told the profile, {self.profile}" if self.told else "methods are told nothing of it"
        return f"{', '.join(parts)}; {told}."


_OPERATORS: dict[Kind, str] = {
    "identity": "resampled",
    "sinc": "k-space cropped",
    "hamming": "k-space cropped under a Hamming window",
    "gauss": "averaged by a gaussian, full width at half maximum {width:g} x the coarse spacing",
    "box": "averaged by a box, {width:g} x the coarse spacing wide",
    "raised-cosine": "averaged by a raised cosine, half width {width:g} x the coarse spacing",
    "triangle": "averaged by a triangle, half width {width:g} x the coarse spacing",
}


class _ProtocolFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    protocols: dict[str, Protocol]


def load_protocols() -> dict[str, Protocol]:
    """Every named degradation, in the order of configs/protocols.yaml. Raises ConfigError."""
    return load_config(config_path("protocols.yaml"), _ProtocolFile).protocols


def protocol(name: str) -> Protocol:
    """One protocol by name. Raises ConfigError naming those there are."""
    known = load_protocols()
    if name not in known:
        raise ConfigError(f"unknown protocol {name!r}; there are: {', '.join(known)}")
    return known[name]


def seed_of(file_name: str) -> int:
    """Seed of a volume's noise: the crc32 of its file name, the same on every machine."""
    return zlib.crc32(file_name.encode())


def simulate(volume: Volume, protocol: Protocol, generator: torch.Generator, *, slice_axis: int) -> Volume:
    """The scan that a coarser scanner would have made of ``volume``, on a grid with the same field of view.

    volume: (I, J, K); CT values below -1024 HU (padding) are set to -1024 first. generator: on the CPU, for
    the noise alone, seeded with ``seed_of``. Returns a volume of the coarse grid, whose provenance names the operator.
    """
    fine = volume.geometry
    coarse = protocol.coarse_grid(fine, slice_axis)
    profile = parse_profile(protocol.profile)
    A = Degradation.between(fine, coarse, [profile] * 3)
    array = np.maximum(volume.array, CT_AIR_HU) if volume.modality == "CT" else volume.array
    y = A(torch.from_numpy(np.ascontiguousarray(array)))
    if protocol.magnitude and volume.modality == "MR":
        y = y.abs()
    if protocol.noise is not None:
        y = _noisy(y, volume, protocol.noise, generator, slice_axis)
    provenance = volume.provenance.then(
        "degraded", profile=protocol.profile, axes=protocol.axes, factor=protocol.factor, shape=list(coarse.shape)
    )
    return Volume(y.contiguous().numpy(), coarse, volume.modality, provenance)


def degrade_file(
    path: Path,
    output: Path,
    protocol_name: str,
    *,
    modality: Modality | None = None,
    volume: int | None = None,
    overwrite: bool = False,
) -> Geometry:
    """Write the scan that a coarser scanner would have made of ``path``, as a protocol by name fixes it.

    Noise, where the protocol has some, is seeded by the file's name. Returns the coarse grid. Raises the kinds of
    medsr.errors.
    """
    named = protocol(protocol_name)
    if output.exists() and path.exists() and output.samefile(path):
        raise PlanError("the output is the input itself; choose another name with -o")
    header = inspect(path)
    fine = read_scan(header, volume=volume, modality=modality)
    generator = torch.Generator().manual_seed(seed_of(path.name))
    coarse = simulate(fine.volume, named, generator, slice_axis=header.slice_axis)
    write(output, coarse, header=header, mark="degraded, not acquired", description=protocol_name, overwrite=overwrite)
    return coarse.geometry


def _noisy(
    y: torch.Tensor, reference: Volume, noise: Noise, generator: torch.Generator, slice_axis: int
) -> torch.Tensor:
    white = torch.randn((2, *y.shape), generator=generator)
    first, second = white[0], white[1]
    if reference.modality == "CT":
        return y + noise.ct_hu * first
    inside = reference.array[foreground(reference.array, "MR", slice_axis)]
    sd = noise.mr_percent / 100 * float(np.percentile(inside, 99.5))
    return torch.hypot(y + sd * first, sd * second)
