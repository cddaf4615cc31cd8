"""One scan from file to file, or from volume to volume: what the command, studies and workers call."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medsr.card import ModelCard, read_card
from medsr.errors import InputError, PlanError
from medsr.image.acquired import acquired_matrix, confirmed, crop_k_space
from medsr.image.files import atomic_files, atomic_write
from medsr.image.geometry import Geometry, slice_axis_by_spacing
from medsr.image.header import Header
from medsr.image.nifti import Scan, inspect, read_scan, read_scans, write
from medsr.image.volume import Modality, Volume
from medsr.outputs import default_output, gradient_files, output_files
from medsr.plan import Consistency, Plan, Request, SamplerName, make_plan

if TYPE_CHECKING:
    from medsr.diffusion.model import Model
    from medsr.engine import Result

Progress = Callable[[str, float], None]  # name of the stage, share of it that is done

MARK = "AI SR, not acquired. Research use only, not for diagnosis."


@dataclass(frozen=True, eq=False)
class Upscaled:
    """What was done to one file.

    header: of the input, with what the voxels told. results: one per 3-D volume. files: as ``output_files``.
    sidecar: the JSON as written.
    """

    header: Header
    plan: Plan
    results: tuple[Result, ...]
    files: dict[str, Path]
    sidecar: dict[str, Any] = field(repr=False)

    @property
    def result(self) -> Result:
        """The result of a 3-D file."""
        return self.results[0]


def plan_file(
    path: Path, output: Path | None, request: Request, *, overwrite: bool = False, card: ModelCard | None = None
) -> tuple[Header, ModelCard, Plan]:
    """The plan for a file, from headers alone; imports no torch.

    output: None stands for ``default_output``. card: that of ``request.model``, where it was read before.
    """
    header = inspect(path, prefer=request.prefer, assume_spacing=request.assume_spacing)
    card = card or read_card(request.model)
    plan = make_plan(header, request, card, output or default_output(path), overwrite=overwrite)
    return header, card, plan


def upscale_file(
    path: Path,
    output: Path | None = None,
    request: Request | None = None,
    progress: Progress | None = None,
    *,
    model: Model | None = None,
    overwrite: bool = False,
) -> Upscaled:
    """Upscale one NIfTI or MGH file to ``output`` (default ``<stem>_sr.nii.gz`` beside it) with a JSON sidecar.

    All files appear at the end, whole, the sidecar last; when anything fails or the run is interrupted, none does, and
    those that were there stay as they were. model: what ``load_for`` gave for this request, which spares loading it
    for each of many files. Raises the kinds of medsr.errors.
    """
    request = request or Request()
    report = progress or _silent
    clock = Clock()
    with clock("inspect"):
        card = model.card if model is not None else None
        header, card, plan = plan_file(path, output, request, overwrite=overwrite, card=card)
    target = plan.output or default_output(path)
    with clock("read"):
        report("read", 0.0)
        scans = _scans(header, request)
        first = next(scans)
        header, plan = _decided(first, header, request, card, target, overwrite=overwrite)
    results: list[Result] = []
    masks = []
    for index, scan in enumerate(_chain(first, scans)):
        if model is None:
            with clock("load model"):
                report("load model", 0.0)
                model = load_for(request)
        inner = _part(report, index, header.volumes if request.volume == "all" else 1)
        intensity = results[0].intensity if results else None
        results.append(_one(scan.volume, plan, model, inner, clock, intensity=intensity))
        masks.append(scan.invalid_on(plan.target) if scan.invalid is not None else None)
        warnings = tuple(dict.fromkeys((*plan.warnings, *scan.warnings)))
        plan = replace(plan, warnings=warnings)
    files = output_files(target, request)
    copies = gradient_files(path, target, request)
    made = [f for kind, f in files.items() if kind not in ("volume", "sidecar")]
    with atomic_files([*made, *copies.values(), target, files["sidecar"]], overwrite=overwrite) as folder:
        with clock("write"):
            report("write", 0.0)
            _write_maps(folder, files, results, header)
            _copy_gradients(folder, copies)
            description = _description(plan)
            volumes = [r.volume for r in results]
            write(folder / target.name, volumes, header=header, description=description, invalid=masks)
        sidecar = _sidecar(plan, card, results, clock, files)
        text = json.dumps(sidecar, indent=2, ensure_ascii=True, default=str) + "\n"
        if "report" in files:
            _write_report(folder / files["report"].name, first.volume, results[0], json.loads(text))
        with atomic_write(folder / files["sidecar"].name) as stream:
            stream.write(text.encode())
    report("write", 1.0)
    return Upscaled(header, plan, tuple(results), files, json.loads(text))


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
    header = _header_of(volume, slice_axis, slice_thickness)
    card = read_card(model) if isinstance(model, str | Path) else model.card
    plan = make_plan(header, request, card)
    header = _with_acquired(header, volume, request, plan)
    plan = make_plan(header, request, card)
    clock = Clock()
    report = progress or _silent
    if isinstance(model, str | Path):
        report("load model", 0.0)
        model = load_for(request)
    return _one(volume, plan, model, report, clock, intensity=None)


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
    import torch

    from medsr.protocols import protocol, seed_of, simulate

    named = protocol(protocol_name)
    if output.exists() and path.exists() and output.samefile(path):
        raise PlanError("the output is the input itself; choose another name with -o")
    header = inspect(path)
    fine = read_scan(path, volume=volume, modality=modality, header=header)
    generator = torch.Generator().manual_seed(seed_of(path.name))
    coarse = simulate(fine.volume, named, generator, slice_axis=header.slice_axis)
    write(output, coarse, header=header, mark="degraded, not acquired", description=protocol_name, overwrite=overwrite)
    return coarse.geometry


# --- the steps -----------------------------------------------------------------------------------------------------


class Clock:
    """Seconds by stage; a stage entered again is added to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside the block towards ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def _silent(stage: str, share: float) -> None:
    """No progress is wanted."""


