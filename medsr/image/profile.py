"""The point-spread function of a scan along each axis: what the user says of it, what tags prove, what is assumed."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medsr.errors import ConfigError
from medsr.image.header import Header
from medsr.image.volume import Modality

ProfileKind = Literal["identity", "sinc", "gauss", "box"]

ISOTROPY = (
    1.5  # slice spacing over in-plane spacing, up to which an MR scan without tags is taken for a 3-D acquisition
)
WIDTHS = (0.1, 4.0)  # widths that a profile may have, in units of the spacing; wider ones have no stable inverse
_PLAUSIBLE_THICKNESS = (0.2, 3.0)  # thickness / spacing; outside it the tag is a fault of the file and is not believed
_FORM = "use auto, or kind:width with kind sinc, gauss or box, for example gauss:1.0, or three for the axes i,j,k"


@dataclass(frozen=True)
class AxisProfile:
    """The assumed point-spread along one axis. kind: identity, sinc, gauss or box; width in units of LR spacing."""

    kind: ProfileKind
    width: float
    evidence: str  # "user", "tags: ...", "assumed: ..."
    known: bool  # False: the network is told that the profile is a guess, and consistency is soft

    def __str__(self) -> str:
        return self.kind if self.kind in ("identity", "sinc") else f"{self.kind}:{self.width:g}"


AxisProfiles = tuple[AxisProfile, AxisProfile, AxisProfile]
IDENTITY = AxisProfile("identity", 1.0, "not scaled", known=True)


def parse_profile(text: str) -> AxisProfiles | None:
    """``--profile``: None for ``auto``, else one profile per axis i, j, k (a single one counts for all three).

    ``gauss:1.0`` is a gaussian of full width at half maximum 1.0 x spacing, ``box:1.3`` a slice 1.3 x spacing thick,
    ``sinc`` the crop of k-space (it has no width). Raises ConfigError.
    """
    if text.strip().lower() == "auto":
        return None
    parts = [_parse_axis(part, text) for part in text.split(",")]
    if len(parts) == 1:
        parts *= 3
    if len(parts) != 3:
        raise ConfigError(f"--profile {text!r} names {len(parts)} axes; {_FORM}")
    return parts[0], parts[1], parts[2]


def _parse_axis(part: str, text: str) -> AxisProfile:
    kind, colon, number = part.strip().lower().partition(":")
    if kind == "sinc" and not colon:
        return AxisProfile("sinc", 1.0, "user", known=True)
    if kind not in ("gauss", "box"):
        raise ConfigError(f"--profile {text!r}: {part.strip()!r} is not a profile; {_FORM}")
    try:
        width = float(number) if colon else 1.0
    except ValueError:
        raise ConfigError(f"--profile {text!r}: {number!r} is not a width; {_FORM}") from None
    low, high = WIDTHS
    if not low <= width <= high:
        raise ConfigError(f"--profile {text!r}: width {number} is outside {low:g} to {high:g} voxel spacings")
    return AxisProfile("box" if kind == "box" else "gauss", width, "user", known=True)


def choose_profiles(
    header: Header,
    modality: Modality | None,
    scaled_axes: Collection[int],
    request_profile: str = "auto",
    *,
    acquired: tuple[bool, bool, bool] = (False, False, False),
) -> AxisProfiles:
    """The profile of each axis i, j, k by the best evidence there is: the user, tags, then an assumption.

    modality: None (decided at read) is treated as MR. scaled_axes: the others get the identity. acquired: axes whose
    k-space is cropped back to what was truly sampled before upscaling, which makes their profile known to be a sinc.
    Raises ConfigError for a profile that cannot be read.
    """
    asked = parse_profile(request_profile)
    profiles = []
    for axis in range(3):
        if axis not in scaled_axes:
            profiles.append(IDENTITY)
        elif asked is not None:
            profiles.append(asked[axis])
        elif modality == "CT":
            profiles.append(_ct_profile(header, axis))
        elif acquired[axis]:
            profiles.append(AxisProfile("sinc", 1.0, "zero-filling undone: k-space cropped as acquired", known=True))
        else:
            profiles.append(_mr_profile(header, axis))
    return profiles[0], profiles[1], profiles[2]


def relative_thickness(header: Header) -> float | None:
    """Slice thickness / distance between slices, or None when it is not stated or cannot be true."""
    if header.slice_thickness is None:
        return None
    width = header.slice_thickness / header.geometry.spacing[header.slice_axis]
    low, high = _PLAUSIBLE_THICKNESS
    return width if low <= width <= high else None


def is_thick_slice(header: Header) -> bool:
    """True when the distance between slices is at least ``ISOTROPY`` times the larger in-plane spacing."""
    spacing = header.geometry.spacing
    in_plane = max(s for axis, s in enumerate(spacing) if axis != header.slice_axis)
    return spacing[header.slice_axis] >= ISOTROPY * in_plane


def _thickness_evidence(header: Header) -> str:
    spacing = header.geometry.spacing[header.slice_axis]
    return f"tags: slices {header.slice_thickness:g} mm thick, {spacing:g} mm apart"


def _ct_profile(header: Header, axis: int) -> AxisProfile:
    if axis != header.slice_axis:
        return AxisProfile("gauss", 1.0, "assumed: CT in plane, reconstruction kernel not stated", known=False)
    width = relative_thickness(header)
    if width is None:
        return AxisProfile("box", 1.0, "assumed: CT slices as thick as they are apart", known=False)
    return AxisProfile("box", width, _thickness_evidence(header), known=True)


def _mr_profile(header: Header, axis: int) -> AxisProfile:
    if axis == header.slice_axis:
        return _mr_slice_profile(header)
    sampled, stored = header.acquired[axis], header.geometry.shape[axis]
    if sampled is None:
        return AxisProfile("sinc", 1.0, "assumed: MR in plane, acquired matrix not stated", known=False)
    if sampled < stored:
        return AxisProfile("sinc", 1.0, f"assumed: MR in plane, zero-filled from {sampled} to {stored}", known=False)
    return AxisProfile("sinc", 1.0, f"tags: acquired matrix {sampled}, stored {stored}", known=True)


def _mr_slice_profile(header: Header) -> AxisProfile:
    width = relative_thickness(header)
    if header.acquisition_type == "3D":
        # A 3-D scan whose slices overlap was interpolated along the partition axis: the sinc is not the stored grid's.
        overlaps = width is not None and width > 1.05
        evidence = "assumed: 3-D MR, interpolated slices" if overlaps else "tags: 3-D acquisition"
        return AxisProfile("sinc", 1.0, evidence, known=not overlaps)
    if header.acquisition_type is None and not is_thick_slice(header):
        return AxisProfile("sinc", 1.0, "assumed: near-isotropic MR is a 3-D acquisition", known=False)
    if width is not None:
        return AxisProfile("gauss", width, _thickness_evidence(header), known=True)
    return AxisProfile("gauss", 1.0, "assumed: MR slices as thick as they are apart", known=False)


def condition(profile: AxisProfile) -> float:
    """Condition number of ``A A^T`` along one axis, in the limit of large factors and long axes.

    ``A A^T`` is then a convolution whose spectrum is the squared transfer function folded at the coarse grid,
    ``sum_m H(f + m)^2`` with f in cycles per spacing: H = sinc(w f) for a box, exp(-(pi w f)^2 / (4 ln 2)) for a
    gaussian of full width at half maximum w. A box of width 2 is blind at Nyquist: infinite.
    """
    if profile.kind in ("identity", "sinc"):
        return 1.0
    f = np.linspace(0, 0.5, 33)[:, None] + np.arange(-40, 41)
    f = f * profile.width
    transfer = np.sinc(f) if profile.kind == "box" else np.exp(-((np.pi * f) ** 2) / (4 * np.log(2)))
    folded = (transfer**2).sum(axis=1)
    return float(folded.max() / folded.min()) if folded.min() > 1e-12 else math.inf
