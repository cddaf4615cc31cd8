"""Small cohorts, and work on them in this process, for the tests of batches."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medsr.request import Request
from medsr.service.batch import BatchRequest, Ended, run_batch
from medsr.service.crew import Orders
from medsr.service.jobs import Counts, JobStore
from medsr.service.log import EventLog
from medsr.service.pipeline import Rules
from medsr.service.worker import run_worker


def make_scan(path: Path, seed: int = 0, shape: tuple[int, int, int] = (10, 9, 5)) -> Path:
    """A NIfTI file of noise, 1 x 1 x 3 mm, MR by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (np.random.default_rng(seed).random(shape) * 100).astype(np.float32)
    image = nib.Nifti1Image(array, np.diag([1, 1, 3, 1]))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def close(path: Path) -> None:
    """Forbid reading it; skips the test for a user who may read everything, as root may."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def make_cohort(folder: Path, count: int = 3) -> Path:
    """sub-0/t1_T1w.nii.gz and so on."""
    for number in range(count):
        make_scan(folder / f"sub-{number}/t1_T1w.nii.gz", number)
    return folder


def work_here(store: JobStore, orders: Orders, tell: Callable[[Counts], None] | None) -> Counts:
    """The work of a batch by one worker in this process: loading torch for each test would take longer than it."""
    rules = Rules(f"here-{id(store)}", threads=1, retries=orders.retries)
    run_worker(store, orders.out, rules, EventLog(io.StringIO(), "here", names=False), threading.Event())
    return store.counts()


def run_here(inputs: Path | list[Path], out: Path, model: Path, **options: Any) -> Ended:
    """A batch in this process. options: fields of BatchRequest, or of Request, and how the work is done."""
    work = options.pop("work", work_here)
    batch = {name: options.pop(name) for name in list(options) if name in BatchRequest.__dataclass_fields__}
    paths = inputs if isinstance(inputs, list) else [inputs]
    request = Request(model=str(model), threads=1, **options)
    return run_batch(paths, request, BatchRequest(out, **batch), work=work)


def manifest(out: Path) -> list[dict[str, Any]]:
    """The lines of manifest.jsonl."""
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def states(out: Path) -> dict[str, str]:
    """State by name of scan."""
    return {row["name"]: row["state"] for row in manifest(out)}