def _chain(first: Scan, rest: Iterator[Scan]) -> Iterator[Scan]:
    yield first
    yield from rest


def _part(report: Progress, index: int, count: int) -> Progress:
    """The progress of volume ``index`` of ``count`` as a share of all."""
    if count == 1:
        return report
    return lambda stage, share: report(f"{stage}, volume {index + 1} of {count}", share)


def _scans(header: Header, request: Request) -> Iterator[Scan]:
    modality: Modality | None = None
    if request.modality != "auto":
        modality = "CT" if request.modality == "ct" else "MR"
    if request.volume == "all":
        return read_scans(header.path, modality=modality, header=header)
    return iter([read_scan(header.path, volume=request.volume, modality=modality, header=header)])


def _decided(
    scan: Scan, header: Header, request: Request, card: ModelCard, output: Path, *, overwrite: bool
) -> tuple[Header, Plan]:
    """Header and plan with what only the voxels could tell: modality, and the matrix that was truly acquired."""
    header = replace(header, modality=scan.volume.modality, foreign=None)
    plan = make_plan(header, request, card, output, overwrite=overwrite)
    header = _with_acquired(header, scan.volume, request, plan)
    return header, make_plan(header, request, card, output, overwrite=overwrite)


def _with_acquired(header: Header, volume: Volume, request: Request, plan: Plan) -> Header:
    """The acquired matrix by tags that the spectrum does not contradict, else by a spectral edge beyond doubt."""
    if request.from_acquired == "off" or volume.modality != "MR":
        return header
    finer = [t < s * 0.999 for t, s in zip(plan.target.spacing, volume.geometry.spacing, strict=True)]
    counts, warnings = list(header.acquired), list(header.warnings)
    seen = acquired_matrix(volume.array) if any(finer) else (None, None, None)
    for axis, (count, stored) in enumerate(zip(header.acquired, volume.array.shape, strict=True)):
        letter = "ijk"[axis]
        if not finer[axis]:
            continue
        if count is not None and count < stored and not confirmed(volume.array, axis, count):
            counts[axis] = None
            warnings.append(f"the header says that {count} of {stored} samples were acquired along {letter}; the "
                            "spectrum goes on beyond that, so k-space was not cropped")  # fmt: skip
        elif count is None and seen[axis] is not None:
            counts[axis] = seen[axis]
            warnings.append(f"axis {letter} is zero-filled: {stored} voxels from about {seen[axis]} samples, by the "
                            "spectrum; k-space is cropped back first (--from-acquired off leaves it)")  # fmt: skip
    return replace(header, acquired=(counts[0], counts[1], counts[2]), warnings=tuple(warnings))


