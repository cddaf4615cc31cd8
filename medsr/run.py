"""One scan from file to file, or from volume to volume: what the command, studies and workers call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medsr.card import ModelCard, read_card
from medsr.image.acquired import crop_k_space, with_acquired
from medsr.image.header import Header, header_of
from medsr.image.scan import Scan, inspect, read_scan, read_scans
from medsr.image.volume import Volume, given_modality
from medsr.outputs import default_output, is_series
from medsr.plan import Plan, check_tags, make_plan
from medsr.publish import Clock, Processed, Upscaled, publish
from medsr.request import SAME_SPACING, Consistency, Request, SamplerName

if TYPE_CHECKING:
    from medsr.diffusion.model import Model
    from medsr.engine import Result

Progress = Callable[[str, float], None]  # name of the stage, share of it that is done


@dataclass(frozen=True, eq=False)
class Planned:
    """A scan whose headers are read, and what will be done to it.

    output: where the volume goes. template: header of the DICOM series that the request names for its tags, or None.
    """

    header: Header
    card: ModelCard
    plan: Plan
    output: Path
    template: Header | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan that is read and planned, and waits for the network.

    header: with what the voxels told. tags: of the DICOM series whose tags the output will carry, or None. first: the
    first or only volume, read. rest: the others, each read when it is asked for.
    """

    header: Header
    card: ModelCard
    plan: Plan
    output: Path
    tags: Header | None
    first: Scan
    rest: Iterator[Scan]
    clock: Clock


def plan_file(
    path: Path, output: Path | None, request: Request, *, overwrite: bool = False, card: ModelCard | None = None
) -> Planned:
    """Inspect a scan and plan it, from headers alone; imports no torch.

    output: None stands for ``default_output``. card: that of ``request.model``, where it was read before. Raises what
    ``make_plan`` raises, and InputError for a scan or a DICOM template that cannot be trusted.
    """
    header = _inspected(path, request)
    card = card or read_card(request.model)
    if output is None:
        series = header.format == "dicom" or request.dicom_template is not None
        output = default_output(header.path, series=series)
    plan = make_plan(header, request, card, output, overwrite=overwrite)
    template = _template(request)
    _tags(header, plan, template)
    return Planned(header, card, plan, output, template)


