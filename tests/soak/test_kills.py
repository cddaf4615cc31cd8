"""Runs stopped at random points of every stage: nothing half-written, and the next run gives the same voxels.

``make soak``; with MEDSR_RESULTS=FOLDER the outcome is also written to FOLDER/soak.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from medsr.request import Request
from medsr.resources import sample_path
from medsr.run import upscale_file

POINTS = 50
STAGES = ("start", "read", "load model", "network", "write")  # named as the progress lines; start: before the first
SIGNALS = {signal.SIGKILL: "KILL", signal.SIGTERM: "TERM", signal.SIGINT: "INT"}
CODES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143}, signal.SIGINT: {130}}
# Python is still starting, or has come to its end: there the system's own handlers act.
BY_PYTHON = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, -2, 1}}
TIMEOUT = 600

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="POSIX signals, and their codes as on Linux"),
]


@dataclass(frozen=True)
class Point:
    """One run that was stopped. left: what had a final name afterwards. hidden: unfinished files were left."""

    stage: str
    signal: str
    seconds: float
    code: int
    left: str
    hidden: bool


class Run:
    """``medsr upscale`` in a process of its own; ``lines`` are its progress."""

    def __init__(self, scan: Path, model: Path, environment: dict[str, str]) -> None:
        self._log = scan.parent.parent / "stderr.log"
        command = [sys.executable, "-m", "medsr", "upscale", str(scan), "--model", str(model)]
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--device", "cpu", "--threads", "1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream, env=environment,
            )  # fmt: skip

    @property
    def lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    def wait_for(self, stage: str) -> None:
        """Until the line of a stage is there, or the process has ended."""
        while stage != "start" and stage not in self.lines and self.process.poll() is None:
            time.sleep(0.001)


def durations(scan: Path, sidecar: Path, model: Path, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each stage of a run that nothing happens to."""
    run = Run(scan, model, environment)
    marks = [time.perf_counter()]
    for stage in STAGES[1:]:
        run.wait_for(stage)
        marks.append(time.perf_counter())
    while not sidecar.exists() and run.process.poll() is None:
        time.sleep(0.001)
    marks.append(time.perf_counter())  # not at the end of the process: Python takes longer to end than to write
    assert run.process.wait(TIMEOUT) == 0, run.lines
    return {stage: marks[n + 1] - marks[n] for n, stage in enumerate(STAGES)}


def test_random_points(tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    scan = folder / "head_T1w.nii.gz"
    scan.write_bytes(sample_path("head_coarse.nii.gz").read_bytes())
    volume, sidecar = folder / "head_T1w_sr.nii.gz", folder / "head_T1w_sr.json"
    request = Request(model=str(tiny_model), device="cpu", threads=1)
    upscale_file(scan, None, request)
    expected = digest(volume)
    clear(volume, sidecar)
    seconds = durations(scan, sidecar, tiny_model, child_environment)
    draw = random.Random(20)
    points: list[Point] = []
    for number in range(POINTS):
        clear(volume, sidecar)
        stage = STAGES[number % len(STAGES)]
        kind = draw.choice(list(SIGNALS))
        run = Run(scan, tiny_model, child_environment)
        run.wait_for(stage)
        delay = draw.uniform(0, 1.05 * seconds[stage])
        time.sleep(delay)
        run.process.send_signal(kind)
        code = run.process.wait(TIMEOUT)
        left = outcome(volume, sidecar, expected)
        outside = stage == "start" or left == "both files"
        assert code in (BY_PYTHON if outside else CODES)[kind] | {0}, (stage, kind, code, left, run.lines)
        assert left != "volume alone" or kind == signal.SIGKILL, (stage, kind, code)
        assert code != 0 or left == "both files", run.lines
        hidden = bool(list(folder.glob(".medsr-*")))
        assert not hidden or kind == signal.SIGKILL, (stage, kind, code)
        points.append(Point(stage, SIGNALS[kind], delay, code, left, hidden))
        upscale_file(scan, None, request, overwrite=True)
        assert digest(volume) == expected, "the next run gave other voxels"
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (scan, volume, sidecar))
    if results := os.environ.get("MEDSR_RESULTS"):
        (Path(results) / "soak.md").write_text(page(points), encoding="utf-8")


def clear(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(volume: Path, sidecar: Path, expected: str) -> str:
    """What a stopped run left under the final names; whatever is there must be whole."""
    if not volume.exists():
        assert not sidecar.exists(), "a sidecar without its volume"
        return "nothing"
    assert digest(volume) == expected, "a half file under the final name"
    if not sidecar.exists():
        return "volume alone"
    assert json.loads(sidecar.read_text())["files"]["volume"] == volume.name
    return "both files"


def page(points: Sequence[Point]) -> str:
    lines = [
        "# Runs stopped at random points",
        "",
        f"Made by `make soak`: `medsr upscale` on the sample head, stopped at {len(points)} points, as many in each "
        "stage and random within it (a little beyond its end, too), by kill -9, SIGTERM or Ctrl-C. After each, "
        "whatever had a final name was whole, and the same command gave the voxels of an undisturbed run, byte for "
        "byte, and removed what kill -9 had left unfinished.",
        "",
        "| stage | KILL | TERM | INT | left: nothing | both files | volume alone | unfinished files, hidden |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in STAGES:
        here = [p for p in points if p.stage == stage]
        counts = [sum(p.signal == name for p in here) for name in SIGNALS.values()]
        counts += [sum(p.left == left for p in here) for left in ("nothing", "both files", "volume alone")]
        counts.append(sum(p.hidden for p in here))
        lines.append(f"| {stage} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"
