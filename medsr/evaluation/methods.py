"""The methods of a study: each brings one coarse scan back to the grid of its reference."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsr.classical import classical
from medsr.evaluation.cost import peak_memory
from medsr.evaluation.grids import read_onto
from medsr.evaluation.manifest import Entry
from medsr.image.nifti import inspect, read
from medsr.image.profile import choose_profiles
from medsr.image.volume import Array, Volume
from medsr.outputs import stem
from medsr.protocols import protocol
from medsr.request import Request
from medsr.run import Progress, upscale_file

if TYPE_CHECKING:
    from medsr.diffusion.model import Model


@dataclass(frozen=True, eq=False)
class Task:
    """One reference under one protocol. scan: the coarse file that was made of it."""

    entry: Entry
    protocol: str
    reference: Volume
    slice_axis: int
    scan: Path

    @property
    def factors(self) -> tuple[float, float, float]:
        """Voxel size of the scan over that of the reference along i, j, k."""
        coarse = protocol(self.protocol).coarse_grid(self.reference.geometry, self.slice_axis)
        i, j, k = (fine / n for fine, n in zip(self.reference.array.shape, coarse.shape, strict=True))
        return i, j, k


@dataclass(frozen=True, eq=False)
class Made:
    """image: (I, J, K) on the reference's grid, in its units. std: what is stated of the error, likewise.

    figures: what else is known, by keys of record.METRICS.
    """

    image: Array
    figures: dict[str, float] = field(default_factory=dict)
    std: Array | None = None
    warnings: tuple[str, ...] = ()


def classical_images(task: Task, names: Collection[str]) -> Iterator[tuple[str, Made]]:
    """The classical methods on the scan as it was written, one after the other, told what medsr is told."""
    header = inspect(task.scan)
    scan = read(task.scan, modality=task.reference.modality, header=header)
    target = task.reference.geometry
    scaled = [a for a in range(3) if scan.array.shape[a] != target.shape[a]]
    profiles = choose_profiles(header, scan.modality, scaled, protocol(task.protocol).told_profile)
    began = time.perf_counter()
    for name, image in classical(scan, target, profiles, names):
        yield name, Made(image, {"seconds": time.perf_counter() - began})
        began = time.perf_counter()


def upscaled(task: Task, request: Request, output: Path, model: Model, progress: Progress | None) -> Made:
    """medsr on the scan as it was written, by the path that a user's scan takes; ``output`` is the file to write."""
    modality: Literal["mr", "ct"] = "ct" if task.reference.modality == "CT" else "mr"
    asked = replace(
        request,
        target=task.reference.geometry,
        profile=protocol(task.protocol).told_profile,
        modality=modality,
    )
    began = time.perf_counter()
    with peak_memory() as peak:
        result = upscale_file(task.scan, output, asked, progress, model=model, overwrite=True)
    figures = {
        "certificate": result.result.certificate.residual,
        "seconds": time.perf_counter() - began,
        "evaluations": float(result.result.evaluations),
        **({"peak_memory_mb": peak.megabytes} if peak.megabytes is not None else {}),
    }
    std = result.result.std
    return Made(
        result.result.volume.array,
        figures,
        std=None if std is None else std.array,
        warnings=tuple(result.sidecar["warnings"]),
    )


def file_of(folder: Path, task_protocol: str, name: str) -> Path | None:
    """Where another tool's volume of the reference ``name`` lies in its folder; None when it is not there.

    Below the protocol's own folder first; by the whole name or its last part; as it is, or as .nii.gz or .nii.
    """
    last = Path(name)
    for place in (folder / task_protocol, folder):
        for path in (place / name, place / last.name):
            for suffix in ("", ".nii.gz", ".nii"):
                found = path.with_name(stem(path) + suffix) if suffix else path
                if found.is_file():
                    return found
    return None


def brought_along(task: Task, path: Path) -> Made:
    """A volume that another tool made. Raises InputError for another grid and for a file that cannot be read."""
    read = read_onto(path, task.reference.geometry, task.entry.name, task.reference.modality)
    return Made(read.array, warnings=read.warnings)