def upscale_file(
    path: Path,
    output: Path | None = None,
    request: Request | None = None,
    progress: Progress | None = None,
    *,
    model: Model | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Upscaled:
    """Upscale one scan to ``output``, with a JSON sidecar beside it.

    path: a NIfTI or MGH file, or DICOM (a folder, a zip, a DICOMDIR, one file). output: a .nii or .nii.gz file, or a
    folder for a DICOM series; default ``<stem>_sr.nii.gz`` or, for DICOM, the folder ``<stem>_sr`` beside the input.
    All files appear at the end, whole, the sidecar last; when anything fails or the run is interrupted, none does, and
    those that were there stay as they were. model: what ``load_for`` gave for this request, which spares loading it
    for each of many files. notes: JSON values for the sidecar beside its own. Raises the kinds of medsr.errors.
    """
    request = request or Request()
    report = progress or _silent
    card = model.card if model is not None else None
    ready = prepare(path, output, request, report, card=card, overwrite=overwrite)
    if model is None:
        with ready.clock("load model"):
            report("load model", 0.0)
            model = load_for(request)
    done = process(ready, model, report)
    report("write", 0.0)
    upscaled = publish(done, overwrite=overwrite, notes=notes)
    report("write", 1.0)
    return upscaled


def prepare(
    path: Path,
    output: Path | None,
    request: Request,
    progress: Progress | None = None,
    *,
    card: ModelCard | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Inspect, plan and read a scan (of several volumes the first); every refusal of ``upscale_file`` but the model's.

    The parameters are those of ``upscale_file``. No torch is imported.
    """
    clock = Clock()
    with clock("inspect"):
        known = plan_file(path, output, request, card=card, overwrite=overwrite)
    with clock("read"):
        (progress or _silent)("read", 0.0)
        scans = _scans(known.header, request)
        first = next(scans)
        header = replace(known.header, modality=first.volume.modality, foreign=None)
        header = _with_acquired(header, first.volume, known.plan)
        plan = make_plan(header, request, known.card, known.output, overwrite=overwrite)
        tags = _tags(header, plan, known.template)
    return Prepared(header, known.card, plan, known.output, tags, first, scans, clock)


def process(ready: Prepared, model: Model, progress: Progress | None = None) -> Processed:
    """Run the network over every volume of a scan. Raises DeviceError, InputError."""
    request, plan = ready.plan.request, ready.plan
    results: list[Result] = []
    masks = []
    for index, scan in enumerate(chain((ready.first,), ready.rest)):
        inner = _part(progress or _silent, index, ready.header.volumes if request.volume == "all" else 1)
        intensity = results[0].intensity if results else None
        results.append(_one(scan.volume, plan, model, inner, ready.clock, intensity=intensity))
        masks.append(scan.invalid_on(plan.target) if scan.invalid is not None else None)
        warnings = tuple(dict.fromkeys((*plan.warnings, *scan.warnings)))
        plan = replace(plan, warnings=warnings)
    if ready.tags is not None and any(mask is not None and mask.any() for mask in masks):
        filled = "DICOM cannot hold NaN: those voxels carry the values of their neighbours"
        plan = replace(plan, warnings=(*plan.warnings, filled))
    return Processed(
        ready.header, ready.card, plan, ready.output, ready.tags, ready.first.volume, tuple(results), tuple(masks),
        ready.clock,
    )  # fmt: skip


def load_for(request: Request) -> Model:
    """The model of a request on its device, with as many threads as it says. Raises ModelError, DeviceError."""
    import torch

    from medsr.diffusion.model import load_model

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    return load_model(request.model, device=request.device)


def upscale(
    volume: Volume,
    *,
    scale: float | tuple[float, float, float] | None = None,
    spacing: float | tuple[float, float, float] | None = None,
    isotropic: bool = False,
    texture: float = 0.0,
    samples: int = 1,
    steps: int = 8,
    sampler: SamplerName = "dpmpp2m",
    seed: int = 0,
    uncertainty: bool = False,
    detail_map: bool = False,
    profile: str = "auto",
    consistency: Consistency = "auto",
    from_acquired: Literal["auto", "off"] = "auto",
    slice_axis: int | None = None,
    slice_thickness: float | None = None,
    device: str = "auto",
    model: str | Path | Model = "medsr-base",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Upscale one volume in memory; the options are those of ``medsr upscale``.

    volume: (I, J, K) in HU for CT, in any unit for MR. scale: one factor for the in-plane axes (default 2), or one
    for each of i, j, k. spacing: in mm. slice_axis: 0, 1 or 2; default: the axis whose spacing is at least 1.1 times
    both others, else 2. slice_thickness: in mm, evidence for the slice profile. model: a name, a file, or a loaded
    model, which spares loading it again. Raises the kinds of medsr.errors.
    """
    request = Request(
        scale=_numbers(scale),
        spacing=_numbers(spacing),
        isotropic=isotropic,
        texture=texture,
        samples=samples,
        steps=steps,
        sampler=sampler,
        seed=seed,
        uncertainty=uncertainty,
        detail_map=detail_map,
        profile=profile,
        consistency=consistency,
        from_acquired=from_acquired,
        device=device,
        model=str(model) if isinstance(model, str | Path) else model.card.name,
        threads=threads,
    )
    header = header_of(volume, slice_axis=slice_axis, slice_thickness=slice_thickness)
    card = read_card(model) if isinstance(model, str | Path) else model.card
    plan = make_plan(header, request, card)
    plan = make_plan(_with_acquired(header, volume, plan), request, card)
    clock = Clock()
    report = progress or _silent
    if isinstance(model, str | Path):
        report("load model", 0.0)
        model = load_for(request)
    return _one(volume, plan, model, report, clock, intensity=None)


# --- the steps -----------------------------------------------------------------------------------------------------


def _inspected(path: Path, request: Request) -> Header:
    template = request.dicom_template is not None  # then --series names a series of the template
    return inspect(
        path,
        prefer=request.prefer,
        assume_spacing=request.assume_spacing,
        series=None if template else request.series,
        deskew=request.deskew and not template,
        fill_gaps=request.fill_gaps and not template,
    )


def _template(request: Request) -> Header | None:
    if request.dicom_template is None:
        return None
    from medsr.image import dicom_read

    return dicom_read.inspect(
        request.dicom_template, series=request.series, deskew=request.deskew, fill_gaps=request.fill_gaps
    )


def _tags(header: Header, plan: Plan, template: Header | None) -> Header | None:
    """The DICOM series whose tags the output carries: the template, or the input; None for a NIfTI output.

    Raises as ``check_tags``.
    """
    if plan.output is None or not is_series(plan.output):
        return None
    tags = template or header
    check_tags(plan, tags)
    return tags


def _silent(stage: str, share: float) -> None:
    """No progress is wanted."""


def _part(report: Progress, index: int, count: int) -> Progress:
    """The progress of volume ``index`` of ``count`` as a share of all."""
    if count == 1:
        return report
    return lambda stage, share: report(f"{stage}, volume {index + 1} of {count}", share)


def _scans(header: Header, request: Request) -> Iterator[Scan]:
    modality = given_modality(request.modality)
    if request.volume == "all":
        return read_scans(header, modality=modality)
    return iter([read_scan(header, volume=request.volume, modality=modality)])


def _with_acquired(header: Header, volume: Volume, plan: Plan) -> Header:
    """The header with the matrix that was truly acquired along the axes that ``plan`` makes finer."""
    if plan.request.from_acquired == "off":
        return header
    finer = [t < s * (1 - SAME_SPACING) for t, s in zip(plan.target.spacing, plan.source.spacing, strict=True)]
    return with_acquired(header, volume, finer)


def _one(volume: Volume, plan: Plan, model: Model, report: Progress, clock: Clock, *, intensity: Any) -> Result:
    from medsr.engine import reconstruct

    if plan.acquired is not plan.source:
        with clock("crop k-space"):
            volume = crop_k_space(volume, plan.acquired)
    with clock("reconstruct"):
        return reconstruct(volume, plan, model, progress=report, intensity=intensity)


def _numbers(value: float | tuple[float, ...] | None) -> tuple[float, ...] | None:
    return value if value is None or isinstance(value, tuple) else (float(value),)
