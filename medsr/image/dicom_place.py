"""Where the slices of a derived series lie: a volume on its source's axes, and its places as DICOM writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.image.files import display_name
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.volume import Modality, Volume

PARALLEL = 1e-3  # of a direction cosine: how far axes of a volume may be off those of its template
_OUTSIDE = 1.0  # voxels of the template by which a volume may reach beyond its field of view
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_SAME_SLICE = 1e-3  # of the slice distance


@dataclass(frozen=True, eq=False)
class Places:
    """Of the slices of a volume, in LPS mm. orientation: direction of growing column index, then of growing row index.

    position: (K, 3) centre of each first pixel. spacing: between rows, between columns. location: (K,) distance from
    the origin along the normal.
    """

    orientation: NDArray[np.float64]
    position: NDArray[np.float64]
    spacing: tuple[float, float]
    between: float
    location: NDArray[np.float64]


def check_template(target: Geometry, modality: Modality | None, template: Header) -> None:
    """Raise InputError for a volume that cannot take its place and tags from a DICOM series.

    target: grid of the volume. modality: of the volume, None when not yet known.
    """
    name = display_name(template.path)
    if modality is not None and template.modality != modality:
        what = template.foreign or (f"a {template.modality} image" if template.modality else "no CT or MR image")
        raise InputError(
            f"the result is a {modality} image, and {name} is {what}; choose a {modality} series, or write NIfTI (-o "
            "NAME.nii.gz)"
        )
    _axes(target, template)
    corners = np.array([[*c, 1.0] for c in product(*[(-0.5, n - 0.5) for n in target.shape])]).T
    index = (np.linalg.inv(template.geometry.affine) @ target.affine @ corners)[:3]
    beyond = np.maximum(-0.5 - index, index + 0.5 - np.array(template.geometry.shape)[:, None]).max()
    if beyond > _OUTSIDE:
        raise InputError(
            f"the result reaches {beyond:.3g} voxels beyond the field of view of {name}; the template must be the "
            "series that the scan was made from"
        )


def turned_shape(target: Geometry, template: Header) -> tuple[int, int, int]:
    """(columns, rows, slices) of a volume on ``target`` once it is ``aligned``. Raises InputError as that."""
    i, j, k = (target.shape[axis] for axis in _axes(target, template)[0])
    return i, j, k


def aligned(volume: Volume, template: Header) -> Volume:
    """The same voxels with axes in the order and direction of a DICOM series: none is computed anew.

    Raises InputError as ``check_template``.
    """
    check_template(volume.geometry, volume.modality, template)
    order, signs = _axes(volume.geometry, template)
    if order == (0, 1, 2) and signs == (1, 1, 1):
        return volume
    array = volume.array.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        turn[old, 3] = 0 if sign > 0 else volume.geometry.shape[old] - 1
    geometry = Geometry((array.shape[0], array.shape[1], array.shape[2]), volume.geometry.affine @ turn)
    return replace(volume, array=array, geometry=geometry)


def _axes(target: Geometry, template: Header) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each axis of the template: the axis of the target that is parallel to it, and 1 or -1."""
    cosines = _unit(template.geometry).T @ _unit(target)
    order = np.argmax(np.abs(cosines), axis=1)
    signs = np.sign(cosines[range(3), order]).astype(int)
    wanted = np.zeros((3, 3))
    wanted[range(3), order] = signs
    straight = wanted @ _unit(target).T  # rows: the axes of the target in the template's order
    off = np.abs(straight - _unit(template.geometry).T).max()
    if sorted(order) != [0, 1, 2] or off > PARALLEL:
        raise InputError(
            f"the axes of the result are not parallel to those of {display_name(template.path)} (off by {off:.2g}, "
            f"at most {PARALLEL:g}); the template must be the series that the scan was made from"
        )
    return (int(order[0]), int(order[1]), int(order[2])), (int(signs[0]), int(signs[1]), int(signs[2]))


def _unit(geometry: Geometry) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = geometry.affine[:3, :3] / np.asarray(geometry.spacing)
    return unit


def places_of(geometry: Geometry) -> Places:
    """Places of the slices of a geometry whose k grows from slice to slice."""
    affine = geometry.affine[:3] * _RAS_TO_LPS[:, None]
    row, column = (affine[:, axis] / geometry.spacing[axis] for axis in (0, 1))
    position = affine[:, 3] + np.arange(geometry.shape[2])[:, None] * affine[:, 2]
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    return Places(
        np.concatenate([row, column]),
        position,
        (geometry.spacing[1], geometry.spacing[0]),
        geometry.spacing[2],
        position @ normal,
    )


def neighbours(places: Places, first: NDArray[np.float64]) -> list[tuple[int, ...]]:
    """For each slice the source slices it lies between, the nearest first; one where it lies on it or beyond the ends.

    first: (K, 3) LPS mm, first pixel of each source slice, in order along the normal.
    """
    normal = np.cross(places.orientation[:3], places.orientation[3:])
    source, wanted = first @ normal, places.position @ normal
    if len(source) == 1:
        return [(0,)] * len(wanted)
    tolerance = _SAME_SLICE * abs(float(source[-1] - source[0])) / (len(source) - 1)
    found: list[tuple[int, ...]] = []
    for at in wanted:
        low = min(max(int(np.searchsorted(source, at, side="right")) - 1, 0), len(source) - 2)
        near, far = sorted((low, low + 1), key=lambda n: (abs(source[n] - at), n))
        alone = abs(source[near] - at) <= tolerance or not source[low] <= at <= source[low + 1]
        found.append((near,) if alone else (near, far))
    return found
