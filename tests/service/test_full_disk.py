"""A batch whose disk is full, for real: it says so, and the same command goes on when there is space."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.service.cohorts import make_scan, manifest, run_here
from tests.service.test_crew import half_files, until
from tests.test_faults import disk, fill  # noqa: F401  disk is a fixture

SCANS = 4
SHAPE = (40, 40, 12)  # its result takes about 70 pages of the disk
SAID = re.compile(r"the disk is full; free some space|[GM]B of disk and .* is free")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(SCANS):
        make_scan(folder / f"{number}_T1w.nii.gz", number, SHAPE)
    return folder


@pytest.fixture(scope="module")
def expected(cohort: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a batch with space makes, by name."""
    quiet = tmp_path_factory.mktemp("quiet")
    run_here(cohort, quiet, tiny_model)
    return results(quiet)


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*_sr.nii.gz")}


def command_of(cohort: Path, out: Path, model: Path) -> list[str | Path]:
    return ["batch", cohort, "--out", out, "--model", model, "--device", "cpu", "--threads", "1"]


def check_goes_on(run_cli: RunCli, command: list[str | Path], out: Path, expected: dict[str, bytes]) -> None:
    """What is there is whole; with space, the same command makes the rest."""
    assert results(out).items() <= expected.items(), "a half file under a final name"
    (out.parent / "filler").unlink()
    again = run_cli(*command)
    assert again.returncode == 0, again.stderr
    assert results(out) == expected
    assert [row["state"] for row in manifest(out)] == ["done"] * SCANS
    assert half_files(out) == []


@pytest.mark.parametrize("pages", [1, 8, 30, 60, 400])
def test_little_space(
    disk: Path,  # noqa: F811
    pages: int,
    cohort: Path,
    expected: dict[str, bytes],
    tiny_model: Path,
    run_cli: RunCli,
) -> None:
    """So few pages are left that there is no list of jobs, or that it cannot be written to (8, 30); no room for any
    result, and for the summary (60); room for some of the results (400)."""
    fill(disk, pages)
    command = command_of(cohort, disk / "out", tiny_model)
    done = run_cli(*command)
    assert done.returncode == (8 if pages == 400 else 7), done.stderr
    assert SAID.search(done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert pages < 400 or 0 < len(results(disk / "out")) < SCANS
    check_goes_on(run_cli, command, disk / "out", expected)


def test_space_runs_out_in_mid_run(
    disk: Path,  # noqa: F811
    cohort: Path,
    expected: dict[str, bytes],
    tiny_model: Path,
    run_cli: RunCli,
    child_environment: dict[str, str],
) -> None:
    """Something else takes the rest of the disk while the first scan is in the network."""
    out = disk / "out"
    command = command_of(cohort, out, tiny_model)
    batch = subprocess.Popen(
        [sys.executable, "-m", "medsr", *command], env=child_environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: batch.poll() is not None or any('"network"' in log.read_text() for log in out.glob("logs/*worker*")))
    fill(disk, 2)
    _, fault = batch.communicate(timeout=120)
    assert batch.returncode in (7, 8), fault  # the list of jobs, or only results, could not be written
    assert SAID.search(fault), fault
    check_goes_on(run_cli, command, out, expected)
