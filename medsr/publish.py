"""From the results of a scan to files: image or DICOM series, maps, report and sidecar; all of them or none."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsr.card import ModelCard
from medsr.image.files import atomic_files, atomic_write
from medsr.image.header import Header
from medsr.image.nifti import write
from medsr.image.volume import Volume
from medsr.outputs import NOTE, gradient_files, output_files
from medsr.plan import Plan

if TYPE_CHECKING:
    from medsr.engine import Result
    from medsr.image.dicom_map import MapKind
    from medsr.image.dicom_write import Derivation


KINDS: tuple[MapKind, ...] = ("std", "detail")


@dataclass(frozen=True, eq=False)
class Processed:
    """What the network made of one scan, before any of it is a file.

    header: of the input, with what the voxels told. tags: of the DICOM series whose tags the output carries, or None.
    scan: the first volume as it was read. results: one per 3-D volume. invalid: (I, J, K) on the target grid, one per
    volume, None where all voxels are valid.
    """

    header: Header
    card: ModelCard
    plan: Plan
    output: Path
    tags: Header | None
    scan: Volume
    results: tuple[Result, ...]
    invalid: tuple[Any, ...]
    clock: Clock


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


def publish(done: Processed, *, overwrite: bool = False, notes: Mapping[str, Any] | None = None) -> Upscaled:
    """Write every file of a run; all appear at the end, whole, the sidecar last, or none does.

    notes: JSON values for the sidecar beside its own. Files that were there stay as they were when anything fails.
    Raises PlanError when one exists and ``overwrite`` is false, JobError when they cannot be written.
    """
    files = output_files(done.output, done.plan.request)
    copies = gradient_files(done.header.path, done.output, done.plan.request) if done.header.format != "dicom" else {}
    made = [path for kind, path in files.items() if kind not in ("volume", "sidecar")]
    with atomic_files([*made, *copies.values(), done.output, files["sidecar"]], overwrite=overwrite) as folder:
        with done.clock("write"):
            _copy_gradients(folder, copies)
            series: dict[str, Any] = {}
            if done.tags is None:
                _write_image(folder, files, done)
            else:
                series = {"series": _write_series(folder, files, done, done.tags)}
        sidecar = {**_sidecar(done, files), **series, **(notes or {})}
        text = json.dumps(sidecar, indent=2, ensure_ascii=True, default=str) + "\n"
        if "report" in files:
            _write_report(folder / files["report"].name, done, json.loads(text))
        with atomic_write(folder / files["sidecar"].name) as stream:
            stream.write(text.encode())
    return Upscaled(done.header, done.plan, done.results, files, json.loads(text))


# --- images --------------------------------------------------------------------------------------------------------


def _write_image(folder: Path, files: Mapping[str, Path], done: Processed) -> None:
    for kind, maps in _maps(files, done).items():
        write(folder / files[kind].name, maps, header=done.header, estimate=kind)
    volumes = [result.volume for result in done.results]
    factors = "x".join(f"{f:.3g}" for f in done.plan.factors)
    description = f"{done.plan.model} {factors}"
    write(folder / done.output.name, volumes, header=done.header, description=description, invalid=list(done.invalid))


def _maps(files: Mapping[str, Path], done: Processed) -> dict[MapKind, list[Volume]]:
    """The maps that were asked for: standard deviation, and what was added beyond the scan."""
    found: dict[MapKind, list[Volume]] = {}
    for kind in KINDS:
        maps = [getattr(result, kind) for result in done.results]
        if kind in files and all(m is not None for m in maps):
            found[kind] = maps
    return found


def _copy_gradients(folder: Path, copies: Mapping[Path, Path]) -> None:
    """The directions are in voxel axes, which stay the same."""
    for source, copy in copies.items():
        with atomic_write(folder / copy.name) as stream:
            stream.write(source.read_bytes())


# --- DICOM ---------------------------------------------------------------------------------------------------------


def _write_series(folder: Path, files: Mapping[str, Path], done: Processed, tags: Header) -> dict[str, Any]:
    """The series, its maps, and what the sidecar says of it."""
    from medsr.image.dicom_write import series_uid, write_series

    assert done.tags is not None
    volumes = [result.volume for result in done.results]
    derivation = _derivation(done, datetime.now().astimezone().replace(microsecond=0))
    if files["sidecar"].exists():
        first = _created_before(files["sidecar"], series_uid(volumes, tags, derivation))
        derivation = replace(derivation, created=first or derivation.created)
    inside = folder / done.output.name
    inside.mkdir()
    written = write_series(inside, volumes, tags, derivation)
    if maps := _maps(files, done):
        from medsr.image.dicom_map import write_map

        for kind in maps:
            write_map(folder / files[kind].name, maps[kind], tags, derivation, written, kind=kind)
    return {
        "uid": written.uid,
        "number": written.number,
        "description": written.description,
        "instances": len(written.files),
        "created": derivation.created.isoformat(),
    }


def _derivation(done: Processed, created: datetime) -> Derivation:
    from medsr import __version__
    from medsr.image.dicom_write import Derivation

    request, card = done.plan.request, done.card
    factors = " x ".join(f"{f:.3g}" for f in done.plan.factors)
    kind = "posterior mean" if request.texture == 0 else f"texture {request.texture:g}"
    return Derivation(
        model=f"{card.name} {card.version}",
        model_sha256=card.sha256,
        parameters=_parameters(done.plan),
        description=f"Super-resolution, {factors} finer (columns, rows, slices), {kind}. {NOTE}",
        software=__version__,
        created=created,
        series_description=request.series_description,
        series_number=request.series_number,
        burn_in=request.burn_in,
    )


def _parameters(plan: Plan) -> dict[str, Any]:
    """What, beside the scan and the model, decides the voxels of the output."""
    request = plan.request
    drawn = {"seed": request.seed, "steps": request.steps, "sampler": request.sampler}
    return {
        "target": plan.target.to_json(),
        "acquired": list(plan.acquired.shape),
        "profiles": [str(profile) for profile in plan.profiles],
        "consistency": plan.consistency,
        "texture": request.texture,
        "volume": request.volume,
        "deskew": request.deskew,
        "fill_gaps": request.fill_gaps,
        **(drawn if request.texture > 0 else {}),
    }


def _created_before(sidecar: Path, uid: str) -> datetime | None:
    """When the same series was first made, by the sidecar that is about to be replaced: its bytes stay the same."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        series = json.loads(sidecar.read_text(encoding="utf-8"))["series"]
        if series["uid"] == uid:
            return datetime.fromisoformat(series["created"])
    return None


