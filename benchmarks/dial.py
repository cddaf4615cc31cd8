"""The dial between fidelity and texture, and the law of the sampler, on pieces of the validation scans.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/dial.py [--split val|test] [--only SAMPLER:STEPS ...]

For each sampler and number of steps: what a sample costs and gains at texture 0 to 1 (PSNR, SSIM, spectrum error,
high-frequency error norm), and whether samples are those of the posterior (twice the mean's squared error, spread over
error, power of the differences between neighbouring slices). Rows go to docs/results/dial-<split>.csv; the page
docs/results/dial-<split>.md and the picture docs/images/dial-<split>.svg are made from them.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from medsr.crops import Crop
from medsr.diffusion.model import Model, load_model
from medsr.engine import Result, reconstruct
from medsr.evaluation.manifest import Entry
from medsr.evaluation.metrics import data_range, psnr, ssim_2d
from medsr.evaluation.texture import between_slice_ratio, hfen, spectrum_error
from medsr.evaluation.uncertainty import coverage, mse_ratio, spread_skill
from medsr.image.volume import Array
from medsr.request import Request

sys.path.insert(0, str(Path(__file__).parent))
from crops import RESULTS, Size, admitted, crop, log_look
from dial_page import page, plot

PROTOCOLS = ("inplane-x2", "inplane-x4", "slice-x4")
SOLVERS = (
    "dpmpp2m:4", "dpmpp2m:6", "dpmpp2m:8", "dpmpp2m:16", "heun:3", "heun:5", "heun:8", "euler:8", "euler:16",
    "ancestral:8", "ancestral:16",
)  # fmt: skip
TEXTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZE = Size(side=128, slices=6, columns=64)
IMAGES = RESULTS.parent / "images"


@dataclass(frozen=True)
class Row:
    """One volume, protocol, solver and texture. Figures that belong to the solver alone are repeated."""

    file: str
    subject: str
    modality: str
    protocol: str
    weights: str
    solver: str
    evaluations: int
    seconds: float
    texture: float
    psnr: float
    ssim_2d: float
    spectrum_error: float
    hfen: float
    mse_ratio: float
    spread_skill: float
    coverage: float
    between: float
    between_fine: float


def study(entry: Entry, part: Crop, model: Model, solvers: Sequence[str]) -> Iterator[Row]:
    """The rows of one crop."""
    mean = reconstruct(part.scan, part.plan(model.card, Request(uncertainty=True)), model)
    if mean.std is None:
        raise RuntimeError("no uncertainty was made")
    reference, mask = part.reference.array, part.mask
    error = mean.volume.array - reference
    for solver in solvers:
        name, steps = solver.split(":")
        began = time.perf_counter()
        plan = part.plan(model.card, Request(texture=1.0, sampler=name, steps=int(steps)))
        drawn = reconstruct(part.scan, plan, model)
        seconds = time.perf_counter() - began
        sample = drawn.volume.array
        between = between_slice_ratio(reference, sample, mask=mask, axis=part.across, factors=part.factors)
        law = {
            "mse_ratio": mse_ratio(sample - reference, error, mask=mask),
            "spread_skill": spread_skill(error, np.abs(sample - mean.volume.array), mask=mask),
            "coverage": coverage(error, mean.std.array, mask=mask),
            "between": between.whole,
            "between_fine": between.fine,
        }
        for texture in TEXTURES:
            image = mean.volume.array + np.float32(texture) * (sample - mean.volume.array)
            yield _row(entry, part, model, solver, drawn, seconds, texture, image, law)


def _row(
    entry: Entry,
    part: Crop,
    model: Model,
    solver: str,
    drawn: Result,
    seconds: float,
    texture: float,
    image: Array,
    law: dict[str, float],
) -> Row:
    reference, mask = part.reference.array, part.mask
    span = data_range(reference, part.reference.modality)
    figures = {
        "psnr": psnr(reference, image, data_range=span, mask=mask),
        "ssim_2d": ssim_2d(reference, image, data_range=span, axis=part.across),
        "spectrum_error": spectrum_error(reference, image, mask=mask, factors=part.factors),
        "hfen": hfen(reference, image, mask=mask, axis=part.across),
    }
    return Row(
        file=entry.path.name,
        subject=entry.subject,
        modality=part.reference.modality,
        protocol=part.protocol,
        weights=model.card.sha256[:12],
        solver=solver,
        evaluations=drawn.evaluations,
        seconds=round(seconds, 2),
        texture=texture,
        **{name: round(value, 4) for name, value in (figures | law).items()},
    )


def load(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not path.exists():
        return []
    kinds = {f.name: {"int": int, "float": float}.get(str(f.type), str) for f in fields(Row)}
    with path.open(newline="") as stream:
        return [Row(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(stream)]


def save(path: Path, rows: Sequence[Row]) -> None:
    """All rows, old and new."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--files", nargs="+", metavar="NAME", help="only these files of the split")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), metavar="NAME")
    parser.add_argument("--only", nargs="+", default=list(SOLVERS), metavar="SAMPLER:STEPS")
    options = parser.parse_args()
    model = load_model(options.model)
    command = shlex.join(["python", "benchmarks/dial.py", *sys.argv[1:]])
    RESULTS.mkdir(parents=True, exist_ok=True)
    if options.split == "test":
        log_look(model.card.sha256[:12], command)
    path = RESULTS / f"dial-{options.split}.csv"
    rows = [row for row in load(path) if row.weights == model.card.sha256[:12]]
    done = {(row.file, row.protocol, row.solver) for row in rows}
    for entry, name in admitted(options.split, options.protocols, options.files or ()):
        wanted = [s for s in options.only if (entry.path.name, name, s) not in done]
        if not wanted:
            continue
        for row in study(entry, crop(entry, name, SIZE), model, wanted):
            rows.append(row)
            if row.texture == 1.0:
                law = f"MSE ratio {row.mse_ratio}, between {row.between_fine}"
                print(f"{row.file} {name} {row.solver}: {law}", flush=True)
        save(path, rows)
    (RESULTS / f"dial-{options.split}.md").write_text(page(rows, options.split, command), encoding="utf-8")
    plot(rows, IMAGES / f"dial-{options.split}.svg")


if __name__ == "__main__":
    main()
