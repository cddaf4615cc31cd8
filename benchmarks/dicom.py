"""What reading a DICOM series costs, against pydicom's decoding of the same files and nothing else.

    python benchmarks/dicom.py [--slices 500] [--rounds 5] [--threads 2] [--results FOLDER]

Both in one process, in turns, on as many threads; pydicom keeps its arrays, as any reader must. medsr reads headers,
sorts, checks, hashes every file and gives one float32 volume in Hounsfield units. Seconds of all cores are given beside
those of the clock: on a busy machine they are the steadier ones. Writes dicom.md and dicom.json to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

from medsr.image.dicom_read import choose_series, find_series, inspect, inspect_series, read_scan

SIDE = 512
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
COMPRESSED_SLICES = 60  # of the compressed series: they decode so slowly that more would tell nothing new


def make_series(folder: Path, slices: int, syntax: UID) -> Path:
    """A chest-like CT with noise: ellipses in air, 512 x 512, 16 bits."""
    folder.mkdir()
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    rng = np.random.default_rng(0)
    for k in range(slices):
        body = x**2 / 0.8 + y**2 / 0.5 < 1
        lung = (np.abs(x) - 0.4) ** 2 / 0.06 + y**2 / (0.15 + 0.1 * np.sin(k / 40)) < 1
        image = np.where(lung & body, 200, np.where(body, 1064, 24)) + rng.normal(0, 12, x.shape)
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"1.2.826.0.1.3680043.10.543.9.{k + 1}")
        ds.ImageType, ds.Modality, ds.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "Phantom"
        ds.PatientName, ds.PatientID, ds.StudyDate, ds.StudyTime = "Phantom", "P", "20260101", "120000"
        ds.StudyInstanceUID = ds.FrameOfReferenceUID = UID("1.2.826.0.1.3680043.10.543.7")
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = UID("1.2.826.0.1.3680043.10.543.8"), 1, k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-180, -180, -0.7 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.KVP, ds.ConvolutionKernel = [0.7, 0.7], 0.7, 120, "B30f"
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", SIDE, SIDE
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
        ds.PixelData = np.clip(image, 0, 4095).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        if syntax != ExplicitVRLittleEndian:
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(folder / f"{(k * 7919) % 99991:05d}.dcm", enforce_file_format=True)
    return folder


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the work gives, seconds of the clock, and seconds of all cores."""
    clock, cores = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - cores


def measure(folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are medians of each round's own ratio."""
    files = sorted(folder.iterdir())

    def decode(file: Path) -> np.ndarray:
        return pydicom.dcmread(file).pixel_array

    def pydicom_alone() -> list[np.ndarray]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(decode, files))

    rows = []
    for _ in range(rounds + 1):
        arrays, *plain = timed(pydicom_alone)
        del arrays
        header, *heads = timed(lambda: inspect_series(choose_series(find_series(folder))))
        scan, *voxels = timed(lambda header=header: read_scan(header, threads=threads))
        del scan
        rows.append((plain, heads, voxels))
    rows = rows[1:]  # the first warms the disk cache

    def median(of: Callable[[Any], float]) -> float:
        return round(statistics.median(of(row) for row in rows), 3)

    return {
        "slices": len(files),
        "threads": threads,
        "rounds": rounds,
        "pydicom_seconds": median(lambda r: r[0][0]),
        "headers_seconds": median(lambda r: r[1][0]),
        "voxels_seconds": median(lambda r: r[2][0]),
        "ratio": median(lambda r: r[2][0] / r[0][0]),
        "ratio_with_headers": median(lambda r: (r[1][0] + r[2][0]) / r[0][0]),
        "core_ratio": median(lambda r: r[2][1] / r[0][1]),
        "core_ratio_with_headers": median(lambda r: (r[1][1] + r[2][1]) / r[0][1]),
    }


def peak(folder: str, threads: int) -> None:
    """In a process of its own: prints the growth of resident memory over the size of the volume (Linux)."""
    header = inspect(Path(folder))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = resident("VmRSS")
    scan = read_scan(header, threads=threads)
    print(json.dumps((resident("VmHWM") - before) / scan.volume.array.nbytes))


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_of(folder: Path, threads: int) -> float:
    command = [sys.executable, __file__, "--peak", str(folder), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(json.loads(done.stdout)), 2)


def page(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rounds = result["rows"]["uncompressed"]["rounds"]
    columns = (
        "series", "slices", "threads", "decoding alone, s", "voxels, s", "headers, s", "voxels / alone", "by cores",
        "with headers / alone", "by cores", "memory / volume",
    )  # fmt: skip
    lines = [
        "# Reading DICOM",
        "",
        f"Made by `python benchmarks/dicom.py` on {result['machine']}. CT series of 512 x 512 slices of 16 bits. "
        "Decoding alone is `pydicom.dcmread(file).pixel_array` for every file, the arrays kept. Medians of "
        f"{rounds} rounds in turns in one process; ratios over decoding alone, by the clock and by the time of all "
        "cores (steadier while other programs run).",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name, r in result["rows"].items():
        lines.append(
            f"| {name} | {r['slices']} | {r['threads']} | {r['pydicom_seconds']:.2f} | {r['voxels_seconds']:.2f} | "
            f"{r['headers_seconds']:.2f} | {r['ratio']:.2f} | {r['core_ratio']:.2f} | {r['ratio_with_headers']:.2f} | "
            f"{r['core_ratio_with_headers']:.2f} | {r['memory']:.2f} |"
        )
    lines += [
        "",
        "Voxels: every file read and hashed, decoded, rescaled to Hounsfield units, put into one float32 volume and "
        "checked. Headers: all files found, grouped, sorted and checked, as for `info` and `--plan`. Memory: growth of "
        "the resident memory while the voxels are read, over the size of the volume.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(arguments.peak, arguments.threads)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, syntax in SYNTAXES.items():
            slices = arguments.slices if kind == "uncompressed" else min(COMPRESSED_SLICES, arguments.slices)
            folder = make_series(Path(name, kind.replace(" ", "-")), slices, syntax)
            rows[kind] = measure(folder, arguments.rounds, arguments.threads)
            rows[kind]["memory"] = peak_of(folder, arguments.threads)
            print(kind, rows[kind], flush=True)
    result = {"machine": in_words(), "rows": rows}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "dicom.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (arguments.results / "dicom.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
