"""What planning a cohort costs: scans found, headers read, plans made, files hashed, jobs written; no voxel, no torch.

    python benchmarks/batch.py [--scans 2000] [--rounds 3] [--results FOLDER]

Each round is a process of its own, so that its start and its imports count as they do for a user. The scans are tiny
NIfTI files with a BIDS sidecar each, 20 to a folder. Writes batch.md and batch.json to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

LIMIT_S = 10.0


def make_cohort(folder: Path, scans: int) -> None:
    """Noise of 32 x 32 x 12 voxels of 1 x 1 x 3 mm."""
    rng = np.random.default_rng(0)
    for number in range(scans):
        path = folder / f"site-{number // 20:03d}" / f"sub-{number:05d}_T1w.nii.gz"
        path.parent.mkdir(exist_ok=True)
        array = rng.integers(0, 900, (32, 32, 12)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 3, 1])), path)
        sidecar = {"Modality": "MR", "SliceThickness": 3.0, "MRAcquisitionType": "2D"}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def one_round(cohort: Path, out: Path) -> None:
    """In a process of its own: prints the seconds of each step as JSON."""
    began = time.perf_counter()
    from medsr.request import Request
    from medsr.service.enrol import enrol
    from medsr.service.inputs import find_items
    from medsr.service.jobs import JobStore
    from medsr.service.place import Place
    from medsr.service.planning import plan_each, plan_items

    request, place = Request(), Place(out)
    marks = [("imports", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    found = find_items([cohort], request, out=out)
    mark("finding scans")
    plan_items(found, request, hashed=False)
    mark("planning (--plan)")
    place.make()
    with JobStore(place.store, create=True) as store:
        enrolled = enrol(store, plan_each(found, request, hashed=True), out, overwrite=False, now=0.0)
        mark("planning, hashing and writing the jobs")
        enrol(store, plan_each(found, request, hashed=True), out, overwrite=False, now=0.0)
        mark("the same again, finding them there")
    starts = [began, *(at for _, at in marks)]
    seconds = {name: at - start for (name, at), start in zip(marks, starts, strict=False)}
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # of kB, as Linux counts
    result = {"scans": enrolled.planned, "seconds": seconds, "memory_mb": memory_mb, "torch": "torch" in sys.modules}
    print(json.dumps(result))


def measure(scans: int, rounds: int) -> dict[str, object]:
    """Medians over the rounds, after one that warms the disk cache."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        cohort = Path(name, "in")
        cohort.mkdir()
        make_cohort(cohort, scans)
        for number in range(rounds + 1):
            command = [sys.executable, __file__, "--round", str(cohort), str(Path(name, f"out-{number}"))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
    for result in results:
        if result["scans"] != scans or result["torch"]:
            raise SystemExit(f"{result['scans']} of {scans} scans were planned, torch imported: {result['torch']}")
    steps = results[0]["seconds"]
    return {
        "scans": scans,
        "rounds": rounds,
        "memory_mb": round(statistics.median(r["memory_mb"] for r in results[1:])),
        "seconds": {step: round(statistics.median(r["seconds"][step] for r in results[1:]), 3) for step in steps},
    }


def page(result: dict, machine: str) -> str:
    """The result in Markdown."""
    seconds = result["seconds"]
    plan = seconds["imports"] + seconds["finding scans"] + seconds["planning (--plan)"]
    rows = [f"| {name} | {value:.2f} | {1000 * value / result['scans']:.2f} |" for name, value in seconds.items()]
    return "\n".join([
        "# Planning a cohort",
        "",
        f"Made by `python benchmarks/batch.py` on {machine}. {result['scans']} tiny NIfTI files with BIDS sidecars, "
        f"medians of {result['rounds']} processes; the disk cache is warm.",
        "",
        "| step | s | ms a scan |",
        "|---|---|---|",
        *rows,
        "",
        f"`medsr batch --plan` takes the first three: **{plan:.1f} s** for {result['scans']} scans (the limit is "
        f"{LIMIT_S:g} s). A run hashes every file too, and writes the list of jobs as it goes, in place of the "
        "third step. The model's card is read once, no torch is imported; all of it together took "
        f"{result['memory_mb']} MB of memory at the most.",
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    parser.add_argument("--round", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.round:
        one_round(*arguments.round)
        return
    result = measure(arguments.scans, arguments.rounds)
    arguments.results.mkdir(parents=True, exist_ok=True)
    machine = in_words()
    text = json.dumps({"machine": machine, **result}, indent=2)
    (arguments.results / "batch.json").write_text(text + "\n", encoding="utf-8")
    (arguments.results / "batch.md").write_text(page(result, machine), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
