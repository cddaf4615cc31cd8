"""``medsr train CONFIG --validate``: the checkpoints of a run, scored on scans that it has not seen."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from monai.metrics import PSNRMetric
from torch import Tensor

from medsr.card import read_card
from medsr.classical import classical
from medsr.diffusion.model import Model, load_model
from medsr.engine import reconstruct
from medsr.errors import ConfigError
from medsr.image.files import atomic_write
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.nifti import inspect, read
from medsr.image.volume import Array, Modality, Volume
from medsr.plan import Request, make_plan
from medsr.protocols import Protocol, protocol, seed_of, simulate
from medsr.training.record import Report
from medsr.training.setup import TrainingConfig, Validation, validation_rows

MIN_COARSE = 8  # voxels of the coarse scan along a scaled axis, as in training
MAX_SLICE_MM = 3.5  # thicker slices are no reference along the slice axis
CT_RANGE_HU = 4095.0


@dataclass(frozen=True, eq=False)
class Case:
    """The middle of one scan under one protocol.

    header: of the coarse volume. span: the range of PSNR, from the whole scan. mask: the reference's foreground.
    """

    file: str
    protocol: str
    reference: Volume
    coarse: Volume
    header: Header
    span: float
    mask: Tensor


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
    """What the protocols make of one scan of INDEX.csv, as far as it is admitted to them."""
    path = root / row["file"]
    modality: Modality = "CT" if row["modality"] == "CT" else "MR"
    whole, slice_axis = read(path, modality=modality), inspect(path).slice_axis
    fine = middle(whole, slice_axis, wanted)
    low, high = np.percentile(whole.array, (0, 99.9))
    mask = torch.from_numpy(foreground(fine.array, modality, slice_axis))
    native = row["native"].split("/")
    for name in wanted.protocols:
        plan = protocol(name)
        if not admitted(plan, fine, slice_axis, native):
            continue
        generator = torch.Generator().manual_seed(seed_of(path.name))
        coarse = simulate(fine, plan, generator, slice_axis=slice_axis)
        header = Header(
            path=path,
            format="nifti",
            geometry=coarse.geometry,
            dtype="float32",
            modality=modality,
            modality_evidence="INDEX.csv",
            slice_axis=slice_axis,
        )
        span = CT_RANGE_HU if modality == "CT" else float(high - low)
        yield Case(row["file"], name, fine, coarse, header, span, mask)


def middle(volume: Volume, slice_axis: int, wanted: Validation) -> Volume:
    """At most so many voxels of the middle of a scan."""
    limits = [wanted.slices if axis == slice_axis else wanted.in_plane for axis in range(3)]
    shape = [min(n, limit) for n, limit in zip(volume.array.shape, limits, strict=True)]
    start = [(n - m) // 2 for n, m in zip(volume.array.shape, shape, strict=True)]
    box = tuple(slice(a, a + m) for a, m in zip(start, shape, strict=True))
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    geometry = Geometry((shape[0], shape[1], shape[2]), affine)
    provenance = volume.provenance.then("cropped", start=start, shape=shape)
    return Volume(np.ascontiguousarray(volume.array[box]), geometry, volume.modality, provenance)


def admitted(plan: Protocol, fine: Volume, slice_axis: int, native: Sequence[str]) -> bool:
    """Whether a scan can be the reference of a protocol. native: per axis, as in INDEX.csv."""
    axes = plan.scaled_axes(slice_axis)
    coarse = plan.coarse_grid(fine.geometry, slice_axis)
    if fine.modality not in plan.modalities or min(coarse.shape[a] for a in axes) < MIN_COARSE:
        return False
    if plan.axes == "slice":
        return fine.geometry.spacing[slice_axis] <= MAX_SLICE_MM
    return not any(native[a] == "band-limited" for a in axes)


def score_of(case: Case, checkpoint: str, model: Model) -> Score:
    """The model and the classical methods on one case."""
    request = Request(
        target=case.reference.geometry,
        profile=protocol(case.protocol).told_profile,
        from_acquired="off",
        model=model.card.name,
    )
    plan = make_plan(case.header, request, model.card)
    images = dict(classical(case.coarse, plan.target, plan.profiles, ("cubic", "linear MMSE")))
    made = reconstruct(case.coarse, plan, model).volume.array
    return Score(
        checkpoint=checkpoint,
        weights=model.card.sha256[:12],
        file=case.file,
        modality=case.reference.modality,
        protocol=case.protocol,
        psnr=psnr(case, made),
        cubic=psnr(case, images["cubic"]),
        linear=psnr(case, images["linear MMSE"]),
    )


def psnr(case: Case, image: Array) -> float:
    """In dB, over the foreground of the reference."""
    made, true = (torch.from_numpy(a).double()[case.mask][None, None] for a in (image, case.reference.array))
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