# --- words ---------------------------------------------------------------------------------------------------------


def _write_report(path: Path, done: Processed, sidecar: dict[str, Any]) -> None:
    """The page about the run; of several volumes about the first."""
    from medsr.page.scan import scan_report

    html = scan_report(done.scan, done.results[0], sidecar)
    with atomic_write(path) as stream:
        stream.write(html.encode())


def _sidecar(done: Processed, files: Mapping[str, Path]) -> dict[str, Any]:
    """Everything that is needed to judge and to repeat the run, as JSON values."""
    import torch

    from medsr import __version__

    plan, card, first = done.plan, done.card, done.results[0]
    warnings = dict.fromkeys([*plan.warnings, *(w for r in done.results for w in r.warnings)])
    each = [_of_volume(result) for result in done.results]
    return {
        "note": NOTE,
        "files": {kind: path.name for kind, path in files.items()},
        "plan": plan.to_json(),
        "profiles": {
            "ijk"[axis]: {"profile": str(p), "known": p.known, "evidence": p.evidence}
            for axis, p in enumerate(plan.profiles)
        },
        **(each[0] if len(each) == 1 else {"volumes": each}),
        "timings": {name: round(value, 3) for name, value in done.clock.seconds.items()},
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


def _of_volume(result: Result) -> dict[str, Any]:
    return {
        "provenance": result.volume.provenance.to_json(),
        "certificate": result.certificate.to_json(),
        "evaluations": result.evaluations,
        "seconds": {name: round(value, 3) for name, value in result.timings.items()},
    }
