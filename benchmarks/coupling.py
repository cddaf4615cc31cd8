"""How the unknown detail of neighbouring slices is correlated, against that of their known detail.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/coupling.py

On pieces of the training scans, in-plane protocols: w is the whitened residual, c the correlation of fine detail in the
linear estimate, which can be measured on any scan. Samples of neighbouring slices are drawn from noise with correlation
c ** COUPLING (medsr/sampling.py); the page docs/results/coupling.md tells which power fits best.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from medsr.crops import Crop
from medsr.diffusion.conditions import FOREGROUND, slice_correlation
from medsr.diffusion.device import dtype_for
from medsr.diffusion.model import Model, load_model
from medsr.diffusion.slices import stacked
from medsr.image.intensity import CT_AIR_HU, fit_intensity
from medsr.reconstruction import whitened_pass
from medsr.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from crops import RESULTS, Size, admitted, crop

PROTOCOLS = ("inplane-x2", "inplane-x4")
SIZE = Size(side=96, slices=8, columns=96)
MIN_SLICES = 5
POWERS = (1, 2, 3, 4, 5, 6)
EDGES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def correlations(part: Crop, model: Model) -> tuple[float, float]:
    """c and the correlation of w, both between neighbouring slices of the foreground."""
    intensity = fit_intensity(part.scan.array, part.scan.modality)
    floor = np.float32(CT_AIR_HU if part.scan.modality == "CT" else -np.inf)
    y, x = (torch.from_numpy(intensity.apply(np.maximum(v.array, floor))) for v in (part.scan, part.reference))
    dtype = dtype_for(model.device)
    autocast = None if dtype == torch.float32 else dtype
    runner = Runner(model, part.scan.modality, autocast, 0, lambda _stage, _share: None)
    with torch.inference_mode():
        u, mean, amplitude, plane = whitened_pass(y, part.plan(model.card).passes[0], runner)
        w = stacked((x - mean) / amplitude, plane).clamp(-6, 6)
        tissue = stacked(u, plane) > FOREGROUND
        both = tissue[1:] & tissue[:-1]
        here, there = w[:-1][both], w[1:][both]
        found = (here * there).mean() / (here.square().mean() * there.square().mean()).sqrt()
        return slice_correlation(stacked(u, plane)), float(found)


def page(pairs: Sequence[tuple[float, float]], weights: str) -> str:
    """The page in Markdown."""
    errors = [math.sqrt(fmean((w - c**power) ** 2 for c, w in pairs)) for power in POWERS]
    lines = [
        "# Coupling of slices",
        "",
        f"Made by `python benchmarks/coupling.py`, weights `{weights}`: correlation between neighbouring slices of the",
        f"whitened residual against c, that of the linear estimate's fine detail; {len(pairs)} measurements on",
        "training scans, in plane, factors 2 and 4.",
        "",
        "| c | measurements | of the residual | c^4 |",
        "|---|---|---|---|",
    ]
    for low, high in pairwise(EDGES):
        inside = [(c, w) for c, w in pairs if low <= c < high]
        if inside:
            mean, fourth = fmean(w for _, w in inside), fmean(c**4 for c, _ in inside)
            lines.append(f"| {low:g} to {high:g} | {len(inside)} | {mean:.2f} | {fourth:.2f} |")
    lines += ["", f"| power of c | {' | '.join(map(str, POWERS))} |", "|---|" + "---|" * len(POWERS)]
    lines.append(f"| root mean square misfit | {' | '.join(f'{e:.3f}' for e in errors)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="medsr-base")
    options = parser.parse_args()
    model = load_model(options.model)
    pairs = []
    for entry, name in admitted("train", PROTOCOLS):
        part = crop(entry, name, SIZE)
        if part.reference.array.shape[part.header.slice_axis] >= MIN_SLICES:
            pairs.append(correlations(part, model))
            print(f"{entry.name} {name}: {pairs[-1][0]:.3f} {pairs[-1][1]:.3f}", flush=True)
    (RESULTS / "coupling.md").write_text(page(pairs, model.card.sha256[:12]), encoding="utf-8")


if __name__ == "__main__":
    main()
