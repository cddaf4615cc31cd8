"""The report of one upscaled scan: what was done, what may be trusted, and a look at it. There is no reference, so
there is no PSNR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medsr.degradation import Interpolation, interpolate
from medsr.engine import Result
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.intensity import CT_AIR_HU
from medsr.image.render import PlaneName, Window, display_window, oriented_slice
from medsr.image.volume import Array, Volume
from medsr.page.markup import Column, Html, details, paragraph, table, tag
from medsr.page.shell import HONESTY, MADE, facts, limits, navigation, page, section, warning
from medsr.page.viewer import BYTES_PER_VOXEL, Exhibit, Picture, middle, still, viewer

VIEWER_BYTES = 8_000_000  # of a page of less than 15 MB
STILL_PIXELS = 512  # of the overview, along a side
NO_REFERENCE = "There is no reference, so nothing on this page says how close the output is to the truth."

_PLANES: tuple[tuple[PlaneName, str], ...] = (("axial", "SI"), ("coronal", "AP"), ("sagittal", "RL"))
Crop = tuple[slice, slice, slice]


def scan_report(scan: Volume, result: Result, sidecar: Mapping[str, Any]) -> Html:
    """The page of one run. scan: as it was read. sidecar: the JSON that is written beside the output."""
    name = sidecar["plan"]["input"]
    cautions = sidecar["warnings"]
    header = [
        tag("p", {"class": "answer"}, _sentence(scan, result, sidecar)),
        paragraph(_certificate_in_words(result)),
        paragraph(NO_REFERENCE),
        warning("Warnings of this run", cautions) if cautions else "",
        navigation([("look", "Look"), ("trust", "Certificate and uncertainty"), ("plan", "Plan"), ("limits", "Limits"),
                    ("origin", "Origin")]),
    ]  # fmt: skip
    body = [
        section("Look", "look", *_look(scan, result)),
        section("Certificate and uncertainty", "trust", facts(_trust(scan, result))),
        section("Plan", "plan", *_plan(sidecar)),
        limits(),
        section("Origin", "origin", facts(_origin(sidecar))),
    ]
    return page(f"Upscaled: {name}", header, body, f"Made by medsr. {HONESTY} {MADE}")


# --- words -----------------------------------------------------------------------------------------------------------


def _sentence(scan: Volume, result: Result, sidecar: Mapping[str, Any]) -> str:
    plan = result.plan
    finer = [f"{f:.3g} times along {axis}" for f, axis in zip(plan.factors, "ijk", strict=True) if f > 1.0001]
    volumes = sidecar.get("volumes")
    first = f" This page shows the first of {len(volumes)} volumes." if volumes else ""
    model = sidecar["model"]
    return (
        f"{sidecar['plan']['input']} ({scan.modality}, {_grid(plan.source)}) was made finer by {model['name']} "
        f"{model['version']}, {' and '.join(finer)}: {_grid(plan.target)}, {_kind(result)}.{first}"
    )


def _kind(result: Result) -> str:
    texture = result.plan.request.texture
    if texture == 0:
        return "the posterior mean"
    return f"texture {texture:g}, of which the finest detail is one of many possible"


def _certificate_in_words(result: Result) -> str:
    certificate = result.certificate
    size = f"{100 * certificate.residual:.3g} % of the scan's standard deviation"
    hu = "" if certificate.residual_hu is None else f" ({certificate.residual_hu:.3g} HU)"
    assumed = "" if certificate.known else " The profile that this supposes is assumed, not known."
    return f"Scanned again, the output differs from the scan by {size}{hu}.{assumed}"


def _grid(geometry: Geometry) -> str:
    shape, spacing = geometry.shape, geometry.spacing
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm"


# --- figures ---------------------------------------------------------------------------------------------------------


def _trust(scan: Volume, result: Result) -> list[tuple[str, object]]:
    certificate = result.certificate
    unit = " HU" if scan.modality == "CT" else ", in units of the scan"
    mask = foreground(scan.array, scan.modality, result.plan.slice_axis)
    mask = mask if mask.any() else np.ones_like(mask)
    spread = float(scan.array[mask].std(dtype=np.float64)) or 1.0
    inside = _on_target(mask, scan.geometry, result.plan.target)
    known = "known" if certificate.known else "assumed"
    pairs: list[tuple[str, object]] = [
        ("certificate", f"{certificate.residual:.3g}: RMS over the foreground of the output, scanned again, minus the "
                        "scan, over the scan's standard deviation there"),
        ("consistency", f"{certificate.consistency}; profiles {', '.join(certificate.profiles)}, {known}"),
    ]  # fmt: skip
    if result.std is None:
        pairs.append(("stated deviation", "not asked for (--uncertainty)"))
    else:
        median, high = (float(v) for v in np.percentile(result.std.array[inside], [50, 95]))
        share = f"the median is {100 * median / spread:.3g} % of the scan's standard deviation"
        pairs.append(("stated deviation", f"median {median:.3g}, 95th percentile {high:.3g}{unit}; {share}"))
    if result.detail is None:
        pairs.append(("added detail", "not asked for (--detail-map)"))
    else:
        added = float(np.sqrt(np.mean(np.square(result.detail.array[inside], dtype=np.float64))))
        pairs.append(("added detail", f"RMS {added:.3g}{unit}: the part of the output that the scan did not fix"))
    return pairs


def _on_target(mask: NDArray[np.bool_], source: Geometry, target: Geometry) -> NDArray[np.bool_]:
    """A mask of the scan on the grid of the output, by nearest neighbour."""
    step, first = source.index_of(target)
    places = [
        np.clip(np.rint(first[a] + step[a] * np.arange(n)), 0, mask.shape[a] - 1).astype(int)
        for a, n in enumerate(target.shape)
    ]
    fine: NDArray[np.bool_] = mask[np.ix_(*places)]
    return fine


# --- pictures --------------------------------------------------------------------------------------------------------


def _look(scan: Volume, result: Result) -> list[Html]:
    """The whole field of view in three planes, and the middle at full resolution in the viewer."""
    shape = result.plan.target.shape
    maps = [m for m in (result.std, result.detail) if m is not None]
    crop = middle(shape, int(VIEWER_BYTES / (BYTES_PER_VOXEL * (3 + len(maps)))))
    size = " x ".join(str(part.stop - part.start) for part in crop)
    whole = all(part.stop - part.start == n for part, n in zip(crop, shape, strict=True))
    of_all = f"{' x '.join(map(str, shape))} voxels, at full resolution; the file holds all of them"
    what = f"All {size} voxels" if whole else f"The middle {size} of {of_all}"
    label = _label(result)
    pictures = [
        Picture("scan", "scan, nearest", _resampled(scan, result.plan.target, crop, "nearest")),
        Picture("cubic", "scan, cubic", _resampled(scan, result.plan.target, crop, "cubic")),
        Picture("medsr", label, result.volume.array[crop]),
    ]
    if result.std is not None:
        pictures.append(Picture("std", "stated deviation", result.std.array[crop], "std"))
    if result.detail is not None:
        pictures.append(Picture("detail", "added detail", result.detail.array[crop], "signed"))
    target = result.plan.target
    exhibit = Exhibit(tuple(pictures), target.spacing, target.axis_codes, scan.modality, "cubic", "medsr")
    return [
        paragraph("The whole field of view, middle slices: the scan by cubic interpolation, and the output."),
        tag("div", {"class": "stills"}, *_overview(scan, result)),
        viewer(exhibit, f"{what}. AI SR, not acquired."),
    ]


def _label(result: Result) -> str:
    texture = result.plan.request.texture
    return "medsr" if texture == 0 else f"medsr, texture {texture:g}"


def _overview(scan: Volume, result: Result) -> list[Html]:
    """Middle slices in three planes, the scan beside the output."""
    target = result.plan.target
    window = display_window(scan.array, scan.modality)
    window = window if window[1] > window[0] else (window[0], window[0] + 1)
    made = []
    for plane, letters in _PLANES:
        axis = next(a for a, code in enumerate(target.axis_codes) if code in letters)
        cut = [slice(0, n) for n in target.shape]
        cut[axis] = slice(target.shape[axis] // 2, target.shape[axis] // 2 + 1)
        crop = (cut[0], cut[1], cut[2])
        for name, array in (("scan, cubic", _resampled(scan, target, crop, "cubic")),
                            (_label(result), result.volume.array[crop])):  # fmt: skip
            made.append(_still(array, target.cropped(crop), plane, window, name))
    return made


def _still(array: Array, grid: Geometry, plane: PlaneName, window: Window, name: str) -> Html:
    shown = oriented_slice(array, grid, plane)
    rows, columns = shown.values.shape
    step = -(-max(rows, columns) // STILL_PIXELS)
    aspect = columns * shown.pixel_mm[1] / (rows * shown.pixel_mm[0])
    sparse = f", every {step} pixels" if step > 1 else ""
    return still(shown.values[::step, ::step], window, aspect, f"{name}, {plane}",
                 f"{name}: the middle {plane} slice{sparse}")  # fmt: skip


def _resampled(scan: Volume, target: Geometry, crop: Crop, kind: Interpolation) -> Array:
    """The scan on a part of the target grid; CT padding counts as air, which it would ring against."""
    array = np.maximum(scan.array, np.float32(CT_AIR_HU)) if scan.modality == "CT" else scan.array
    fine = interpolate(torch.from_numpy(np.ascontiguousarray(array)), scan.geometry, target.cropped(crop), kind)
    result: Array = fine.numpy()
    return result


# --- plan and origin -------------------------------------------------------------------------------------------------


def _plan(sidecar: Mapping[str, Any]) -> list[Html]:
    plan = sidecar["plan"]
    grids = [[name, _join(plan[key]["shape"]), _join(plan[key]["spacing_mm"]), plan[key]["axes"]]
             for name, key in (("stored", "source"), ("truly acquired", "acquired"), ("output", "target"))]  # fmt: skip
    columns = [Column(n, number=False) for n in ("grid", "voxels", "spacing, mm", "axes run towards")]
    profiles = [
        [f"axis {axis}", p["profile"], "known" if p["known"] else "assumed", p["evidence"]]
        for axis, p in sidecar["profiles"].items()
        if p["profile"] != "identity"
    ]
    heads = [Column(n, number=False) for n in ("axis", "profile", "how sure", "evidence")]
    passes = [f"{_join(p['from'])} to {_join(p['to'])}, planes {' and '.join(p['planes'])}" for p in plan["passes"]]
    asked = {k: v for k, v in plan["request"].items() if v not in (None, False)}
    return [
        table("Grids of the run.", columns, grids),
        table("Profile of a voxel along each axis that was made finer.", heads, profiles),
        facts([("passes", "; ".join(passes)), ("consistency", plan["consistency"])]),
        details("Options", facts((k.replace("_", " "), v) for k, v in asked.items())),
    ]


def _origin(sidecar: Mapping[str, Any]) -> list[tuple[str, object]]:
    model = sidecar["model"]
    provenance = sidecar.get("provenance") or sidecar["volumes"][0]["provenance"]
    return [
        ("input", f"{provenance['source']}, sha256 {provenance['sha256']}"),
        ("files", ", ".join(sidecar["files"].values())),
        ("model", f"{model['name']} {model['version']}, sha256 {model['sha256']}"),
        ("use", model["use"]),
        ("device", f"{sidecar['device']}, {sidecar['dtype']}, {sidecar['threads']} threads"),
        ("time", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sidecar["timings"].items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in sidecar["versions"].items())),
    ]


def _join(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)
