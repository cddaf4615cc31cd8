"""Batches whose workers, processes or nodes are killed at random points: every scan is done once, with the same voxels.

``make soak``; with MEDSR_RESULTS=FOLDER the outcome is also written to FOLDER/batch-kills.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest

from medsr.image.files import sha256_of
from medsr.service.log import scan_hash
from tests.image.dicom_phantom import Phantom, save
from tests.service.cohorts import make_scan, manifest, run_here
from tests.service.ray_nodes import Cluster, needs_ray, ray_cluster, start_batch
from tests.service.test_crew import half_files, start, until

POINTS, RAY_POINTS = 50, 10
FILES, SERIES = 4, 2  # scans that are NIfTI files, and DICOM series, which become series
SCANS = FILES + SERIES
SHAPE = (48, 48, 12)  # of a scan; the network has it for some tenths of a second
# Of a series that was killed between its own name and that of its JSON file, the next run cannot know when it was made.
TIMES = ("SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")
MADE_BY = "109102"  # code of the equipment that made the series, which says when
TIMEOUT = 300
# What a worker tells of a scan, in this order; before the first of it, it starts, and after the last it ends.
STAGES = ("start", "claimed", "network", "published", "done", "ended")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kill -9, and processes as on Linux"),
]


@dataclass(frozen=True)
class Point:
    """One batch that was hit. stage: the last word of the victim. crashes: scans that it had. half: unfinished files
    that it left, hidden."""

    victim: str
    stage: str
    crashes: int
    half: int


@dataclass(frozen=True)
class Cohort:
    """Scans, and the hash of every image that an undisturbed batch makes of them, by its path. results: paths of the
    results, a series being one."""

    scans: Path
    model: Path
    expected: dict[str, str]
    results: frozenset[str]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(FILES):
        make_scan(folder / f"in/sub-{number}/t1_T1w.nii.gz", number, SHAPE)
    for number in range(SERIES):
        stored = np.random.default_rng(number).integers(24, 1200, SHAPE)
        save(folder / f"in/study-{number}", Phantom("MR", stored=stored, series=number + 1).classic())
    quiet = folder / "quiet"
    assert run_here(folder / "in", quiet, tiny_model).done == SCANS
    results = frozenset(row["output"] for row in manifest(quiet))
    expected = outputs(quiet)
    assert len(expected) == FILES + SERIES * SHAPE[2]
    return Cohort(folder / "in", tiny_model, expected, results)


@pytest.fixture(scope="module")
def points() -> Iterator[list[Point]]:
    """All points of this module, written down at its end."""
    collected: list[Point] = []
    yield collected
    if results := os.environ.get("MEDSR_RESULTS"):
        (Path(results) / "batch-kills.md").write_text(page(collected), encoding="utf-8")


def test_worker_killed(cohort: Cohort, points: list[Point], tmp_path: Path, child_environment: dict[str, str]) -> None:
    """One of two workers; the batch goes on by itself."""
    draw = random.Random(1)
    for number in range(POINTS):
        out = tmp_path / f"{number}"
        batch = start(cohort.scans, out, cohort.model, child_environment, workers=2)
        wait_for_moment(draw, number, out, batch)
        workers = workers_of(batch)
        if workers:
            victim = draw.choice(workers)
            victim.kill()
        stage = last_word(out, victim.name) if workers else "start"
        assert batch.wait(TIMEOUT) == 0
        points.append(Point("a worker", stage, crashes(out), 0))
        check(cohort, out)
        shutil.rmtree(out)


def test_batch_killed(cohort: Cohort, points: list[Point], tmp_path: Path, child_environment: dict[str, str]) -> None:
    """The batch and both of its workers; the same command goes on."""
    draw = random.Random(2)
    for number in range(POINTS):
        out = tmp_path / f"{number}"
        batch = start(cohort.scans, out, cohort.model, child_environment, workers=2)
        wait_for_moment(draw, number, out, batch)
        workers = workers_of(batch)
        batch.kill()
        for worker in workers:
            worker.kill()
        batch.wait(TIMEOUT)
        psutil.wait_procs([worker.process for worker in workers], TIMEOUT)
        half = len(half_files(out))
        stage = max((last_word(out, worker.name) for worker in workers), key=STAGES.index, default="start")
        assert start(cohort.scans, out, cohort.model, child_environment, workers=2).wait(TIMEOUT) == 0
        points.append(Point("the whole batch", stage, crashes(out), half))
        check(cohort, out)
        shutil.rmtree(out)


@needs_ray()
def test_node_lost(cohort: Cohort, points: list[Point], tmp_path: Path, child_environment: dict[str, str]) -> None:
    """The second node of a Ray cluster; the batch goes on with the first."""
    draw = random.Random(3)
    with ray_cluster() as cluster:
        for number in range(RAY_POINTS):
            lose_a_node(cluster, cohort, points, tmp_path / f"{number}", child_environment, draw)


def lose_a_node(
    cluster: Cluster, cohort: Cohort, points: list[Point], out: Path, environment: dict[str, str], draw: random.Random
) -> None:
    node = cluster.add()
    batch = start_batch(cohort.scans, out, cohort.model, cluster, environment)
    wait_for_moment(draw, len(points), out, batch)
    node.kill()
    stages = [last_word(out, name) for name in {line["source"] for log in logs(out) for line in read(log)}]
    _, fault = batch.communicate(timeout=TIMEOUT)
    assert batch.returncode == 0, fault
    node.end()
    points.append(Point("a Ray node", max(stages, key=STAGES.index, default="start"), crashes(out), 0))
    check(cohort, out)


# --- when to strike, and what


def wait_for_moment(draw: random.Random, number: int, out: Path, batch: subprocess.Popen) -> None:
    """Every fifth time anywhere in the start; else after as many lines of the workers' logs as the draw says, and a
    little later."""
    if number % 5 == 0:
        time.sleep(draw.uniform(0.5, 5))
        return
    lines = draw.randint(1, 4 * SCANS)
    until(lambda: batch.poll() is not None or sum(len(read(log)) for log in logs(out)) >= lines, TIMEOUT)
    time.sleep(draw.uniform(0, 0.15))


def logs(out: Path) -> list[Path]:
    return sorted(out.glob("logs/batch-worker-*.jsonl"))


def read(log: Path) -> list[dict]:
    """The lines of a log; the last one may be half written when its writer is killed."""
    whole = log.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole if line.startswith("{")]


@dataclass(frozen=True)
class Worker:
    """A process of a batch. name: as the log has it."""

    process: psutil.Process
    name: str

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.kill()


def workers_of(batch: subprocess.Popen) -> list[Worker]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(batch.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                words = process.cmdline()
                if "medsr.service.worker" in words:
                    found.append(Worker(process, words[words.index("--worker") + 1]))
    return found


def last_word(out: Path, worker: str) -> str:
    """The last event that a worker told of."""
    said = [line["event"] for log in logs(out) for line in read(log) if line["source"] == worker]
    return said[-1] if said else "start"


# --- what must hold


def outputs(out: Path) -> dict[str, str]:
    """Hash by path of every image: of NIfTI all bytes, of DICOM all but the time at which it was made."""
    files = {path: sha256_of(path) for path in out.rglob("*_sr.nii.gz")}
    slices = {path: hash_but_for_times(path) for path in out.rglob("*.dcm")}
    return {path.relative_to(out).as_posix(): digest for path, digest in (files | slices).items()}


def hash_but_for_times(path: Path) -> str:
    ds = pydicom.dcmread(path)
    for keyword in TIMES:
        ds[keyword].value = ""
    (ours,) = (e for e in ds.ContributingEquipmentSequence if e.PurposeOfReferenceCodeSequence[0].CodeValue == MADE_BY)
    ours.ContributionDateTime = ""
    stream = BytesIO()
    ds.save_as(stream)
    return hashlib.sha256(stream.getvalue()).hexdigest()


def made_at_once(out: Path) -> bool:
    """All slices of a series were made by one run: no two are mixed."""
    times = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in out.rglob("*.dcm")}
    by_series: dict[Path, set[tuple[str, ...]]] = {}
    for path, ds in times.items():
        by_series.setdefault(path.parent, set()).add(tuple(str(ds[keyword].value) for keyword in TIMES))
    return len(by_series) == SERIES and all(len(moments) == 1 for moments in by_series.values())


def crashes(out: Path) -> int:
    return sum(row["crashes"] for row in manifest(out))


def check(cohort: Cohort, out: Path) -> None:
    """Every scan is done, and once; its voxels are those of the quiet run; nothing else lies about."""
    rows = manifest(out)
    assert len(rows) == SCANS
    assert {row["state"] for row in rows} == {"done"}
    assert {row["output"] for row in rows} == cohort.results
    assert outputs(out) == cohort.expected
    assert made_at_once(out)
    for row in rows:
        assert row["crashes"] <= 1
        for name, digest in row["files"].items():
            assert sha256_of(out / name) == digest
    recorded = Counter(line["scan"] for log in logs(out) for line in read(log) if line["event"] == "done")
    assert set(recorded) <= {scan_hash(row["name"]) for row in rows}
    assert max(recorded.values(), default=0) <= 1, "a scan that was done was done again"
    assert half_files(out) == []


def page(points: Sequence[Point]) -> str:
    lines = [
        "# Batches killed at random points",
        "",
        f"Made by `make soak`: a batch of {SCANS} scans, {FILES} NIfTI files and {SERIES} DICOM series that become "
        "series, on two workers, killed with -9 at random: in the start, or after a random line of the workers' logs "
        "and a little later. A worker: the batch went on by itself. The whole batch, its workers included: the same "
        "command was given again. A Ray node: its raylet was killed, and the batch went on with the other node. After "
        "each, every scan was recorded as done once, no scan that had been done was done again, every image was, byte "
        "for byte, that of a batch that nothing happened to, and no unfinished file was left. The bytes of a DICOM "
        "file that say when it was made are not compared, but are the same in all files of a series.",
        "",
        "| killed | points | " + " | ".join(STAGES) + " | scans in hand | unfinished files, hidden |",
        "|---|---|" + "---|" * (len(STAGES) + 2),
    ]
    for victim in dict.fromkeys(point.victim for point in points):
        here = [point for point in points if point.victim == victim]
        stages = Counter(point.stage for point in here)
        counts = [len(here), *(stages[stage] for stage in STAGES)]
        counts += [sum(point.crashes for point in here), sum(point.half for point in here)]
        lines.append(f"| {victim} | " + " | ".join(map(str, counts)) + " |")
    lines += [
        "",
        "The columns in the middle: the last word of the victim (of several, the one that had come furthest) in its "
        "log: none yet, a scan claimed, given to the network, its files published, recorded as done, or the end of the "
        "work. Scans in hand: given back to the queue because their worker had died. A batch that is killed whole "
        "blames none: its scans are given back by the next one.",
    ]
    return "\n".join(lines) + "\n"
