"""The scripts of docs/snippets: they stand in the page as they are, and they do every scan of a cohort once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import IN_CI, ROOT
from tests.service.cohorts import make_cohort, manifest
from tests.service.test_place import slurm

SNIPPETS = ROOT / "docs" / "snippets"
PAGE = ROOT / "docs" / "cluster.md"
SECONDS = 200


@pytest.fixture
def environment(child_environment: dict[str, str]) -> dict[str, str]:
    """In which ``medsr`` is the one of this checkout."""
    return child_environment | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return make_cohort(tmp_path / "in put", 5)  # a path with a space


def check_done_once(out: Path) -> None:
    rows = manifest(out)
    assert sorted(row["name"] for row in rows) == [f"sub-{n}/t1_T1w.nii.gz" for n in range(5)]
    assert {(row["state"], row["attempts"]) for row in rows} == {("done", 1)}
    assert len(list(out.rglob("*_sr.nii.gz"))) == 5


@pytest.mark.parametrize("snippet", sorted(SNIPPETS.iterdir()), ids=lambda path: path.name)
def test_stands_in_the_page(snippet: Path) -> None:
    blocks = re.findall(r"^```\w+\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert snippet.read_text(encoding="utf-8") in blocks


def test_slurm_script_is_bash() -> None:
    script = SNIPPETS / "medsr.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    head = script.read_text().split("\nset -euo")[0].splitlines()
    assert all(line.startswith("#") for line in head), "SLURM reads no option after the first command"


def test_tasks_of_a_slurm_array(cohort: Path, tmp_path: Path, tiny_model: Path, environment: dict[str, str]) -> None:
    """--array=2-8:3, all three at the same time into one folder."""
    out, tasks = tmp_path / "out", [2, 5, 8]
    options = ["--out", str(out), "--model", str(tiny_model), "--device", "cpu", "--threads", "1"]
    running = [
        subprocess.Popen(
            ["medsr", "batch", str(cohort), *options],
            env=environment | slurm(task, tasks, 3),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in tasks
    ]
    for process in running:
        _, fault = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, fault
    check_done_once(out)


def test_snakemake(cohort: Path, tmp_path: Path, tiny_model: Path, environment: dict[str, str]) -> None:
    if shutil.which("snakemake") is None:
        (pytest.fail if IN_CI else pytest.skip)("no snakemake on the path")
    out = tmp_path / "out"
    command = ["snakemake", "--snakefile", SNIPPETS / "Snakefile", "--cores", "1", "--config", f"cohort={cohort}"]
    command += [f"results={out}", "parts=2", f"options=--device cpu --model {tiny_model}"]
    for more in (["--dry-run"], []):
        assert not out.exists()
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    check_done_once(out)


def test_command_of_the_nextflow_process(
    cohort: Path, tmp_path: Path, tiny_model: Path, environment: dict[str, str]
) -> None:
    """Nextflow puts values into the text between the quotes and gives it to bash; so does this test."""
    out = tmp_path / "out"
    (text,) = re.findall(r'"""\n(.*?)"""', (SNIPPETS / "medsr.nf").read_text(), re.DOTALL)
    values = {
        "params.cohort": cohort,
        "params.results": out,
        "params.parts": 2,
        "params.options": f"--device cpu --model {tiny_model}",
        "task.cpus": 1,
    }
    for part in (1, 2):
        known = {**values, "part": part}
        command = re.sub(r"\$\{([\w.]+)\}", lambda found, known=known: str(known[found[1]]), text)
        command = command.replace("\\\\", "\\")
        subprocess.run(["bash", "-ue", "-c", command], env=environment, check=True, timeout=SECONDS)
    check_done_once(out)
