"""What writing a derived DICOM series costs, against pydicom writing the same objects and nothing else.

    python benchmarks/dicom_write.py [--slices 500] [--rounds 5] [--results FOLDER]

Both in one process, in turns, on as many threads, each file flushed to the disk (fsync) by both. medsr takes tags and
places from the source, rounds a float32 volume to Hounsfield units, hashes it for the UIDs and encodes the files;
pydicom is given finished data sets with their pixels. Writes dicom-write.md and dicom-write.json to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parent))
from dicom import SIDE, make_series, resident, timed
from machine import in_words

from medsr.image.dicom_read import inspect, read
from medsr.image.dicom_write import Derivation, write_series
from medsr.image.header import Header
from medsr.image.volume import Volume

LIMIT = 1.5
THREADS = 4  # as write_series
DERIVATION = Derivation(
    model="benchmark 1.0",
    model_sha256="0" * 64,
    parameters={},
    description="Every slice twice: a stand-in for a model",
    software="0.0",
    created=datetime(2026, 1, 1),
)


def twice(source: Header) -> Volume:
    """The volume of a series with every slice twice, half as far apart."""
    volume = read(source)
    array = np.repeat(volume.array, 2, axis=2)
    return replace(volume, array=array, geometry=volume.geometry.with_scale((1, 1, 2)))


def raw(datasets: Sequence[Dataset], folder: Path, threads: int) -> None:
    """pydicom alone."""

    def write(numbered: tuple[int, Dataset]) -> None:
        number, ds = numbered
        with (folder / f"{number}.dcm").open("wb") as stream:
            pydicom.dcmwrite(stream, ds, enforce_file_format=True)
            stream.flush()
            os.fsync(stream.fileno())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, enumerate(datasets, 1)))


def measure(source: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are medians of each round's own ratio."""
    header = inspect(source)
    volume = twice(header)
    kept = work / "kept"
    kept.mkdir()
    written = write_series(kept, [volume], header, DERIVATION)
    datasets = [pydicom.dcmread(file) for file in written.files]
    for ds in datasets:
        list(ds)  # raw elements become values: a data set that a program has filled in

    def into(name: str, job: Callable[[Path], object]) -> tuple[float, float]:
        folder = work / name
        folder.mkdir()
        try:
            _, clock, cores = timed(lambda: job(folder))
        finally:
            shutil.rmtree(folder)
        return clock, cores

    rows = []
    for _ in range(rounds + 1):
        one = into("one", lambda folder: raw(datasets, folder, 1))
        several = into("several", lambda folder: raw(datasets, folder, THREADS))
        ours = into("ours", lambda folder: write_series(folder, [volume], header, DERIVATION))
        rows.append((one, several, ours))
    rows = rows[1:]  # the first warms the disk cache

    def median(of: Callable[[Any], float]) -> float:
        return round(statistics.median(of(row) for row in rows), 3)

    return {
        "slices": len(datasets),
        "megabytes": round(sum(file.stat().st_size for file in written.files) / 1e6),
        "rounds": rounds,
        "raw_one_thread_seconds": median(lambda r: r[0][0]),
        "raw_seconds": median(lambda r: r[1][0]),
        "medsr_seconds": median(lambda r: r[2][0]),
        "ratio": median(lambda r: r[2][0] / r[1][0]),
        "core_ratio": median(lambda r: r[2][1] / r[1][1]),
        "ratio_one_thread": median(lambda r: r[2][0] / r[0][0]),
        "core_ratio_one_thread": median(lambda r: r[2][1] / r[0][1]),
    }


def peak(source: str) -> None:
    """In a process of its own: prints the growth of resident memory over the size of the volume (Linux)."""
    header = inspect(Path(source))
    volume = twice(header)
    with tempfile.TemporaryDirectory() as folder:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
        before = resident("VmRSS")
        write_series(Path(folder), [volume], header, DERIVATION)
        print(json.dumps((resident("VmHWM") - before) / volume.array.nbytes))


def peak_of(source: Path) -> float:
    command = [sys.executable, __file__, "--peak", str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(json.loads(done.stdout)), 2)


def page(machine: str, r: dict[str, Any]) -> str:
    """The result in Markdown."""
    columns = ("what", "threads", "seconds", "medsr over it", "by cores")
    lines = [
        "# Writing DICOM",
        "",
        f"Made by `python benchmarks/dicom_write.py` on {machine}. A derived CT series of {r['slices']} slices of "
        f"{SIDE} x {SIDE}, {r['megabytes']} MB. pydicom alone is `pydicom.dcmwrite` of finished data sets that hold "
        "the same elements and pixels; both flush every file to the disk (`fsync`), since a result that was announced "
        f"must outlive a power cut. Medians of {r['rounds']} rounds in turns in one process; ratios by the clock and "
        "by the time of all cores (steadier while other programs run).",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        f"| medsr, `write_series` | {THREADS} | {r['medsr_seconds']:.2f} | | |",
        f"| pydicom alone | {THREADS} | {r['raw_seconds']:.2f} | {r['ratio']:.2f} | {r['core_ratio']:.2f} |",
        f"| pydicom alone | 1 | {r['raw_one_thread_seconds']:.2f} | {r['ratio_one_thread']:.2f} | "
        f"{r['core_ratio_one_thread']:.2f} |",
        "",
        f"The limit is {LIMIT} times pydicom alone on as many threads. medsr also reads the tags of the source, rounds "
        "the float32 volume to Hounsfield units, hashes it for the UIDs, and computes place and references of each "
        f"slice. Memory grows by {r['memory']:.2f} times the float32 volume while it writes.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=500, help="of the derived series, an even number")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(arguments.peak)
        return
    with tempfile.TemporaryDirectory() as name:
        source = make_series(Path(name, "source"), arguments.slices // 2, ExplicitVRLittleEndian)
        result = measure(source, Path(name), arguments.rounds)
        result["memory"] = peak_of(source)
    print(result)
    arguments.results.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": in_words(), **result}, indent=2) + "\n"
    (arguments.results / "dicom-write.json").write_text(content, encoding="utf-8")
    (arguments.results / "dicom-write.md").write_text(page(in_words(), result), encoding="utf-8")


if __name__ == "__main__":
    main()
