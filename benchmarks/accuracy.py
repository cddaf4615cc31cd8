"""Degrade real scans, bring them back, and compare: the table of accuracy in docs/results/.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/accuracy.py [--split val|test|sample] [--protocols NAME ...]

Each volume of the split that a protocol admits is degraded, written as a scan, and upscaled as a user's scan would
be; classical methods, told exactly what medsr is told, do the same. Rows go to docs/results/<split>.csv as they are
made and a run that is started again continues; docs/results/<split>.md is made from them.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch

from medsr.card import read_card
from medsr.classical import noise_ratio
from medsr.degradation import Degradation, interpolate, linear_mmse
from medsr.evaluation.bias import hu_bias
from medsr.evaluation.metrics import score
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.intensity import fit_intensity
from medsr.image.nifti import inspect, read
from medsr.image.profile import AxisProfiles, choose_profiles
from medsr.image.volume import Array, Modality, Volume
from medsr.protocols import Protocol, protocol
from medsr.resources import sample_path
from medsr.run import Request, degrade_file, upscale_file

sys.path.insert(0, str(Path(__file__).parent))
from accuracy_table import table

PROTOCOLS = ("inplane-x2", "inplane-x4", "slice-x4", "inplane-x2-kspace", "blind-x2")
BASELINES = ("cubic", "zero-fill", "cubic + consistency", "linear MMSE")
ASSUMED_WEIGHT = 0.6  # lambda of a projection onto data whose profile is assumed, as in the engine
MIN_IN_PLANE, MIN_SLICES, MAX_SLICE_MM = 32, 16, 3.5  # what makes a volume eligible


@dataclass(frozen=True)
class Case:
    """One reference volume of a split."""

    path: Path
    file: str
    subject: str
    modality: Modality
    phantom: bool
    native: tuple[str, ...]  # per axis, from INDEX.csv; empty where nobody looked

    def admits(self, name: str, geometry: Geometry, slice_axis: int) -> bool:
        """The protocol's rule of which volumes are eligible."""
        plan = protocol(name)
        if self.modality not in plan.modalities:
            return False
        coarse, axes = plan.coarse_grid(geometry, slice_axis), plan.scaled_axes(slice_axis)
        if plan.axes == "slice":
            return geometry.spacing[slice_axis] <= MAX_SLICE_MM and coarse.shape[slice_axis] >= MIN_SLICES
        limited = any(self.native[a] == "band-limited" for a in axes) if self.native else False
        return min(coarse.shape[a] for a in axes) >= MIN_IN_PLANE and not limited


@dataclass(frozen=True)
class Row:
    """One method on one volume under one protocol. weights: first digits of the sha256, empty for a baseline.

    lung to whole: mean error in HU of the tissues and of the foreground, empty for MR and for tissues too small.
    """

    file: str
    subject: str
    modality: str
    phantom: str
    protocol: str
    method: str
    weights: str
    psnr: str
    psnr_whole: str
    ssim_3d: str
    ssim_2d: str
    seconds: str
    lung: str = ""
    fat: str = ""
    soft: str = ""
    bone: str = ""
    whole: str = ""


def cases(split: str, root: Path) -> list[Case]:
    """The volumes of a split of INDEX.csv, or the fine phantoms of sample_data."""
    if split == "sample":
        names: dict[str, Modality] = {"head_fine.nii.gz": "MR", "trunk_ct_fine.nii.gz": "CT"}
        return [Case(sample_path(n), n, n.split("_")[0], m, True, ()) for n, m in names.items()]
    with (root / "INDEX.csv").open(newline="") as stream:
        return [
            Case(
                root / row["file"],
                Path(row["file"]).name,
                row["subject"],
                "CT" if row["modality"] == "CT" else "MR",
                row["phantom"] != "no",
                tuple(row["native"].split("/")) if row["native"].count("/") == 2 else (),
            )
            for row in csv.DictReader(stream)
            if row["split"] == split
        ]


def baselines(
    coarse: Volume, target: Geometry, profiles: AxisProfiles, wanted: list[str]
) -> Iterator[tuple[str, Array]]:
    """The classical methods on ``target``, in scan units; ``profiles`` is what the method under test is told."""
    intensity = fit_intensity(coarse.array, coarse.modality)
    y = torch.from_numpy(intensity.apply(coarse.array))
    A = Degradation.between(target, coarse.geometry, [(p.kind, p.width) for p in profiles])
    cubic = interpolate(y, coarse.geometry, target, "cubic")
    for name in wanted:
        if name == "cubic":
            x = cubic
        elif name == "zero-fill":
            x = Degradation.between(target, coarse.geometry, [("sinc", 1.0)] * 3).pinv(y)
        elif name == "cubic + consistency":
            known = all(p.known for p in profiles)
            x = cubic + A.pinv(y - A(cubic), 0.0 if known else ASSUMED_WEIGHT)
        else:
            x = linear_mmse(y, A, noise_ratio(y, A))
        yield name, intensity.invert(x.numpy())


