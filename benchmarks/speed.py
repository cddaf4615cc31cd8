"""What ``medsr upscale`` costs: seconds per megavoxel, evaluations, peak memory, and where the time goes.

    python benchmarks/speed.py [--sizes small medium large] [--model NAME] [--threads N] [--results FOLDER]

Each size is one run in a process of its own, on a scan tiled from the sample head. Rows go to docs/results/speed.json
as they are made, those of other sizes stay; docs/results/speed.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

from medsr.card import read_card
from medsr.plan import FIXED_MEMORY, VOLUMES_IN_MEMORY
from medsr.resources import sample_path

# Shape of the input; the output has twice the voxels along i and j: 2, 16 and 50 megavoxels.
SIZES = {"small": (64, 80, 98), "medium": (128, 160, 196), "large": (192, 224, 290)}
STAGES = ("start", "read", "load model", "linear", "network", "consistency", "finish", "write", "rest")
MEGA = 1e6


@dataclass(frozen=True)
class Row:
    """One run. voxels: of the output. peak, bound: bytes of resident memory. cpu_seconds: of all
    threads. stages: seconds, in all ``seconds``."""

    size: str
    shape: tuple[int, int, int]
    voxels: int
    seconds: float
    cpu_seconds: float
    evaluations: int
    peak: int
    bound: int
    stages: dict[str, float]
    dtype: str
    threads: int
    weights: str
    machine: str

    @property
    def largest(self) -> str:
        """The stage that takes the most time, apart from starting Python and torch."""
        return max((s for s in STAGES if s not in ("start", "load model", "rest")), key=lambda s: self.stages[s])


def make_scan(path: Path, shape: tuple[int, int, int]) -> None:
    """A T1-weighted scan of ``shape``, tiled from the sample head, every other tile mirrored: its texture and air."""
    head = nibabel.load(sample_path("head_fine.nii.gz"))
    array = np.asarray(head.dataobj)
    after = [(0, max(0, n - m)) for n, m in zip(shape, array.shape, strict=True)]
    tiled = np.pad(array, after, mode="symmetric")[tuple(slice(n) for n in shape)]
    nibabel.save(nibabel.Nifti1Image(tiled, head.affine), path)


def measure(size: str, model: str, threads: int | None) -> Row:
    """Upscale a scan of a size by 2 in plane, texture 0, and see what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        scan, output = Path(folder) / "head_T1w.nii.gz", Path(folder) / "out.nii.gz"
        make_scan(scan, SIZES[size])
        command = [sys.executable, "-m", "medsr", "upscale", str(scan), "-o", str(output)]
        command += ["--model", model, "--device", "cpu", "--quiet", "--modality", "mr"]
        if threads is not None:
            command += ["--threads", str(threads)]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{size}: medsr ended with {process.returncode}")
        sidecar = json.loads(output.with_name("out.json").read_text(encoding="utf-8"))
    shape = tuple(sidecar["plan"]["target"]["shape"])
    voxels = int(np.prod(shape))
    return Row(
        size=size,
        shape=shape,
        voxels=voxels,
        seconds=round(seconds, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        evaluations=sidecar["evaluations"],
        peak=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        bound=FIXED_MEMORY + VOLUMES_IN_MEMORY * 4 * voxels,
        stages=stages_of(sidecar, seconds),
        dtype=sidecar["dtype"],
        threads=sidecar["threads"],
        weights=sidecar["model"]["sha256"][:12],
        machine=in_words(),
    )


def stages_of(sidecar: dict, seconds: float) -> dict[str, float]:
    """Seconds by stage, which add up to the whole. start: of Python and its imports, before the run and after it."""
    run, inside = sidecar["timings"], sidecar["seconds"]
    stages = {name: inside.get(name, 0.0) for name in ("linear", "network", "consistency", "finish")}
    stages["rest"] = run["reconstruct"] - sum(stages.values())
    stages |= {name: run[name] for name in ("read", "load model", "write")}
    stages["start"] = seconds - sum(stages.values())
    return {name: round(stages[name], 3) for name in STAGES}


def page(rows: list[Row], command: str) -> str:
    """The rows in Markdown."""
    first = rows[0]
    lines = [
        "# Speed and memory",
        "",
        f"Made by `{command}`: `medsr upscale` with texture 0 and twice the voxels along two axes, weights "
        f"`{first.weights}`, {first.dtype}, {first.threads} thread{'s' if first.threads > 1 else ''}, on "
        f"{first.machine}. Each row is one process, from "
        "start to end. The scans are tiled from the sample head.",
        "",
        "| output voxels | megavoxels | seconds | of all cores | per megavoxel | evaluations | peak, GB | bound, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {' x '.join(map(str, r.shape))} | {r.voxels / MEGA:.1f} | {r.seconds:.1f} | {r.cpu_seconds:.1f} | "
        f"{r.seconds / r.voxels * MEGA:.2f} | {r.evaluations} | {r.peak / 1e9:.2f} | {r.bound / 1e9:.2f} |"
        for r in rows
    ]
    over = [r.size for r in rows if r.peak > r.bound]
    lines += [
        "",
        "An evaluation is one run of the network over every slice that holds tissue. Peak: resident memory. Bound: 1.5 "
        f"GB and six times the output in float32. {'Over it: ' + ', '.join(over) if over else 'No run is over it'}.",
        "",
        "Share of the time in percent; start is that of Python and its imports, load model includes importing torch:",
        "",
        "| megavoxels | " + " | ".join(STAGES) + " | largest |",
        "|---|" + "---|" * (len(STAGES) + 1),
    ]
    for r in rows:
        shares = " | ".join(f"{100 * r.stages[name] / r.seconds:.1f}" for name in STAGES)
        lines.append(f"| {r.voxels / MEGA:.1f} | {shares} | {r.largest} |")
    return "\n".join(lines) + "\n"


def load(path: Path) -> dict[str, Row]:
    if not path.exists():
        return {}
    names = {f.name for f in fields(Row)}
    rows = [r for r in json.loads(path.read_text(encoding="utf-8")) if set(r) == names]
    return {r["size"]: Row(**{**r, "shape": tuple(r["shape"])}) for r in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    chosen = parser.parse_args()
    chosen.results.mkdir(parents=True, exist_ok=True)
    path = chosen.results / "speed.json"
    command = "python benchmarks/speed.py" + (f" --threads {chosen.threads}" if chosen.threads else "")
    weights, machine = read_card(chosen.model).sha256[:12], in_words()
    rows = {name: r for name, r in load(path).items() if (r.weights, r.machine) == (weights, machine)}
    rows = {name: r for name, r in rows.items() if chosen.threads in (None, r.threads)}
    for size in chosen.sizes:
        rows[size] = row = measure(size, chosen.model, chosen.threads)
        print(
            f"{size}: {row.seconds:.1f} s, {row.peak / 1e9:.2f} GB of {row.bound / 1e9:.2f} GB, {row.stages}",
            flush=True,
        )
        ordered = [rows[name] for name in SIZES if name in rows]
        path.write_text(json.dumps([asdict(r) for r in ordered], indent=2) + "\n", encoding="utf-8")
        (chosen.results / "speed.md").write_text(page(ordered, command), encoding="utf-8")


if __name__ == "__main__":
    main()
