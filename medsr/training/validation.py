"""``medsr train CONFIG --validate``: the checkpoints of a run, scored on scans that it has not seen."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import torch
from monai.metrics import PSNRMetric

from medsr.card import read_card
from medsr.classical import classical
from medsr.crops import Crop, degraded, middle
from medsr.diffusion.model import Model, load_model
from medsr.engine import reconstruct
from medsr.errors import ConfigError
from medsr.image.acquired import Sharpness
from medsr.image.files import atomic_write
from medsr.image.nifti import inspect, read
from medsr.image.volume import Array, Modality
from medsr.protocols import protocol
from medsr.training.record import Report
from medsr.training.setup import TrainingConfig, Validation, validation_rows

MIN_COARSE = 8  # voxels of the coarse scan along a scaled axis, as in training
CT_RANGE_HU = 4095.0


@dataclass(frozen=True, eq=False)
class Case:
    """The middle of one scan under one protocol. file: as in INDEX.csv. span: the range of PSNR, of the whole scan."""

    file: str
    crop: Crop
    span: float


@dataclass(frozen=True)
class Score:
    """One line of validation.csv: PSNR over the foreground in dB, of the model and of two classical methods.

    weights: first digits of the sha256. cubic: interpolation. linear: linear MMSE, told what the model is told.
    """

    checkpoint: str
    weights: str
    file: str
    modality: str
    protocol: str
    psnr: float
    cubic: float
    linear: float


def validate(config: TrainingConfig, root: Path, out: Path, report: Report) -> list[Score]:
    """Score the checkpoints of the run in ``out`` that validation.csv does not know yet; all scores, as in that file.

    root: the folder with INDEX.csv. It writes nothing but validation.csv, so that it can run beside the training.
    Raises ConfigError.
    """
    folder, path = out / "checkpoints", out / "validation.csv"
    checkpoints = sorted(folder.glob("*.safetensors"))
    if not checkpoints:
        raise ConfigError(f"no checkpoint in {folder}; start the training with this --out, or wait for the first one")
    scores = read_scores(path)
    known = {score.weights for score in scores}
    new = [file for file in checkpoints if read_card(file).sha256[:12] not in known]
    cases = [case for row in validation_rows(root) for case in cases_of(row, root, config.validation)] if new else []
    if new and not cases:
        raise ConfigError("no scan of the split val fits a protocol of the validation; add scans, or change protocols")
    for number, file in enumerate(new, 1):
        report(f"{file.stem} ({number} of {len(new)}): {len(cases)} cases")
        model = load_model(file, device="auto")
        scores += [score_of(case, file.stem, model) for case in cases]
        write_scores(path, scores)
    report(table(scores))
    return scores


def cases_of(row: dict[str, str], root: Path, wanted: Validation) -> Iterator[Case]:
    """What the protocols make of one scan of INDEX.csv, as far as it is admitted to them and leaves enough to see."""
    path = root / row["file"]
    modality: Modality = "CT" if row["modality"] == "CT" else "MR"
    whole, slice_axis = read(path, modality=modality), inspect(path).slice_axis
    fine = middle(whole, [wanted.slices if axis == slice_axis else wanted.in_plane for axis in range(3)])
    low, high = np.percentile(whole.array, (0, 99.9))
    span = CT_RANGE_HU if modality == "CT" else float(high - low)
    native = cast(list[Sharpness], row["native"].split("/"))
    for name in wanted.protocols:
        rule = protocol(name)
        left = min(rule.coarse_grid(fine.geometry, slice_axis).shape[a] for a in rule.scaled_axes(slice_axis))
        if left >= MIN_COARSE and rule.unfit(whole.geometry, modality, slice_axis, native) is None:
            yield Case(row["file"], degraded(fine, name, path, slice_axis), span)


def score_of(case: Case, checkpoint: str, model: Model) -> Score:
    """The model and the classical methods on one case."""
    crop = case.crop
    plan = crop.plan(model.card)
    images = dict(classical(crop.scan, plan.target, plan.profiles, ("cubic", "linear MMSE")))
    made = reconstruct(crop.scan, plan, model).volume.array
    return Score(
        checkpoint=checkpoint,
        weights=model.card.sha256[:12],
        file=case.file,
        modality=crop.reference.modality,
        protocol=crop.protocol,
        psnr=psnr(case, made),
        cubic=psnr(case, images["cubic"]),
        linear=psnr(case, images["linear MMSE"]),
    )


def psnr(case: Case, image: Array) -> float:
    """In dB, over the foreground of the reference."""
    mask = torch.from_numpy(case.crop.mask)
    made, true = (torch.from_numpy(a).double()[mask][None, None] for a in (image, case.crop.reference.array))
    return float(PSNRMetric(max_val=case.span)(made, true))


def table(scores: Sequence[Score]) -> str:
    """One line a checkpoint: means over its cases, and the gain over linear MMSE under each protocol."""
    protocols = sorted({score.protocol for score in scores})
    lines = ["PSNR and gains in dB; by protocol: gain over linear MMSE"]
    lines.append("  ".join([f"{'checkpoint':<20}", " PSNR", "over cubic", "over linear", *protocols]))
    for name in sorted({score.checkpoint for score in scores}):
        own = [s for s in scores if s.checkpoint == name]
        cells = [f"{fmean(s.psnr for s in own):5.2f}", f"{fmean(s.psnr - s.cubic for s in own):+10.2f}"]
        cells.append(f"{fmean(s.psnr - s.linear for s in own):+11.2f}")
        for one in protocols:
            gains = [s.psnr - s.linear for s in own if s.protocol == one]
            cells.append(f"{fmean(gains):+{len(one)}.2f}" if gains else f"{'-':>{len(one)}}")
        lines.append("  ".join([f"{name:<20}", *cells]))
    return "\n".join(lines)


def read_scores(path: Path) -> list[Score]:
    """The lines of validation.csv; none where there is no such file."""
    if not path.exists():
        return []
    numbers = {"psnr", "cubic", "linear"}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Score(**{k: float(v) if k in numbers else v for k, v in row.items()}) for row in rows]  # type: ignore[arg-type]


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Replace validation.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Score)], lineterminator="\n")
    writer.writeheader()
    for score in scores:
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in asdict(score).items()})
    with atomic_write(path, overwrite=True) as stream:
        stream.write(text.getvalue().encode())
