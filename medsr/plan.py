"""From a header and a request to a plan; every refusal that needs no voxel happens here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medsr.card import ModelCard
from medsr.errors import InputError, PlanError
from medsr.image.files import display_name
from medsr.image.geometry import Geometry, Triple
from medsr.image.header import Header
from medsr.image.profile import IDENTITY, AxisProfiles, choose_profiles, condition
from medsr.image.volume import Modality, given_modality
from medsr.machine import available_memory, gigabytes
from medsr.outputs import check_output
from medsr.passes import Pass, check_grids, make_passes
from medsr.request import SAME_SPACING, Request, check_request, target_grid

MAX_CONDITION = 10.0  # of A A^T, up to which hard consistency is stable
SECONDS_PER_PIXEL = 1.1e-6  # one evaluation of the network on two CPU cores, see docs/results/speed.md
FIXED_MEMORY = 1_500_000_000  # bytes: interpreter, libraries, weights and one batch of slices
VOLUMES_IN_MEMORY = 6  # float32 copies of the output that a run holds at its peak


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that will be done to one scan; JSON by ``to_json``. Memory in bytes, time in seconds."""

    path: Path
    source: Geometry
    acquired: Geometry  # equals source unless k-space is cropped back first
    target: Geometry
    modality: Modality | None  # None: decided at read
    slice_axis: int
    passes: tuple[Pass, ...]
    consistency: Literal["hard", "soft", "off"]
    request: Request
    model: str
    model_sha256: str
    output: Path | None
    memory_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def factors(self) -> Triple:
        """Acquired over target spacing along i, j, k: how much finer each axis becomes."""
        i, j, k = (a / b for a, b in zip(self.acquired.spacing, self.target.spacing, strict=True))
        return i, j, k

    @property
    def profiles(self) -> AxisProfiles:
        """The scan's own profile along each axis: that of the first pass that scales it."""
        found = [IDENTITY, IDENTITY, IDENTITY]
        for step in reversed(self.passes):
            for axis, profile in enumerate(step.profiles):
                if profile is not IDENTITY:
                    found[axis] = profile
        return found[0], found[1], found[2]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        asked = {k: v for k, v in asdict(replace(self.request, target=None)).items() if k != "target"}
        asked["model"] = Path(self.request.model).name  # sidecars travel: no paths of this machine in them
        if self.request.dicom_template is not None:
            asked["dicom_template"] = self.request.dicom_template.name
        return {
            "input": self.path.name,
            "source": self.source.to_json(),
            "acquired": self.acquired.to_json(),
            "target": self.target.to_json(),
            "factors": [round(f, 6) for f in self.factors],
            "modality": self.modality or "decided at read",
            "passes": [
                {
                    "from": list(p.source.shape),
                    "to": list(p.target.shape),
                    "planes": ["".join("ijk"[a] for a in plane) for plane in p.planes],
                    "profiles": [{"profile": str(a), "known": a.known, "evidence": a.evidence} for a in p.profiles],
                }
                for p in self.passes
            ],
            "consistency": self.consistency,
            "request": asked,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "output": self.output.name if self.output else None,
            "memory_bytes": self.memory_bytes,
            "estimated_seconds": self.seconds,
            "warnings": list(self.warnings),
        }


def make_plan(
    header: Header, request: Request, card: ModelCard, output: Path | None = None, *, overwrite: bool = False
) -> Plan:
    """What will be done to the scan of ``header``, or the reason why not; reads no voxel.

    output: the file to be written, None when the result stays in memory. Raises ConfigError for a request that cannot
    be meant, InputError for a 4-D file without a choice, PlanError for what cannot or should not be done, JobError
    when the output's folder cannot be written.
    """
    check_request(request, card)
    _check_volumes(header, request)
    modality = _modality(header, request, card)
    target = target_grid(header, request)
    acquired = _acquired_grid(header, request, modality, target)
    check_grids(acquired, target, card, header)
    factors = [a / b for a, b in zip(acquired.spacing, target.spacing, strict=True)]
    scaled = [axis for axis in range(3) if factors[axis] > 1 + SAME_SPACING]
    undone = tuple(a < s for a, s in zip(acquired.shape, header.geometry.shape, strict=True))
    profiles = choose_profiles(header, modality, scaled, request.profile, acquired=(undone[0], undone[1], undone[2]))
    passes = make_passes(acquired, target, header.slice_axis, scaled, profiles, card.max_factor)
    consistency, notes = _consistency(request, profiles)
    plan = Plan(
        path=header.path,
        source=header.geometry,
        acquired=acquired,
        target=target,
        modality=modality,
        slice_axis=header.slice_axis,
        passes=passes,
        consistency=consistency,
        request=request,
        model=card.name,
        model_sha256=card.sha256,
        output=output,
        memory_bytes=_memory(target, header, request),
        seconds=round(_seconds(passes, header, request), 1),
        warnings=(*header.warnings, *notes),
    )
    _check_machine(plan)
    if output is not None:
        size = 4 * _voxels(target) * _runs(header, request)
        check_output(header, output, request, size, overwrite=overwrite)
    return plan


