"""``medsr batch`` and ``medsr jobs`` as a user meets them: by what they print, write and return."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr.resources import sample_path
from tests.image.dicom_phantom import Phantom, save
from tests.test_series import smooth


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two NIfTI scans, a DICOM series, and one file that is none."""
    folder = tmp_path / "cohort"
    (folder / "a").mkdir(parents=True)
    for number in range(2):
        image = nibabel.Nifti1Image(smooth(number).astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0]))
        nibabel.save(image, folder / "a" / f"sub-{number}_T1w.nii.gz")
    save(folder / "dicom", Phantom("MR", stored=smooth(), series=4).classic())
    (folder / "broken.nii").write_bytes(b"not an image")
    return folder


def options(tiny_model: Path) -> list[str | Path]:
    return ["--model", tiny_model, "--device", "cpu", "--threads", "1"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_bad_scan_fails_one_row(run_cli, cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    plan = run_cli("batch", cohort, "--out", out, *options(tiny_model), "--plan")
    assert plan.returncode == 8
    assert "3 to do, 1 refused" in plan.stdout
    assert not out.exists()
    done = run_cli("batch", cohort, "--out", out, *options(tiny_model))
    assert done.returncode == 8, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("medsr: error")]
    assert len(errors) == 1
    assert "broken.nii" in errors[0]
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert sorted((row["name"].partition("/")[0], row["state"]) for row in rows) == [
        ("a", "done"), ("a", "done"), ("broken.nii", "failed"), ("dicom", "done"),
    ]  # fmt: skip
    assert (out / "a" / "sub-0_T1w_sr.nii.gz").is_file()
    assert len(list((out / "dicom").glob("*_sr/IM*.dcm"))) == 9
    before = contents(out / "a") | contents(out / "dicom")
    again = run_cli("batch", cohort, "--out", out, *options(tiny_model))
    assert again.returncode == 8
    assert "3 done (3 of them before)" in again.stdout
    assert contents(out / "a") | contents(out / "dicom") == before
    (sidecar,) = (out / "dicom").glob("*_sr.json")
    sidecar.unlink()  # as a worker leaves it that was killed between the names of a series and of its sidecar
    mended = run_cli("batch", cohort, "--out", out, *options(tiny_model))
    assert "3 done (2 of them before)" in mended.stdout, mended.stderr
    assert sidecar.is_file()
    listed = run_cli("jobs", out)
    assert "4 scans: 3 done, 1 failed" in listed.stdout
    failed = [json.loads(line) for line in run_cli("jobs", "--json", "--failed", out).stdout.splitlines()]
    assert [row["name"] for row in failed] == ["broken.nii"]
    assert failed[0]["exit_code"] == 3
    assert "0 scans queued again" in run_cli("jobs", "retry", out).stdout


def test_all_done_is_exit_0(run_cli, cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    done = run_cli("batch", cohort / "a", "--out", tmp_path / "out", *options(tiny_model), "--json", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--shard", "3/2"], 2, "--shard"),
        (["--address", "10.0.0.1:6379"], 2, "--engine ray"),
        (["--steps", "3"], 2, "--texture"),
        (["--scale", "2", "--isotropic"], 2, "target grid"),
        (["--bids"], 2, "dataset_description.json"),
        (["--model", "nonesuch"], 5, "no such model"),
    ],
)
def test_refusals(run_cli, cohort: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = run_cli("batch", cohort, "--out", tmp_path / "out", "-q", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert not any("Traceback" in line for line in done.stderr.splitlines())


def test_nothing_there(run_cli, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_cli("batch", tmp_path / "empty", "--out", tmp_path / "out", *options(tiny_model))
    assert done.returncode == 4
    assert run_cli("jobs", tmp_path / "empty").returncode == 7


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_no_half_file_and_no_worker(run_cli, child_environment, tmp_path: Path, tiny_model: Path) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    for number in range(3):
        shutil.copy(sample_path("head_thick.nii.gz"), cohort / f"{number}_T1w.nii.gz")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medsr", "batch", cohort, "--out", out, *options(tiny_model), "-q"]
    process = subprocess.Popen([*map(str, command)], env=child_environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not list(out.glob("*_sr.nii.gz")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert not list(out.rglob(".medsr-*.part"))
    assert str(out) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    done = run_cli("batch", cohort, "--out", out, *options(tiny_model))
    assert done.returncode == 0, done.stderr
    assert "3 done" in done.stdout