def _one(volume: Volume, plan: Plan, model: Model, report: Progress, clock: Clock, *, intensity: Any) -> Result:
    from medsr.engine import reconstruct

    if plan.acquired is not plan.source:
        with clock("crop k-space"):
            volume = crop_k_space(volume, plan.acquired)
    with clock("reconstruct"):
        return reconstruct(volume, plan, model, progress=report, intensity=intensity)


def _header_of(volume: Volume, slice_axis: int | None, slice_thickness: float | None) -> Header:
    """The header of a volume that is not in a file."""
    array = volume.array
    if not np.isfinite(array).all():
        raise InputError("the volume holds NaN or Inf; fill them first")
    if array.size == 0 or float(array.min()) == float(array.max()):
        raise InputError("the volume is constant or empty; there is nothing to upscale")
    if slice_axis is None:
        slice_axis = slice_axis_by_spacing(volume.geometry.spacing)
    if slice_axis not in (0, 1, 2):
        raise InputError(f"slice_axis {slice_axis} is none of 0, 1, 2")
    return Header(
        path=Path(volume.provenance.source or "volume"),
        format="nifti",
        geometry=volume.geometry,
        dtype="float32",
        modality=volume.modality,
        modality_evidence="given by the caller",
        slice_axis=slice_axis,
        slice_thickness=slice_thickness,
    )


def _numbers(value: float | tuple[float, ...] | None) -> tuple[float, ...] | None:
    return value if value is None or isinstance(value, tuple) else (float(value),)


# --- the files -----------------------------------------------------------------------------------------------------


def _write_maps(folder: Path, files: dict[str, Path], results: list[Result], header: Header) -> None:
    """The maps that were asked for: standard deviation, and what was added beyond the scan."""
    for kind in ("std", "detail"):
        maps = [getattr(result, kind) for result in results]
        if kind in files and all(m is not None for m in maps):
            write(folder / files[kind].name, maps, header=header, estimate=kind)


def _write_report(path: Path, scan: Volume, result: Result, sidecar: dict[str, Any]) -> None:
    """The page about the run; of several volumes about the first."""
    from medsr.page.scan import scan_report

    html = scan_report(scan, result, sidecar)
    with atomic_write(path) as stream:
        stream.write(html.encode())


def _copy_gradients(folder: Path, copies: dict[Path, Path]) -> None:
    """The directions are in voxel axes, which stay the same."""
    for source, copy in copies.items():
        with atomic_write(folder / copy.name) as stream:
            stream.write(source.read_bytes())


def _description(plan: Plan) -> str:
    factors = "x".join(f"{f:.3g}" for f in plan.factors)
    return f"{plan.model} {factors}"


def _sidecar(
    plan: Plan, card: ModelCard, results: list[Result], clock: Clock, files: dict[str, Path]
) -> dict[str, Any]:
    """Everything that is needed to judge and to repeat the run, as JSON values."""
    import torch

    from medsr import __version__

    first = results[0]
    warnings = dict.fromkeys([*plan.warnings, *(w for r in results for w in r.warnings)])
    each = [
        {
            "provenance": r.volume.provenance.to_json(),
            "certificate": r.certificate.to_json(),
            "evaluations": r.evaluations,
            "seconds": {name: round(value, 3) for name, value in r.timings.items()},
        }
        for r in results
    ]
    return {
        "note": MARK,
        "files": {kind: path.name for kind, path in files.items()},
        "plan": plan.to_json(),
        "profiles": {
            "ijk"[axis]: {"profile": str(p), "known": p.known, "evidence": p.evidence}
            for axis, p in enumerate(plan.profiles)
        },
        **(each[0] if len(each) == 1 else {"volumes": each}),
        "timings": {name: round(value, 3) for name, value in clock.seconds.items()},
        "model": {"name": card.name, "version": card.version, "sha256": card.sha256, "use": card.intended_use},
        "device": str(first.device),
        "dtype": str(first.dtype),
        "threads": first.threads,
        "versions": {
            "medsr": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "warnings": list(warnings),
    }