def check_tags(plan: Plan, tags: Header) -> None:
    """Refuse a DICOM output that could not be written with the tags of a series; reads no voxel.

    tags: header of that series. Raises as ``dicom_write.check_series``, and PlanError for maps whose extra is not
    installed.
    """
    from medsr.image.dicom_write import check_series

    request = plan.request
    check_series(
        plan.target,
        plan.modality,
        tags,
        description=request.series_description,
        number=request.series_number,
        burn_in=request.burn_in,
    )
    if request.uncertainty or request.detail_map:
        from medsr.image.dicom_map import check_extra

        check_extra()


def _check_volumes(header: Header, request: Request) -> None:
    if request.volume is None and header.volumes > 1:
        raise InputError(
            f"{display_name(header.path)} is 4-D with {header.volumes} volumes; medsr upscales one 3-D volume. "
            f"Choose one with --volume 0 (to {header.volumes - 1}), or --volume all"
        )
    if isinstance(request.volume, int) and not 0 <= request.volume < header.volumes:
        name = display_name(header.path)
        there = f"has volumes 0 to {header.volumes - 1}" if header.volumes > 1 else "is one 3-D volume; leave it out"
        raise PlanError(f"--volume {request.volume}: {name} {there}")


def _modality(header: Header, request: Request, card: ModelCard) -> Modality | None:
    chosen = given_modality(request.modality) or header.modality
    if request.modality == "auto" and header.foreign is not None:
        raise PlanError(
            f"{display_name(header.path)} is not an MR or CT image: {header.foreign}. If it is one, say so with "
            "--modality mr or --modality ct"
        )
    if chosen is not None and chosen not in card.modalities:
        raise PlanError(
            f"model {card.name} was trained on {' and '.join(card.modalities)}, and this is a {chosen} scan"
        )
    return chosen


def _acquired_grid(header: Header, request: Request, modality: Modality | None, target: Geometry) -> Geometry:
    """The grid that was truly sampled: the stored one, or a coarser one when the scanner zero-filled k-space.

    Only along axes that are to become finer: along the others there is nothing to win.
    """
    stored = header.geometry
    if request.from_acquired == "off" or modality != "MR":
        return stored
    shape = [
        min(count, n) if count is not None and count >= 2 and fine < old * (1 - SAME_SPACING) else n
        for count, n, fine, old in zip(header.acquired, stored.shape, target.spacing, stored.spacing, strict=True)
    ]
    return stored if tuple(shape) == stored.shape else stored.with_shape(shape)


def _consistency(request: Request, profiles: AxisProfiles) -> tuple[Literal["hard", "soft", "off"], tuple[str, ...]]:
    known = all(profile.known for profile in profiles)
    worst = math.prod(condition(profile) for profile in profiles)
    if request.consistency == "auto":
        return ("hard" if known and worst < MAX_CONDITION else "soft"), ()
    if request.consistency != "hard":
        return request.consistency, ()
    if worst >= MAX_CONDITION:
        raise PlanError(
            f"--consistency hard: the profile {', '.join(map(str, profiles))} has no stable inverse (condition "
            f"{worst:.3g}, the limit is {MAX_CONDITION:g}); use --consistency soft"
        )
    if not known:
        return "hard", ("--consistency hard with an assumed profile: a wrong one does harm; name it with --profile",)
    return "hard", ()


def _voxels(geometry: Geometry) -> int:
    return math.prod(geometry.shape)


def _runs(header: Header, request: Request) -> int:
    return header.volumes if request.volume == "all" else 1


def _memory(target: Geometry, header: Header, request: Request) -> int:
    """Peak in bytes: an upper estimate, which benchmarks/ checks against runs."""
    copies = VOLUMES_IN_MEMORY + (_runs(header, request) - 1)  # all volumes of a 4-D file are written at once
    return FIXED_MEMORY + copies * 4 * _voxels(target)


def evaluations_of_a_sample(request: Request) -> int:
    """Heun's method looks at both ends of each step but the last, which ends where there is no noise."""
    return 2 * request.steps - 1 if request.sampler == "heun" else request.steps


def sampler_evaluations(request: Request) -> int:
    """Evaluations of the sampler's network in a pass, each over the slices of one plane; 0 without samples."""
    if request.texture == 0 and not (request.uncertainty and request.samples > 1):
        return 0
    return request.samples * evaluations_of_a_sample(request)


def _seconds(passes: tuple[Pass, ...], header: Header, request: Request) -> float:
    """The mean is evaluated once in every plane of a pass."""
    drawn = sampler_evaluations(request)
    pixels = sum(_voxels(p.target) * (len(p.planes) + drawn) for p in passes)
    return pixels * SECONDS_PER_PIXEL * _runs(header, request)


def _check_machine(plan: Plan) -> None:
    free = available_memory()
    if free is not None and plan.memory_bytes > free:
        raise PlanError(
            f"the output ({'x'.join(map(str, plan.target.shape))} voxels) needs about "
            f"{gigabytes(plan.memory_bytes)} of memory and {gigabytes(free)} is free; "
            "ask for a smaller --scale or crop the scan"
        )
