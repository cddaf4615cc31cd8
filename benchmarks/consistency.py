"""Which weight of consistency is best, on slabs of the validation scans: the table of docs/results/consistency.md.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/consistency.py [--model NAME|FILE] [--protocols NAME ...]

One forward pass a scan; its estimate is then projected with each lambda (0: exact, infinity: none). In plane: the
middle six slices; through plane: the middle 80 x 80 columns. Gain is over the best of cubic, zero-fill,
cubic + consistency and linear MMSE.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from medsr.degradation import Degradation, interpolate, linear_mmse
from medsr.diffusion.device import dtype_for
from medsr.diffusion.model import Model, load_model
from medsr.evaluation.metrics import data_range, psnr
from medsr.image.intensity import CT_AIR_HU, fit_intensity
from medsr.image.nifti import inspect
from medsr.protocols import Protocol, protocol
from medsr.reconstruction import whitened_pass
from medsr.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import Case, cases
from crops import crop

LAMBDAS = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0, 3.0, math.inf)
PROTOCOLS = ("inplane-x2", "inplane-x2-kspace", "blind-x2", "slice-x4")
SIDE, SLICES, COLUMNS = 100_000, 6, 80


def gains(case: Case, rule: Protocol, model: Model) -> list[float]:
    """Gain in dB for each lambda."""
    part = crop(case, rule.name, side=SIDE, slices=SLICES, columns=COLUMNS)
    fine, coarse = part.reference, part.scan
    plan = part.plan(model.card)
    intensity = fit_intensity(coarse.array, coarse.modality)
    floor = np.float32(CT_AIR_HU if fine.modality == "CT" else -np.inf)
    y = torch.from_numpy(intensity.apply(np.maximum(coarse.array, floor)))
    A = Degradation.between(fine.geometry, coarse.geometry, plan.profiles)
    mask = part.mask
    span = data_range(fine.array, fine.modality)

    def score(x: Tensor) -> float:
        return float(psnr(fine.array, intensity.invert(x.numpy()), data_range=span, mask=mask))

    cubic = interpolate(y, coarse.geometry, fine.geometry, "cubic")
    classical = (cubic, A.pinv(y), cubic + A.pinv(y - A(cubic)), linear_mmse(y, A, 1e-4))
    best = max(score(x) for x in classical)
    dtype = dtype_for(model.device)
    runner = Runner(model, fine.modality, None if dtype == torch.float32 else dtype, 0, lambda _stage, _share: None)
    with torch.inference_mode():
        _, x, _, _ = whitened_pass(y, plan.passes[0], runner)
        return [score(x if math.isinf(lam) else x + A.pinv(y - A(x), lam)) - best for lam in LAMBDAS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), metavar="NAME")
    options = parser.parse_args()
    model = load_model(options.model)
    root = Path(os.environ.get("MEDSR_DATA", "../shared/data"))
    table: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for name in options.protocols:
        for case in cases("val", root):
            header = inspect(case.path)
            if case.admits(name, header.geometry, header.slice_axis):
                row = gains(case, protocol(name), model)
                table[name, case.modality].append(row)
                print(name, case.file, " ".join(f"{g:+.2f}" for g in row), flush=True)
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
    page = Path(__file__).parent.parent / "docs" / "results" / "consistency.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
