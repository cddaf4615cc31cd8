"""What a worker costs beside a bare loop over the same scans, and how long the network waits between scans.

    python benchmarks/worker.py [--scans 8] [--rounds 3] [--shape 128x128x40] [--device cpu] [--threads 1]
                                [--format nifti|dicom] [--results FOLDER]

Bare: one process with the model loaded calls ``upscale_file`` for scan after scan. Worker: ``run_worker`` over a job
store of the same scans, files hashed and recorded. Both in one process, in turns. Idle: the share of the time from the
first scan's network to the last one's in which no network ran; beside it the same of the bare loop, which does
nothing else while it reads and writes. Adds a row to docs/results/worker.json and makes worker.md of it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from dicom import make_series
from machine import in_words
from pydicom.uid import ExplicitVRLittleEndian

from medsr.image.scan import inspect
from medsr.request import Request
from medsr.run import load_for, plan_file, upscale_file
from medsr.service.identity import files_of, hash_of
from medsr.service.jobs import JobStore, NewJob
from medsr.service.log import EventLog
from medsr.service.pipeline import Rules
from medsr.service.tasks import Task
from medsr.service.worker import run_worker


def make_scans(folder: Path, count: int, shape: tuple[int, int, int], kind: str) -> list[Path]:
    """Phantoms with noise, so that they compress as scans do; MR as NIfTI, CT (512 x 512) as DICOM."""
    if kind == "dicom":
        return [make_series(folder / f"scan{n}", shape[2], ExplicitVRLittleEndian) for n in range(count)]
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), axis=-1)
    scans = []
    for number in range(count):
        image = 600 * (np.square(grid / 0.8).sum(-1) < 1) + 150 * np.sin(9 * grid).prod(-1) + rng.normal(40, 8, shape)
        scans.append(folder / f"scan{number}_T1w.nii.gz")
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(np.clip(image, 0, None).astype(np.int16), affine), scans[-1])
    return scans


def output_of(scan: Path, kind: str) -> str:
    return f"{scan.name}_sr" if kind == "dicom" else f"{scan.name.removesuffix('.nii.gz')}_sr.nii.gz"


def seconds_of(work: Any) -> tuple[float, float]:
    """Of the clock, and of all cores."""
    clock, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cores


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    shape = tuple(int(n) for n in arguments.shape.split("x"))
    kind = arguments.format
    scans = make_scans(folder, arguments.scans, (shape[0], shape[1], shape[2]), kind)
    request = Request(device=arguments.device, threads=arguments.threads)
    model = load_for(request)
    out = folder / "out"
    out.mkdir()
    idle_bare = []

    def bare() -> None:
        spans, began = [], time.perf_counter()
        for scan in scans:
            done = upscale_file(scan, out / output_of(scan, kind), request, model=model)
            spans.append((done.sidecar["timings"]["reconstruct"], time.perf_counter()))
        idle_bare.append(1 - sum(span for span, _ in spans) / (spans[-1][1] - began))

    tasks = []
    for scan in scans:
        plan = plan_file(scan, out / output_of(scan, kind), request).plan
        digest = hash_of(files_of(inspect(scan), request))
        tasks.append(Task(scan, output_of(scan, kind), request, plan.to_json(), digest).to_json())
    idle = []

    def worker() -> None:
        path = folder / "jobs.sqlite"
        for old in folder.glob("jobs.sqlite*"):
            old.unlink()
        with JobStore(path, create=True) as store:
            store.add((NewJob(str(n), str(n), task) for n, task in enumerate(tasks)), time.time())
            run_worker(store, out, Rules("w"), EventLog(io.StringIO(), "w", names=False), threading.Event())
            spans = [job.outcome["network"] for job in store.jobs(["done"]) if job.outcome]
        if len(spans) != len(scans):
            raise RuntimeError("not every scan was done")
        whole = max(end for _, end in spans) - min(begin for begin, _ in spans)
        idle.append(1 - sum(end - begin for begin, end in spans) / whole)

    rows = []
    for _ in range(arguments.rounds + 1):
        shutil.rmtree(out)
        out.mkdir()
        alone = seconds_of(bare)
        shutil.rmtree(out)
        out.mkdir()
        rows.append((alone, seconds_of(worker)))
    rows, idle, idle_bare = rows[1:], idle[1:], idle_bare[1:]  # the first warms up
    return {
        "format": kind,
        "device": str(model.device),
        "threads": arguments.threads,
        "scans": len(scans),
        "shape": "512x512x" + str(shape[2]) if kind == "dicom" else arguments.shape,
        "rounds": len(rows),
        "bare_seconds": round(statistics.median(a[0] for a, _ in rows) / len(scans), 3),
        "worker_seconds": round(statistics.median(w[0] for _, w in rows) / len(scans), 3),
        "core_overhead": round(statistics.median(w[1] / a[1] for a, w in rows) - 1, 4),
        "idle_bare": round(statistics.median(idle_bare), 4),
        "idle": round(statistics.median(idle), 4),
        "machine": in_words(),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    columns = (
        "format", "device", "threads", "scans", "size", "bare, s a scan", "worker, s a scan", "more, by the clock",
        "by cores", "idle, bare", "idle, worker",
    )  # fmt: skip
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    lines = [
        "# A worker beside a bare loop",
        "",
        "Made by `python benchmarks/worker.py`. Bare: `upscale_file` for scan after scan in one process, the model "
        "loaded once. Worker: the same scans from a list of jobs, read ahead and written behind, files hashed and "
        "recorded. In turns in one process; medians of the rounds. By the clock: one median against the other. By "
        "cores: the median of the rounds' own ratios of the time of all cores, the steadier measure while other "
        "programs run. Idle: share of the time in which no network ran.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for r in rows:
        by_clock = r["worker_seconds"] / r["bare_seconds"] - 1
        lines.append(
            f"| {r['format']} | {r['device']} | {r['threads'] or 'all'} | {r['scans']} | {r['shape']} | "
            f"{r['bare_seconds']:.2f} | {r['worker_seconds']:.2f} | {100 * by_clock:+.1f} % | "
            f"{100 * r['core_overhead']:+.1f} % | {100 * r['idle_bare']:.1f} % | {100 * r['idle']:.1f} % |"
        )
    return "\n".join([*lines, "", *(f"Measured on {machine}." for machine in machines), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="128x128x40")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", choices=["nifti", "dicom"], default="nifti")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        row = measure(Path(name), arguments)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "worker.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    same = ("format", "device", "threads", "shape")
    rows = [r for r in rows if any(r[k] != row[k] for k in same)] + [row]
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(rows), encoding="utf-8")
    print(page(rows))


if __name__ == "__main__":
    main()
