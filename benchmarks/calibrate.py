"""One factor per modality on the predicted standard deviation, written into the model's card.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/calibrate.py [--test] [--write]

Of pieces of each scan under each protocol it measures which factor would have made the 90 % interval cover 90 % of the
foreground. The factor of a modality is the one with which the mean coverage over subjects and protocols is 90 %, but
at least 1. The validation scans are too few to tell (three people with CT, two of them soft kernels), so those of the
training are taken too; the networks know these, so that they may widen the intervals but not narrow them. The page
docs/results/calibration.md tells the coverage before and after, split by split; --write puts the factors into the
weights file (tensors and sha256 stay as they are). --test measures the card's factors on the test scans,
docs/results/calibration-test.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from medsr.card import model_path
from medsr.crops import Crop
from medsr.diffusion.model import Model, load_model, save_model
from medsr.engine import reconstruct
from medsr.evaluation.manifest import Entry
from medsr.request import Request

sys.path.insert(0, str(Path(__file__).parent))
from crops import RESULTS, Size, admitted, crop, log_look

PROTOCOLS = ("inplane-x2", "inplane-x4", "inplane-x2-kspace", "slice-x4", "blind-x2")
SIZE = Size(side=128, slices=6, columns=64)
LEVEL = 0.9
HALF_WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True, eq=False)
class Piece:
    """errors: |prediction - reference| / stated deviation over the foreground, sorted; the deviation uncalibrated."""

    split: str
    subject: str
    modality: str
    protocol: str
    errors: NDArray[np.float32]

    def coverage(self, factor: float) -> float:
        """Share of voxels inside the interval, its deviation multiplied by ``factor``."""
        return float(np.searchsorted(self.errors, HALF_WIDTH * factor, side="right") / len(self.errors))


def piece(entry: Entry, part: Crop, model: Model, split: str) -> Piece:
    """Reconstruct one crop with its uncertainty."""
    made = reconstruct(part.scan, part.plan(model.card, Request(uncertainty=True)), model)
    if made.std is None:
        raise RuntimeError("no uncertainty was made")
    modality = part.reference.modality
    std = made.std.array[part.mask] / model.card.calibration.get(modality, 1.0)
    error = np.abs(made.volume.array - part.reference.array)[part.mask]
    return Piece(split, entry.subject, modality, part.protocol, np.sort(error / np.maximum(std, 1e-12)))


def mean_coverage(pieces: list[Piece], factor: float) -> float:
    """Each subject counts once in each protocol."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for p in pieces:
        groups[p.subject, p.protocol].append(p.coverage(factor))
    return fmean(fmean(group) for group in groups.values())


def best_factor(pieces: list[Piece]) -> float:
    """The factor whose mean coverage is LEVEL, by bisection of its logarithm; 1 where it would be less."""
    low, high = 1.0, 10.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if mean_coverage(pieces, middle) < LEVEL else (low, middle)
    return (low * high) ** 0.5


def table(pieces: list[Piece], factors: dict[str, float], command: str, weights: str) -> str:
    """The page in Markdown."""
    lines = [
        "# Calibration of the uncertainty",
        "",
        f"Made by `{command}`, weights `{weights}`: share of the foreground that lies inside the stated 90 % interval,",
        "mean over subjects (least to most), before and after the factor of the model card.",
        "",
        "| modality | factor | split | protocol | subjects | before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for modality, factor in factors.items():
        for split in dict.fromkeys(p.split for p in pieces):
            own = [p for p in pieces if (p.modality, p.split) == (modality, split)]
            for name in [*PROTOCOLS, "all"]:
                cell = [p for p in own if name in (p.protocol, "all")]
                if cell:
                    cells = [_coverage(cell, f) for f in (1.0, factor)]
                    subjects = len({p.subject for p in cell})
                    lines.append(f"| {modality} | {factor:.3f} | {split} | {name} | {subjects} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _coverage(pieces: list[Piece], factor: float) -> str:
    each = [p.coverage(factor) for p in pieces]
    return f"{mean_coverage(pieces, factor):.1%} ({min(each):.0%} to {max(each):.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--test", action="store_true", help="measure the factors of the card on the test scans")
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--write", action="store_true", help="put the factors into the weights file")
    options = parser.parse_args()
    if options.test and options.write:
        parser.error("factors are never chosen on test scans")
    model = load_model(options.model)
    command = shlex.join(["python", "benchmarks/calibrate.py", *sys.argv[1:]])
    if options.test:
        log_look(model.card.sha256[:12], command)
    pieces = []
    for split in ("test",) if options.test else ("train", "val"):
        for entry, name in admitted(split, PROTOCOLS):
            pieces.append(piece(entry, crop(entry, name, SIZE), model, split))
            print(f"{entry.name} {name}: {pieces[-1].coverage(1.0):.1%}", flush=True)
    found = dict(model.card.calibration)
    if not options.test:
        found = {m: round(best_factor([p for p in pieces if p.modality == m]), 3) for m in ("MR", "CT")}
    page = table(pieces, found, command, model.card.sha256[:12])
    (RESULTS / f"calibration{'-test' if options.test else ''}.md").write_text(page, encoding="utf-8")
    print(page)
    if options.write:
        path = model_path(options.model)
        save_model(path, model.card.model_copy(update={"calibration": found}), load_file(path))


if __name__ == "__main__":
    main()
