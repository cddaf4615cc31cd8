"""The chain of passes that leads from the acquired grid to the target, and the grids for which there is one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medsr.card import ModelCard
from medsr.errors import PlanError
from medsr.image.files import display_name
from medsr.image.geometry import Geometry, Triple
from medsr.image.header import Header
from medsr.image.profile import IDENTITY, AxisProfile, AxisProfiles
from medsr.request import SAME_SPACING

TOTAL_FACTOR = 8.0  # largest factor of a whole plan along one axis
SAME_POSITION = 1e-2  # voxels: distance up to which two grids of one spacing coincide
MIN_WIDTH = 8  # voxels; in a narrower plane the network sees nothing but edges

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pass:
    """One application of the model: from ``source`` to ``target``, over all slices of every plane in ``planes``."""

    source: Geometry
    target: Geometry
    planes: tuple[tuple[int, int], ...]  # the two axes that span a network slice
    profiles: AxisProfiles


def make_passes(
    source: Geometry,
    target: Geometry,
    slice_axis: int,
    scaled: list[int],
    profiles: AxisProfiles,
    max_factor: float,
) -> tuple[Pass, ...]:
    """First the slice axis at the scan's in-plane grid, then the in-plane axes; too large factors in equal parts."""
    step, first = source.index_of(target)
    a, b = (axis for axis in range(3) if axis != slice_axis)
    stages = [([slice_axis], _slice_planes(source, slice_axis)), ([a, b], ((a, b),))]
    passes: list[Pass] = []
    at = source
    reached: dict[int, int] = {}  # voxels so far along the axes that have left the source grid
    for stage, planes in stages:
        axes = [axis for axis in stage if axis in scaled]
        if not axes:
            continue
        largest = max(1 / step[axis] for axis in axes)
        parts = max(1, math.ceil(math.log(largest) / math.log(max_factor) - 1e-9))
        for part in range(1, parts + 1):
            for axis in axes:
                left = (1 / step[axis]) ** ((parts - part) / parts)
                reached[axis] = max(1, round(target.shape[axis] / left))
            complete = part == parts and set(scaled) <= set(reached)
            goal = target if complete else _between(source, target, step, first, reached)
            passes.append(Pass(at, goal, planes, _pass_profiles(profiles, axes, part)))
            at = goal
    return tuple(passes)


def _between(source: Geometry, target: Geometry, step: Vector, first: Vector, reached: dict[int, int]) -> Geometry:
    """The source's grid along some axes and, along those in ``reached``, so many voxels over the target's extent."""
    shape, scale, start = list(source.shape), np.ones(3), np.zeros(3)
    for axis, count in reached.items():
        shape[axis] = count
        scale[axis] = step[axis] * target.shape[axis] / count
        start[axis] = first[axis] + (scale[axis] - step[axis]) / 2
    affine = source.affine.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] = source.affine[:3, :3] @ start + source.affine[:3, 3]
    return Geometry((shape[0], shape[1], shape[2]), affine)


def _slice_planes(source: Geometry, slice_axis: int) -> tuple[tuple[int, int], ...]:
    """The two planes that contain the slice axis; one that is only a strip is left out when the other is not."""
    others = [axis for axis in range(3) if axis != slice_axis]
    widest = max(others, key=lambda axis: source.shape[axis])
    wide = [axis for axis in others if source.shape[axis] >= MIN_WIDTH or axis == widest]
    return tuple((min(axis, slice_axis), max(axis, slice_axis)) for axis in wide)


def _pass_profiles(profiles: AxisProfiles, axes: list[int], part: int) -> AxisProfiles:
    """The profiles of one pass. The scan's own holds for its first part; what a first part has made is a guess."""
    chosen = [IDENTITY, IDENTITY, IDENTITY]
    for axis in axes:
        own = profiles[axis]
        chosen[axis] = own
        if part > 1 and own.kind != "sinc":  # k-space crops compose: the second is as well known as the first
            chosen[axis] = AxisProfile(own.kind, 1.0, "assumed: the grid of the pass before", known=False)
    return chosen[0], chosen[1], chosen[2]


def check_grids(acquired: Geometry, target: Geometry, card: ModelCard, header: Header) -> None:
    """Refuse, by a PlanError, a target that cannot be reached from the acquired grid with this model."""
    name = display_name(header.path)
    low, high = card.spacing_mm
    if min(acquired.spacing) < low or max(acquired.spacing) > high:
        raise PlanError(
            f"{name} has voxels of {_mm(acquired.spacing)}; model {card.name} was made for spacings of {low:g} to "
            f"{high:g} mm. If the header is wrong, correct it with --assume-spacing"
        )
    try:
        step, first = acquired.index_of(target)
    except ValueError as error:
        raise PlanError(f"the target grid of {name} is rotated against the scan: {error}") from error
    if step.min() <= 0:
        raise PlanError(f"the target grid of {name} runs against the scan along axis {'ijk'[int(step.argmin())]}")
    if step.max() > 1 + SAME_SPACING:
        raise PlanError(
            f"the target grid ({_mm(target.spacing)}) is coarser than {name} ({_mm(acquired.spacing)}) along axis "
            f"{'ijk'[int(step.argmax())]}; medsr only makes grids finer"
        )
    _check_cover(acquired, target, step, first, name)
    _check_factors(acquired, step, name)


def _check_cover(acquired: Geometry, target: Geometry, step: Vector, first: Vector, name: str) -> None:
    """Both edges of the target within one voxel of the scan's: elsewhere there is nothing to be consistent with."""
    low = first - step / 2 + 0.5
    high = first + step * (np.asarray(target.shape) - 0.5) + 0.5 - np.asarray(acquired.shape)
    worst = max(float(np.abs(low).max()), float(np.abs(high).max()))
    if worst > 1 + 1e-6:
        raise PlanError(
            f"the target grid does not cover the same field of view as {name}: an edge differs by {worst:.3g} voxels, "
            "and at most one is allowed"
        )
    for axis in range(3):
        same = target.shape[axis] == acquired.shape[axis] and abs(first[axis]) < SAME_POSITION
        if step[axis] > 1 - SAME_SPACING and not same:
            raise PlanError(
                f"the target grid has the spacing of {name} along axis {'ijk'[axis]} but not its voxels "
                f"({target.shape[axis]} and {acquired.shape[axis]}, shifted by {first[axis]:.3g}); medsr only makes "
                "grids finer"
            )


def _check_factors(acquired: Geometry, step: Vector, name: str) -> None:
    factors = 1 / step
    if factors.max() <= 1 + SAME_SPACING:
        raise PlanError(
            f"nothing to upscale: {name} ({'x'.join(map(str, acquired.shape))} at {_mm(acquired.spacing)}) is already "
            "on the grid that was asked for. Choose a larger --scale or a finer --spacing"
        )
    if factors.max() > TOTAL_FACTOR * (1 + SAME_SPACING):
        axis = int(factors.argmax())
        finest = acquired.spacing[axis] / TOTAL_FACTOR
        raise PlanError(
            f"axis {'ijk'[axis]} of {name} would become {factors[axis]:.3g} times finer than it was acquired; the "
            f"largest factor allowed is {TOTAL_FACTOR:g} (spacing {finest:.4g} mm)"
        )
    for axis in range(3):
        if factors[axis] > 1 + SAME_SPACING and acquired.shape[axis] < 2:
            raise PlanError(
                f"{name} has one slice along axis {'ijk'[axis]}, which cannot be made finer; upscale in plane only, "
                "for example with --scale 2"
            )


def _mm(spacing: Triple) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing) + " mm"