def run_case(case: Case, name: str, wanted: list[str], weights: str, model: str, folder: Path) -> Iterator[Row]:
    """The rows of one volume under one protocol, one method after the other."""
    plan = protocol(name)
    reference = read(case.path, modality=case.modality)
    slice_axis = inspect(case.path).slice_axis
    low = folder / case.file
    degrade_file(case.path, low, name, modality=case.modality, overwrite=True)
    classical = [m for m in wanted if m in BASELINES]
    for method, image, seconds in timed(predictions(low, case, plan, reference.geometry, classical)):
        yield row_of(case, name, method, "", reference, image, slice_axis, seconds)
    if "medsr" in wanted:
        began = time.perf_counter()
        request = Request(
            target=reference.geometry,
            profile=plan.told_profile,
            modality="ct" if case.modality == "CT" else "mr",
            model=model,
        )
        output = folder / f"sr_{case.file}"
        upscale_file(low, output, request, overwrite=True)
        seconds = time.perf_counter() - began
        made = read(output, modality=case.modality)
        if not made.geometry.same_grid(reference.geometry):
            raise RuntimeError(f"{case.file}, {name}: the output is not on the reference grid")
        yield row_of(case, name, "medsr", weights, reference, made.array, slice_axis, seconds)


def predictions(
    low: Path, case: Case, plan: Protocol, target: Geometry, wanted: list[str]
) -> Iterator[tuple[str, Array]]:
    """The classical methods on the scan as it was written."""
    header = inspect(low)
    coarse = read(low, modality=case.modality)
    scaled = [a for a in range(3) if coarse.array.shape[a] != target.shape[a]]
    profiles = choose_profiles(header, case.modality, scaled, plan.told_profile)
    return baselines(coarse, target, profiles, wanted)


def timed(results: Iterator[tuple[str, Array]]) -> Iterator[tuple[str, Array, float]]:
    began = time.perf_counter()
    for name, image in results:
        yield name, image, time.perf_counter() - began
        began = time.perf_counter()


def row_of(
    case: Case, name: str, method: str, weights: str, reference: Volume, image: Array, slice_axis: int, seconds: float
) -> Row:
    scores = score(reference.array, image, case.modality, slice_axis)
    ssim = ["" if s is None else f"{s:.5f}" for s in (scores.ssim_3d, scores.ssim_2d)]
    bias: list[str] = []
    if case.modality == "CT":
        mask = foreground(reference.array, case.modality, slice_axis)
        found = hu_bias(reference.array, image, mask=mask, slice_axis=slice_axis)
        tissues = (found.lung, found.fat, found.soft, found.bone, found.foreground)
        bias = ["" if b is None else f"{b:.3f}" for b in tissues]
    return Row(
        case.file, case.subject, case.modality, "yes" if case.phantom else "no", name, method, weights,
        f"{scores.psnr:.4f}", f"{scores.psnr_whole:.4f}", *ssim, f"{seconds:.2f}", *bias,
    )  # fmt: skip


def load_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return [Row(**row) for row in csv.DictReader(stream)]


def append(path: Path, row: Row) -> None:
    """One row more, on the disk before the next is begun."""
    names = [f.name for f in fields(Row)]
    if path.exists() and path.read_text(encoding="utf-8").splitlines()[:1] != [",".join(names)]:
        raise SystemExit(f"{path} has other columns; delete it, and its rows are made again")
    is_new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))
        stream.flush()
        os.fsync(stream.fileno())


def log_look(path: Path, weights: str, command: str) -> None:
    """A look at the test split is a line of the log."""
    is_new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if is_new:
            writer.writerow(["date", "weights", "command"])
        writer.writerow([datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), weights, command])


def missing(rows: list[Row], case: Case, name: str, methods: list[str], weights: str) -> list[str]:
    """The methods that no row tells of yet; medsr's count only for the same weights."""
    done = {r.method for r in rows if (r.file, r.protocol) == (case.file, name) and r.weights in ("", weights)}
    return [m for m in methods if m not in done]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--split", choices=("val", "test", "sample"), default="val")
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), metavar="NAME")
    parser.add_argument("--files", nargs="+", metavar="NAME", help="only these files of the split")
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--baselines-only", action="store_true", help="classical methods alone; needs no weights")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    root = Path(os.environ.get("MEDSR_DATA", "../shared/data"))
    weights = "" if chosen.baselines_only else read_card(chosen.model).sha256[:12]
    methods = list(BASELINES) if chosen.baselines_only else [*BASELINES, "medsr"]
    command = shlex.join(["python", "benchmarks/accuracy.py", *sys.argv[1:]])
    chosen.results.mkdir(parents=True, exist_ok=True)
    if chosen.split == "test":
        log_look(chosen.results / "log.csv", weights or "none", command)
    path = chosen.results / f"{chosen.split}.csv"
    for case in cases(chosen.split, root):
        if chosen.files and case.file not in chosen.files:
            continue
        header = inspect(case.path)
        for name in chosen.protocols:
            wanted = missing(load_rows(path), case, name, methods, weights)
            if not wanted or not case.admits(name, header.geometry, header.slice_axis):
                continue
            with tempfile.TemporaryDirectory() as folder:
                for row in run_case(case, name, wanted, weights, chosen.model, Path(folder)):
                    append(path, row)
                    print(f"{row.file} {row.protocol} {row.method}: {row.psnr} dB, {row.seconds} s", flush=True)
    page = chosen.results / f"{chosen.split}.md"
    page.write_text(table(load_rows(path), chosen.split, weights, command), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
