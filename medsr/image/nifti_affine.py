"""From sform, qform and pixdim to one trustworthy affine, or a refusal that names the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from medsr.errors import ConfigError, InputError
from medsr.image.geometry import Geometry

Affine = NDArray[np.float64]
Prefer = Literal["sform", "qform"]

SHEAR = 5e-3  # cosine between two axes; float32 headers and double rounding stay under 1e-4, a tilted gantry is 0.03 up
SAME = 0.01  # of a voxel, at the worst corner
ROUNDING = 6e-4  # rad: near half turns, float32 quaternions are off by up to sqrt(2 eps) about each axis
DISAGREE = 0.5  # of a voxel: from here on, sform and qform are two different places
_SPACING_MM = (1e-4, 1e3)
_FAR_MM = 1e6


@dataclass(frozen=True, eq=False)
class Placement:
    """affine: (4, 4) voxel -> RAS+ mm. source: which header field it came from. code: NIfTI form code of it.

    qform_code: what a copy's qform, holding the same affine, may claim; 0 where the source claims nothing.
    """

    affine: Affine
    source: Literal["sform", "qform", "spacing", "mgh"]
    code: int
    qform_code: int
    warnings: tuple[str, ...] = ()


def place(
    header: Any,
    shape: Sequence[int],
    to_mm: float,
    name: str,
    *,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
) -> Placement:
    """Choose the affine of a NIfTI header (nibabel's structured header, unchecked).

    shape: (I, J, K). to_mm: length of the header's spatial unit in mm. Raises InputError for a form that cannot be
    an affine of rectangular voxels, for two forms that contradict each other, and for a spacing that is no number.
    """
    assumed = _three(assume_spacing)
    pixdim = np.asarray(header["pixdim"][1:4], float) * to_mm
    spacing_ok = bool(np.isfinite(pixdim).all() and (pixdim > 0).all())
    spacing = pixdim if spacing_ok or assumed is None else assumed
    sform, sform_fault = _sform(header, to_mm)
    qform, qform_fault = _qform(header, spacing, to_mm)
    if prefer is not None:
        chosen, fault = (sform, sform_fault) if prefer == "sform" else (qform, qform_fault)
        if chosen is None:
            raise InputError(f"{name}: --prefer {prefer}, but its {prefer} {fault}; leave the option out")
        code = int(header[f"{prefer}_code"])
        placed = Placement(chosen, prefer, code, code)
    else:
        placed = _without_preference(header, shape, name, spacing, (sform, sform_fault), (qform, qform_fault), assumed)
    warnings = list(placed.warnings)
    if not spacing_ok:
        warnings.append(f"the voxel spacing in pixdim, {_numbers(pixdim)}, is invalid; used {placed.source}")
    if assumed is not None and (spacing_ok or placed.source == "sform") and not np.allclose(assumed, spacing):
        warnings.append("--assume-spacing was not used: the file states a valid spacing")
    check_plausible(placed.affine, name)
    return replace(placed, warnings=tuple(warnings))


def _without_preference(
    header: Any,
    shape: Sequence[int],
    name: str,
    spacing: Affine,
    sform_and_fault: tuple[Affine | None, str],
    qform_and_fault: tuple[Affine | None, str],
    assumed: Affine | None,
) -> Placement:
    (sform, sform_fault), (qform, qform_fault) = sform_and_fault, qform_and_fault
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    spacing_ok = bool(np.isfinite(spacing).all() and (spacing > 0).all())
    if sform is not None:
        if qform is None:
            warnings = (f"the qform {qform_fault}; used the sform",) if qform_code and spacing_ok else ()
            return Placement(sform, "sform", sform_code, sform_code if qform_code else 0, warnings)
        return Placement(sform, "sform", sform_code, qform_code, _compare(sform, qform, shape, name))
    if sform_code != 0 and not (assumed is not None and qform is None):
        way_out = "Use the qform with --prefer qform" if qform is not None else "Give --assume-spacing to go without it"
        raise InputError(f"{name}: the sform {sform_fault}; expected an affine of rectangular voxels. {way_out}")
    if qform is not None:
        return Placement(qform, "qform", qform_code, qform_code)
    if not spacing_ok:
        raise InputError(
            f"{name}: the voxel spacing is {_numbers(spacing)} mm; expected three positive numbers. "
            "Give them with --assume-spacing IxJxK"
        )
    if qform_code != 0 and assumed is None:
        raise InputError(f"{name}: the qform {qform_fault} and there is no sform; give --assume-spacing to go without")
    warning = "the file does not say how the voxels lie in the patient (sform and qform codes 0); only spacing is known"
    return Placement(np.diag([*spacing, 1.0]), "spacing", 0, 0, (warning,))


def _sform(header: Any, to_mm: float) -> tuple[Affine | None, str]:
    """The sform in mm and "", or None and what is wrong with it."""
    if (code := int(header["sform_code"])) <= 0:
        return None, f"is not set (code {code})"
    affine = np.eye(4)
    affine[:3] = np.stack([np.asarray(header[row], float) for row in ("srow_x", "srow_y", "srow_z")]) * to_mm
    return affine_or_fault(affine)


def affine_or_fault(affine: Affine) -> tuple[Affine | None, str]:
    """The affine and "", or None and why it is not one of rectangular voxels."""
    if not np.isfinite(affine).all():
        return None, "holds NaN or Inf"
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not lengths.any():
        return None, "is all zero"
    if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        return None, "is singular"
    cosines = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths)
    worst = float(np.abs(cosines - np.eye(3)).max())
    if worst > SHEAR:
        return None, f"is sheared by {np.degrees(np.arcsin(min(1.0, worst))):.1f} degrees"
    return affine, ""


def _qform(header: Any, spacing: Affine, to_mm: float) -> tuple[Affine | None, str]:
    """The qform in mm (NIfTI-1 standard, method 2) and "", or None and what is wrong with it."""
    if (code := int(header["qform_code"])) <= 0:
        return None, f"is not set (code {code})"
    bcd = np.array([header["quatern_b"], header["quatern_c"], header["quatern_d"]], float)
    offset = np.array([header["qoffset_x"], header["qoffset_y"], header["qoffset_z"]], float) * to_mm
    if not (np.isfinite(bcd).all() and np.isfinite(offset).all()):
        return None, "holds NaN or Inf"
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        return None, "has no valid voxel spacing"
    squared = float(bcd @ bcd)
    if squared > 1 + 1e-5:
        return None, "is no rotation (quaternion longer than 1)"
    rotation = quat2mat([np.sqrt(max(0.0, 1 - squared)), *bcd])
    # pixdim[0] is the handedness; 0 counts as 1 (NIfTI-1 standard).
    handedness = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * [1, 1, handedness]
    affine[:3, 3] = offset
    return affine, ""


def corner_distance(one: Affine, other: Affine, shape: Sequence[int]) -> float:
    """Largest distance in mm between the places that two affines give to a corner voxel."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def _compare(sform: Affine, qform: Affine, shape: Sequence[int], name: str) -> tuple[str, ...]:
    voxel = min(Geometry((1, 1, 1), sform).spacing)
    distance = corner_distance(sform, qform, shape)
    diagonal = float(np.linalg.norm(Geometry((shape[0], shape[1], shape[2]), sform).field_of_view))
    if distance <= max(SAME * voxel, ROUNDING * diagonal):
        return ()
    if distance <= DISAGREE * voxel:
        return (f"sform and qform differ by up to {distance:.3g} mm; used the sform",)
    raise InputError(
        f"{name}: sform and qform place the scan up to {distance:.3g} mm apart; expected less than half a voxel. "
        "Choose with --prefer sform or --prefer qform"
    )


def check_plausible(affine: Affine, name: str) -> None:
    """Raise InputError for voxels of an impossible size, or impossibly far from the origin."""
    spacing = np.asarray(Geometry((1, 1, 1), affine).spacing)
    low, high = _SPACING_MM
    if not ((spacing >= low) & (spacing <= high)).all():
        raise InputError(
            f"{name}: a voxel spacing of {_numbers(spacing)} mm cannot be; expected {low:g} to {high:g} mm. "
            "Check pixdim, sform and the unit in xyzt_units"
        )
    far = float(np.abs(affine[:3, 3]).max())
    if not far <= _FAR_MM:
        raise InputError(f"{name}: the first voxel is {far:.3g} mm from the origin; check sform and qoffset")


def _three(assume_spacing: Sequence[float] | None) -> Affine | None:
    if assume_spacing is None:
        return None
    values = np.asarray(assume_spacing, float)
    if values.shape not in ((1,), (3,)) or not np.isfinite(values).all() or (values <= 0).any():
        raise ConfigError(f"--assume-spacing {_numbers(values)}: expected one or three positive numbers in mm")
    return np.broadcast_to(values, (3,)).copy()


def _numbers(values: Affine) -> str:
    return "x".join(f"{v:g}" for v in np.atleast_1d(values))
