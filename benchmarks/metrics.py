"""What it costs to measure a prediction: every metric that a volume allows, on 256 x 256 x 180 voxels.

    python benchmarks/metrics.py [--shape I J K] [--runs N] [--json] [--results FOLDER]

The volumes are synthetic: an ellipsoid of tissues with structure and noise. Each run is a process of its own. Writes
metrics.md and metrics.json to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

from medsr.evaluation.measure import Reference
from medsr.image.volume import Modality
from medsr.machine import cores

SHAPE = (256, 256, 180)
FACTORS = (2.0, 2.0, 1.0)
LIMIT_S = 10.0  # what a whole measurement may take on two cores
TISSUES_HU = (-800.0, -100.0, 40.0, 600.0)  # lung, fat, soft tissue, bone


def volume(shape: tuple[int, int, int], modality: Modality, seed: int) -> np.ndarray:
    """An ellipsoid with coarse patches of four tissues, fine texture and noise, float32."""
    rng = np.random.default_rng(seed)
    grid = np.ix_(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape])
    body = sum((axis / 0.9) ** 2 for axis in grid) < 1
    coarse = rng.normal(size=[max(2, n // 16) for n in shape])
    patches = ndimage.zoom(coarse, [n / m for n, m in zip(shape, coarse.shape, strict=True)], order=1)
    tissue = np.digitize(patches, np.quantile(patches, [0.25, 0.5, 0.75]))
    values = np.array(TISSUES_HU if modality == "CT" else (200, 500, 700, 1000), np.float32)[tissue]
    values = ndimage.gaussian_filter(np.where(body, values, -1000 if modality == "CT" else 0).astype(np.float32), 0.8)
    return values + rng.normal(scale=15, size=shape).astype(np.float32)


def once(folder: Path, modality: Modality) -> dict:
    """Seconds for one prediction with its reference and for a second one, and the memory beside both volumes."""
    reference, prediction = (np.load(folder / f"{modality}_{name}.npy") for name in ("reference", "prediction"))
    before = megabytes("VmRSS")
    start, used = time.perf_counter(), time.process_time()
    measured = Reference.of(reference, modality, 2, FACTORS)
    first = measured.measure(prediction)
    middle, processor = time.perf_counter(), time.process_time() - used
    measured.measure(prediction)
    end = time.perf_counter()
    return {
        "first": middle - start,
        "processor": processor,
        "next": end - middle,
        "memory_mb": megabytes("VmHWM") - before,
        "metrics": sorted(first.metrics),
    }


def megabytes(what: str) -> float:
    """Memory of this process as Linux counts it: VmRSS now, VmHWM at the most since it began."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def measure(shape: tuple[int, int, int], modality: Modality, runs: int) -> dict:
    """Medians over processes of their own, the first of which warms the disk cache and does not count."""
    with tempfile.TemporaryDirectory() as folder:
        reference = volume(shape, modality, 0)
        np.save(Path(folder) / f"{modality}_reference.npy", reference)
        np.save(Path(folder) / f"{modality}_prediction.npy", ndimage.gaussian_filter(reference, (0.7, 0.7, 0)))
        command = [sys.executable, __file__, "--once", folder, modality]
        done = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(runs + 1)]
    found = [json.loads(text) for text in done[1:]]
    medians = {key: round(statistics.median(run[key] for run in found), 2) for key in found[0] if key != "metrics"}
    return {**medians, "metrics": found[0]["metrics"]}


def page(result: dict) -> str:
    """The result in Markdown."""
    rows = [
        f"| {modality} | {len(row['metrics'])} | {row['first']:.1f} | {row['processor']:.1f} | {row['next']:.1f} | "
        f"{row['memory_mb']:.0f} |"
        for modality, row in result["modalities"].items()
    ]
    names = "; ".join(f"{modality}: {', '.join(row['metrics'])}" for modality, row in result["modalities"].items())
    return "\n".join([
        "# Cost of the metrics",
        "",
        f"Made by `python benchmarks/metrics.py` on {result['machine']}. Synthetic float32 volumes of "
        f"{' x '.join(map(str, result['shape']))} voxels, factor 2 in plane, on {result['cores']} cores; medians of "
        f"{result['runs']} runs, each a process of its own. The limit for one prediction with its reference is "
        f"{LIMIT_S:.0f} s on two cores. Processor time adds up all cores: look at it where other "
        "programs ran beside this one.",
        "",
        "| scan | metrics | first prediction, s | its processor time, s | a further one, s | memory beside both, MB |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Measured: {names}.",
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, metavar=("I", "J", "K"))
    parser.add_argument("--runs", type=int, default=3, help="runs that count (default 3)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    if arguments.once:
        print(json.dumps(once(Path(arguments.once[0]), arguments.once[1])))
        return
    result = {
        "machine": in_words(),
        "cores": cores(),
        "shape": list(shape),
        "runs": arguments.runs,
        "modalities": {modality: measure(shape, modality, arguments.runs) for modality in ("MR", "CT")},
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2)
    (arguments.results / "metrics.json").write_text(text + "\n", encoding="utf-8")
    (arguments.results / "metrics.md").write_text(page(result), encoding="utf-8")
    print(text if arguments.json else page(result))


if __name__ == "__main__":
    main()
