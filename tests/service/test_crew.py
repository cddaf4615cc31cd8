"""Worker processes that are killed, and parents that are: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from medsr.errors import DeviceError
from medsr.image.nifti import read
from medsr.request import Request
from medsr.service.batch import BatchRequest, run_batch
from medsr.service.crew import _environment
from medsr.service.jobs import JobStore, NewJob
from medsr.service.place import Place
from tests.service.cohorts import make_cohort, make_scan, manifest, run_here, states


def start(
    cohort: Path, out: Path, model: Path, environment: dict[str, str], workers: int = 1
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medsr", "batch", str(cohort), "--out", str(out), "--model", str(model)]
    return subprocess.Popen([*command, "--workers", str(workers), "--quiet"], env=environment)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def running(out: Path) -> int:
    path = Place(out).store
    if not path.is_file():
        return 0
    with JobStore(path) as store:
        return store.counts().running


def half_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".medsr-") and path.suffix == ".part"]


def equal_outputs(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*_sr.nii.gz"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*_sr.nii.gz"))
    for name in names:
        arrays = [read(root / name, modality="MR").array for root in (one, other)]
        np.testing.assert_array_equal(*arrays)


@pytest.fixture
def undisturbed(tmp_path: Path, tiny_model: Path) -> Path:
    make_cohort(tmp_path / "in", 4)
    run_here(tmp_path / "in", tmp_path / "undisturbed", tiny_model)
    return tmp_path / "undisturbed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_workers_and_leaves_no_half_file(
    number: int, code: int, tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    make_scan(tmp_path / "in/large_T1w.nii.gz", shape=(160, 160, 30))
    out = tmp_path / "out"
    parent = start(tmp_path / "in", out, tiny_model, child_environment)
    until(lambda: running(out) > 0)
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 1
    parent.send_signal(number)
    assert parent.wait(60) == code
    until(lambda: not any(worker.is_running() for worker in workers), 10)
    assert half_files(out) == []
    with JobStore(Place(out).store) as store:
        (job,) = store.jobs()
    assert job.state in ("queued", "done")
    assert job.crashes == 0
    assert states(out) == {"large_T1w.nii.gz": job.state}, "the manifest is written all the same"
    assert "1 scan: 1 " in (out / "summary.html").read_text(encoding="utf-8")
    assert '"ended"' in (out / "logs/batch.jsonl").read_text(encoding="utf-8")


def test_stop_that_is_asked_for_again_and_again_cuts_no_manifest_short(
    tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    """The manifest of many rows takes longer than until the next signal; it is whole in the end, and so is the page."""
    make_scan(tmp_path / "in/large_T1w.nii.gz", shape=(160, 160, 30))
    out, rows = tmp_path / "out", 20_000
    Place(out).make()
    with JobStore(Place(out).store, create=True) as store:
        store.add((NewJob(f"key {n}", f"old-{n}", {}, "skipped", "no scan") for n in range(rows)), 0.0)
    parent = start(tmp_path / "in", out, tiny_model, child_environment)
    until(lambda: running(out) > 0)
    while not (out / "summary.html").exists():
        parent.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert parent.wait(60) == 143
    assert len(states(out)) == rows + 1
    assert f"{rows + 1} scans: " in (out / "summary.html").read_text(encoding="utf-8")
    assert half_files(out) == []


def test_killed_batch_goes_on(
    undisturbed: Path, tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    parent = start(tmp_path / "in", out, tiny_model, child_environment)
    until(lambda: running(out) > 0)
    workers = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    until(lambda: not any(worker.is_running() for worker in workers))  # they notice, and do not go on alone
    ended = run_here(tmp_path / "in", out, tiny_model)
    assert (ended.done, ended.trouble) == (4, ())
    assert {row["crashes"] for row in manifest(out)} == {0}
    equal_outputs(undisturbed, out)


def test_killed_worker_is_replaced(undisturbed: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    killed: list[int] = []

    def kill_one() -> None:
        until(lambda: running(out) > 0)
        (worker,) = (p for p in psutil.Process().children() if "medsr.service.worker" in p.cmdline())
        killed.append(worker.pid)
        worker.kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    ended = run_batch([tmp_path / "in"], Request(model=str(tiny_model)), BatchRequest(out))
    killer.join()
    assert len(killed) == 1
    assert (ended.done, ended.trouble) == (4, ())
    equal_outputs(undisturbed, out)


def test_scan_that_kills_its_worker_is_parked_and_the_rest_is_done(tmp_path: Path, tiny_model: Path) -> None:
    """The kill comes from here whenever the one scan is in the network, as memory that it exhausts would."""
    make_cohort(tmp_path / "in", 2)
    make_scan(tmp_path / "in/poison_T1w.nii.gz", shape=(160, 160, 30))
    out, over = tmp_path / "out", threading.Event()

    def poison() -> None:
        log, seen = out / "logs/batch-worker-1.jsonl", 0
        while not over.is_set():
            lines = log.read_text().splitlines() if log.is_file() else []
            if any('"network"' in line and "poison" in line for line in lines[seen:]):
                for child in psutil.Process().children():
                    if "medsr.service.worker" in child.cmdline():
                        child.kill()
            seen = len(lines)
            time.sleep(0.005)

    thread = threading.Thread(target=poison)
    thread.start()
    try:
        request = Request(model=str(tiny_model), threads=1)
        ended = run_batch([tmp_path / "in"], request, BatchRequest(out, log_names=True))
    finally:
        over.set()
        thread.join()
    assert states(out) == {
        "poison_T1w.nii.gz": "parked",
        "sub-0/t1_T1w.nii.gz": "done",
        "sub-1/t1_T1w.nii.gz": "done",
    }
    (trouble,) = ended.trouble
    assert (trouble.name, trouble.exit_code) == ("poison_T1w.nii.gz", 7)
    assert "medsr jobs retry" in trouble.reason
    again = run_here(tmp_path / "in", out, tiny_model)
    assert (again.before, len(again.trouble)) == (2, 1)


def test_absent_device_ends_the_batch_with_its_own_words(tmp_path: Path, tiny_model: Path) -> None:
    make_cohort(tmp_path / "in", 1)
    request = Request(model=str(tiny_model), device="cuda:63", threads=1)
    with pytest.raises(DeviceError, match="cuda"):
        run_batch([tmp_path / "in"], request, BatchRequest(tmp_path / "out"))
    assert states(tmp_path / "out") == {"sub-0/t1_T1w.nii.gz": "queued"}


def test_two_workers_share_the_work(tmp_path: Path, tiny_model: Path) -> None:
    make_cohort(tmp_path / "in", 12)
    request = Request(model=str(tiny_model), threads=1)
    ended = run_batch([tmp_path / "in"], request, BatchRequest(tmp_path / "out", workers=2))
    assert ended.done == 12
    rows = manifest(tmp_path / "out")
    assert {row["attempts"] for row in rows} == {1}
    assert len({row["worker"] for row in rows}) in (1, 2)  # the second may come when all is done


def test_each_seat_has_one_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [_environment(seat, 3)["CUDA_VISIBLE_DEVICES"] for seat in range(3)] == ["4", "7", "4"]
    assert _environment(0, 3)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert _environment(1, 3)["CUDA_VISIBLE_DEVICES"] == "5"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
