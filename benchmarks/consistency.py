"""Which weight of consistency is best, on slabs of the validation scans: the table of docs/results/consistency.md.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/consistency.py [--model NAME|FILE] [--protocols NAME ...]

One forward pass a scan; its estimate is then projected with each lambda (0: exact, infinity: none). In plane: the
middle six slices; through plane: the middle 80 x 80 columns. Gain is over the best of cubic, zero-fill,
cubic + consistency and linear MMSE.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from medsr.classical import classical
from medsr.crops import Crop
from medsr.degradation import Degradation
from medsr.diffusion.device import dtype_for
from medsr.diffusion.model import Model, load_model
from medsr.evaluation.metrics import data_range, psnr
from medsr.image.intensity import CT_AIR_HU, fit_intensity
from medsr.image.volume import Array
from medsr.reconstruction import whitened_pass
from medsr.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from crops import RESULTS, Size, admitted, crop

LAMBDAS = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0, 3.0, math.inf)
PROTOCOLS = ("inplane-x2", "inplane-x2-kspace", "blind-x2", "slice-x4")
BASELINES = ("cubic", "zero-fill", "cubic + consistency", "linear MMSE")
SIZE = Size(side=100_000, slices=6, columns=80)


def gains(part: Crop, model: Model) -> list[float]:
    """Gain in dB for each lambda."""
    fine, coarse = part.reference, part.scan
    plan = part.plan(model.card)
    intensity = fit_intensity(coarse.array, coarse.modality)
    floor = np.float32(CT_AIR_HU if fine.modality == "CT" else -np.inf)
    y = torch.from_numpy(intensity.apply(np.maximum(coarse.array, floor)))
    A = Degradation.between(fine.geometry, coarse.geometry, plan.profiles)
    mask = part.mask
    span = data_range(fine.array, fine.modality)

    def score(image: Array) -> float:
        return psnr(fine.array, image, data_range=span, mask=mask)

    best = max(score(image) for _, image in classical(coarse, fine.geometry, plan.profiles, BASELINES))
    dtype = dtype_for(model.device)
    runner = Runner(model, fine.modality, None if dtype == torch.float32 else dtype, 0, lambda _stage, _share: None)
    with torch.inference_mode():
        _, x, _, _ = whitened_pass(y, plan.passes[0], runner)
        projected = [x if math.isinf(lam) else x + A.pinv(y - A(x), lam) for lam in LAMBDAS]
    return [score(intensity.invert(p.numpy())) - best for p in projected]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), metavar="NAME")
    options = parser.parse_args()
    model = load_model(options.model)
    table: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for name in options.protocols:
        for entry, _ in admitted("val", [name]):
            part = crop(entry, name, SIZE)
            row = gains(part, model)
            table[name, part.reference.modality].append(row)
            print(name, entry.name, " ".join(f"{g:+.2f}" for g in row), flush=True)
    head = " | ".join("none" if math.isinf(lam) else f"{lam:g}" for lam in LAMBDAS)
    lines = [
        "# Weight of consistency",
        "",
        f"Made by `python benchmarks/consistency.py`, weights `{model.card.sha256[:12]}`: mean gain in dB "
        "over the best classical method on slabs of the validation scans, against lambda of the projection "
        "(0 is exact).",
        "",
        f"| protocol | modality | scans | {head} |",
        "|---|---|---|" + "---|" * len(LAMBDAS),
    ]
    for (name, modality), rows in table.items():
        means = " | ".join(f"{fmean(r[i] for r in rows):+.2f}" for i in range(len(LAMBDAS)))
        lines.append(f"| {name} | {modality} | {len(rows)} | {means} |")
    (RESULTS / "consistency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
