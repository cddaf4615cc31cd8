"""What a worker reports of a scan that is done: files with their hashes, figures, times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsr.image.files import sha256_of
from medsr.outputs import gradient_files
from medsr.publish import Upscaled


@dataclass(frozen=True)
class Outcome:
    """files: SHA-256 by path relative to the folder of outputs, with "/". residual: of the certificate, the largest of
    all volumes; None where there is no number. seconds: by stage. network: when the network began and ended, seconds
    since 1970.
    """

    files: dict[str, str]
    modality: str | None
    residual: float | None
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    worker: str
    network: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """For ``JobStore.finish``."""
        return asdict(self)


def outcome_of(done: Upscaled, out: Path, worker: str, network: tuple[float, float]) -> Outcome:
    """The outcome of a scan whose files have just been published below ``out``; reads them again to hash them."""
    residual = max(result.certificate.residual for result in done.results)
    return Outcome(
        files={path.relative_to(out).as_posix(): sha256_of(path) for path in _written(done)},
        modality=done.header.modality,
        residual=residual if math.isfinite(residual) else None,
        seconds=dict(done.sidecar["timings"]),
        warnings=tuple(done.sidecar["warnings"]),
        worker=worker,
        network=network,
    )


def _written(done: Upscaled) -> Iterator[Path]:
    """Every file of a run; a series is a folder of them."""
    copies: dict[Path, Path] = {}
    if done.header.format != "dicom":
        copies = gradient_files(done.header.path, done.files["volume"], done.plan.request)
    for path in (*done.files.values(), *copies.values()):
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file())
        elif path.exists():
            yield path
