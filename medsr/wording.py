"""What the command says of headers, plans and results: text for people, JSON values for programs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsr.errors import InputError
from medsr.image.acquired import acquired_matrix
from medsr.image.files import display_name, escaped
from medsr.image.header import Header
from medsr.image.nifti_affine import Prefer
from medsr.image.profile import is_thick_slice
from medsr.image.scan import inspect, is_dicom_path, read_scan, refuse_options
from medsr.outputs import default_output, is_series
from medsr.plan import Plan
from medsr.publish import Upscaled
from medsr.request import Request

if TYPE_CHECKING:
    from medsr.image.dicom_series import Series

_GRID = ("scale", "spacing", "isotropic", "target")  # fields of Request that say which grid is wanted


def plan_text(plan: Plan, header: Header) -> str:
    """The plan for people."""
    lines = [
        f"input        {display_name(plan.path)}: {grid(plan.source.shape, plan.source.spacing)}, "
        + (f"{plan.modality} ({header.modality_evidence})" if plan.modality else "modality decided at read")
    ]
    if plan.acquired is not plan.source:
        lines.append(f"acquired     {grid(plan.acquired.shape, plan.acquired.spacing)}: k-space is cropped back first")
    lines.append(f"output       {grid(plan.target.shape, plan.target.spacing)}, {one_line(plan.output)}")
    for number, step in enumerate(plan.passes, start=1):
        planes = " and ".join("ijk"[a] + "ijk"[b] for a, b in step.planes)
        lines.append(f"pass {number}       {grid(step.target.shape, step.target.spacing)}, slices {planes}")
        for axis, profile in enumerate(step.profiles):
            if profile.kind != "identity":
                lines.append(f"  profile {'ijk'[axis]}  {profile} ({profile.evidence})")
    lines.append(f"consistency  {plan.consistency}")
    lines.append(f"model        {plan.model} {plan.model_sha256[:12]}")
    lines.append(f"estimate     {duration(plan.seconds)} on two CPU cores, {plan.memory_bytes / 1e9:.1f} GB of memory")
    lines += [f"warning      {text}" for text in plan.warnings]
    if (command := isotropic_command(plan.path, header, plan)) is not None:
        lines.append(f"hint         {command}")
    return "\n".join(lines)


def grid(shape: Sequence[int], spacing: Sequence[float]) -> str:
    """``48 x 44 x 10 voxels of 0.5 x 0.5 x 4 mm``."""
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``about 3 min``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def summary(done: Upscaled) -> str:
    """What was made of one scan: warnings, the file, its grid, the certificate."""
    plan, result = done.plan, done.result
    seconds = sum(done.sidecar["timings"].values())
    series = done.sidecar.get("series")
    lines = [f"warning: {text}" for text in done.sidecar["warnings"]]
    lines.append(
        f"{one_line(done.files['volume'])}: {grid(plan.target.shape, plan.target.spacing)}, in {seconds:.1f} s"
    )
    if series is not None:
        lines.append(f"series {series['number']}: {one_line(series['description'])}, {series['instances']} instances")
    certificate = result.certificate
    unit = "" if certificate.residual_hu is None else f", {certificate.residual_hu:.2g} HU"
    known = "" if certificate.known else ", profile assumed"
    lines.append(
        f"certificate: {certificate.residual:.2g} of the scan's standard deviation{unit} "
        f"({certificate.consistency} consistency{known})"
    )
    if "report" in done.files:
        lines.append(f"report: {one_line(done.files['report'])}")
    return "\n".join(lines)


def isotropic_command(scan: Path, header: Header, plan: Plan) -> str | None:
    """The command that also refines thick slices, None where it would not help."""
    if (
        not is_thick_slice(header)
        or plan.factors[header.slice_axis] > 1.01
        or header.geometry.shape[header.slice_axis] < 2
    ):
        return None
    usual = default_output(scan, series=plan.output is not None and is_series(plan.output))
    output = usual.with_name(usual.name.replace("_sr", "_iso"))
    words = ["medsr", "upscale", str(scan), *options_of(plan.request), "--isotropic", "-o", str(output)]
    return one_line(shlex.join(words))


def options_of(request: Request) -> list[str]:
    """The words of a command that ask for all of a request but its grid; what is left at its default is not said."""
    words: list[str] = []
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name in _GRID or value == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words.append("x".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return words


def entries(
    path: Path,
    *,
    voxels: bool = False,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
    series: str | None = None,
    deskew: bool = False,
    fill_gaps: bool = False,
) -> list[dict[str, Any]]:
    """What is known of the scans that a path leads to, as JSON values: one entry, or one for each series of DICOM.

    voxels: look at them too, of one scan. The others as in ``inspect``, which see for the errors; InputError also where
    voxels are asked of several series.
    """
    if not is_dicom_path(path) or series is not None:
        header = inspect(
            path, prefer=prefer, assume_spacing=assume_spacing, series=series, deskew=deskew, fill_gaps=fill_gaps
        )
        return [facts(header, voxels=voxels)]
    from medsr.image.dicom_read import find_series, inspect_series, series_name

    refuse_options(path, "NIfTI", {"--prefer": prefer, "--assume-spacing": assume_spacing})
    found = find_series(path)
    if voxels:
        if len(found) > 1:
            name = display_name(path)
            raise InputError(f"{name} holds {len(found)} series; choose one with --series to read its voxels")
        return [facts(inspect_series(found[0], deskew=deskew, fill_gaps=fill_gaps), voxels=True)]
    listed = []
    for one in found:
        reason = one.foreign if one.fault is None else None
        try:
            entry = facts(inspect_series(one, deskew=deskew, fill_gaps=fill_gaps), voxels=False)
        except InputError as error:
            entry = {"file": str(path), "format": "dicom", **_series_facts(one)}
            reason = str(error).removeprefix(f"{series_name(one)}: ")
        entry |= {"no_volume": reason} if reason else {}
        listed.append(entry)
    return listed


def facts(header: Header, *, voxels: bool) -> dict[str, Any]:
    """What is known of a scan, as JSON values."""
    geometry = header.geometry
    facts: dict[str, Any] = {
        "file": str(header.path),
        "format": header.format,
        **(_series_facts(header.extra.series) if header.format == "dicom" else {}),
        "shape": list(geometry.shape),
        "volumes": header.volumes,
        "spacing_mm": [round(s, 6) for s in geometry.spacing],
        "field_of_view_mm": [round(s, 4) for s in geometry.field_of_view],
        "axes": geometry.axis_codes,
        "dtype": header.dtype,
        "modality": header.modality or "decided at read",
        "evidence": header.modality_evidence,
        "not_an_image": header.foreign,
        "slice_axis": "ijk"[header.slice_axis],
        "slice_thickness_mm": header.slice_thickness,
        "acquisition": header.acquisition_type,
        "acquired": list(header.acquired) if any(header.acquired) else None,
        "affine": [[float(v) for v in row] for row in geometry.affine],
        "warnings": list(header.warnings),
    }
    if voxels:
        volume = read_scan(header, volume=0 if header.volumes > 1 else None).volume
        facts["modality"] = volume.modality
        if volume.modality == "MR":
            facts["acquired_by_spectrum"] = list(acquired_matrix(volume.array))
    return facts


def _series_facts(series: Series) -> dict[str, Any]:
    return {"series": series.label, "description": series.description, "size": str(series), "uid": series.uid}


def entries_text(found: Sequence[dict[str, Any]]) -> str:
    """Entries for people: of one scan a fact a line, of several series a line each."""
    if len(found) == 1:
        known = {name: plain(value) for name, value in found[0].items() if value is not None}
        width = max(map(len, known))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in known.items())
    volumes = sum("no_volume" not in entry for entry in found)
    lines = [f"{found[0]['file']}: {len(found)} series, {volumes} of them volumes"]
    labels = Counter(entry["series"] for entry in found)
    for entry in found:
        what = f"no volume: {entry['no_volume']}" if "no_volume" in entry else _grid_of(entry)
        # Studies number their series alike; --series then needs the UID.
        uid = f" [UID {one_line(entry['uid'])}]" if labels[entry["series"]] > 1 else ""
        lines.append(f"  {one_line(entry['size'])}{uid}: {one_line(what)}")
    return "\n".join(lines)


def _grid_of(entry: dict[str, Any]) -> str:
    return f"{grid(entry['shape'], entry['spacing_mm'])}, {entry['axes']}"


def one_line(value: object) -> str:
    """Text that stays on its line: control characters escaped, so that a file name cannot forge output."""
    return escaped(str(value))


def plain(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return "; ".join(" ".join(f"{v:.6g}" for v in row) for row in value)
        return " x ".join("?" if v is None else str(v) for v in value) if value else "none"
    return one_line(value)
