"""What ``batch --plan`` says of results that are there, of files in the way and of the disk is what a run then does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medsr.errors import PlanError
from medsr.request import Request
from medsr.service.batch import BatchRequest, plan_batch
from medsr.service.batch_text import plan_json, plan_table
from medsr.service.jobs import JobStore
from medsr.service.place import Place, Shard
from medsr.service.preview import Preview
from tests.conftest import RunCli
from tests.image.dicom_phantom import Phantom, save
from tests.service.cohorts import make_cohort, make_scan, run_here, states
from tests.test_faults import disk  # noqa: F401  a fixture


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    make_cohort(tmp_path / "in", 2)
    save(tmp_path / "in/study", Phantom(modality="MR", series=4).classic())
    return tmp_path / "in"


@pytest.fixture
def request_(tiny_model: Path) -> Request:
    return Request(model=str(tiny_model), threads=1)


def look(cohort: Path, request: Request, **batch: object) -> Preview:
    return plan_batch([cohort], request, BatchRequest(cohort.parent / "out", **batch))  # type: ignore[arg-type]


def names(preview: Preview) -> set[str]:
    return {one.item.name for one in preview.planned}


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_what_is_done_is_said_to_be(cohort: Path, tiny_model: Path, request_: Request) -> None:
    out = cohort.parent / "out"
    assert (len(look(cohort, request_).planned), look(cohort, request_).done) == (3, ())
    run_here(cohort, out, tiny_model)
    make_scan(cohort / "new_T1w.nii.gz", 9)
    before = everything(out)
    preview = look(cohort, request_)
    assert names(preview) == {"new_T1w.nii.gz"}
    assert set(preview.done) == set(states(out))
    assert preview.exit_code == 0
    assert everything(out) == before
    assert "1 to do, 3 done already (a run compares hashes), 0 refused" in plan_table(preview)
    assert plan_json(preview)["done"] == list(preview.done)
    (out / "sub-0/t1_T1w_sr.json").unlink()
    next((out / "study").rglob("IM*.dcm")).unlink()
    assert len(look(cohort, request_).done) == 1


def test_nothing_left_to_do_takes_no_time(cohort: Path, tiny_model: Path, request_: Request) -> None:
    run_here(cohort, cohort.parent / "out", tiny_model)
    (line,) = plan_table(look(cohort, request_)).splitlines()
    assert line == "0 to do, 3 done already (a run compares hashes), 0 refused, 0 left out"


def test_other_options_are_refused_as_in_a_run(cohort: Path, tiny_model: Path, request_: Request) -> None:
    out = cohort.parent / "out"
    run_here(cohort, out, tiny_model)
    finer = replace(request_, scale=(3.0,))
    preview = look(cohort, finer)
    ended = run_here(cohort, out, tiny_model, scale=(3.0,))
    assert {(row.name, row.reason) for row in preview.left_out} == {(t.name, t.reason) for t in ended.trouble}
    assert (preview.planned, preview.exit_code) == ((), 8)
    assert len(look(cohort, finer, overwrite=True).planned) == 3


def test_file_of_somebody_else_is_in_the_way(cohort: Path, tiny_model: Path, request_: Request) -> None:
    out = cohort.parent / "out"
    (out / "sub-0").mkdir(parents=True)
    (out / "sub-0/t1_T1w_sr.json").write_text("mine")
    (row,) = look(cohort, request_).left_out
    assert (row.name, row.exit_code) == ("sub-0/t1_T1w.nii.gz", 4)
    assert "exists, and is not of this batch; use --overwrite" in row.reason
    assert [t.reason for t in run_here(cohort, out, tiny_model).trouble] == [row.reason]


def test_failed_is_to_do_and_parked_is_not(cohort: Path, tiny_model: Path, request_: Request) -> None:
    out = cohort.parent / "out"
    run_here(cohort, out, tiny_model)
    with JobStore(Place(out).store) as store:
        store._change("UPDATE job SET state = 'failed', outcome = NULL WHERE name LIKE ? || '%'", ["sub-0"])
        store._change("UPDATE job SET state = 'parked', outcome = NULL WHERE name LIKE ? || '%'", ["sub-1"])
    preview = look(cohort, request_)
    assert names(preview) == {"sub-0/t1_T1w.nii.gz"}
    assert (preview.parked, preview.exit_code) == (("sub-1/t1_T1w.nii.gz",), 8)
    assert "parked; medsr jobs retry" in plan_table(preview)


def test_parts_look_at_their_own(cohort: Path, tiny_model: Path, request_: Request) -> None:
    out = cohort.parent / "out"
    run_here(cohort, out, tiny_model, shard=Shard(1, 2))
    one, two = (look(cohort, request_, shard=Shard(n, 2)) for n in (1, 2))
    assert (len(one.planned), two.done) == (0, ())
    assert len(one.done) + len(two.planned) == 3


def test_room_of_a_series_is_that_of_its_pixels(tmp_path: Path, tiny_model: Path, request_: Request) -> None:
    """Two bytes a voxel, and headers: no less than the least, no more than the most."""
    save(tmp_path / "in/s", Phantom(modality="MR", series=4).classic())
    room = look(tmp_path / "in", request_).room
    run_here(tmp_path / "in", tmp_path / "out", tiny_model)
    used = sum(p.stat().st_size for p in (tmp_path / "out/s").rglob("*") if p.is_file())
    assert 0 < room.least <= used <= room.most
    assert room.least == 2 * 10 * 12 * 7


def test_room_of_nifti_holds_for_what_is_mostly_background(tmp_path: Path, tiny_model: Path, request_: Request) -> None:
    make_scan(tmp_path / "in/a_T1w.nii.gz", shape=(40, 40, 12))
    room = look(tmp_path / "in", replace(request_, uncertainty=True)).room
    run_here(tmp_path / "in", tmp_path / "out", tiny_model, uncertainty=True)
    used = sum(p.stat().st_size for p in (tmp_path / "out").glob("a_T1w_sr*"))
    assert room.least <= used <= room.most


def test_disk_that_cannot_hold_the_results_is_refused_before_the_first(
    disk: Path,  # noqa: F811
    tmp_path: Path,
    run_cli: RunCli,
    tiny_model: Path,
) -> None:
    stored = np.random.default_rng(7).integers(24, 1200, (64, 64, 24))
    for number in range(3):
        save(tmp_path / f"in/s{number}", Phantom(modality="MR", series=number + 1, stored=stored).classic())
    command = ["batch", tmp_path / "in", "--out", disk / "out", "--model", tiny_model, "--threads", "1"]
    plan = run_cli(*command, "--scale", "4", "--plan")
    assert (plan.returncode, (disk / "out").exists()) == (4, False)
    assert "refused (4): the results need at least 9.4 MB of disk and 8.4 MB is free in out; free some" in plan.stdout
    done = run_cli(*command, "--scale", "4")
    assert done.returncode == 4, done.stderr
    assert "medsr: error: the results need at least 9.4 MB of disk" in done.stderr
    assert set(states(disk / "out").values()) == {"queued"}
    assert not list((disk / "out").rglob("*_sr*"))
    shown = run_cli(*command, "--scale", "4", "--plan", "--json")
    assert json.loads(shown.stdout)["disk"]["at_least"] == 3 * 2 * 256 * 256 * 24
    shutil.rmtree(tmp_path / "in/s2")
    shutil.rmtree(disk / "out")
    plan = run_cli(*command, "--scale", "4", "--plan")
    assert (plan.returncode, "it may not do (6.3 MB is the least they need)" in plan.stdout) == (0, True)


def test_results_that_replace_others_need_no_more(cohort: Path, tiny_model: Path, request_: Request) -> None:
    run_here(cohort, cohort.parent / "out", tiny_model)
    first = look(cohort, replace(request_, seed=5, texture=0.5)).room
    again = look(cohort, replace(request_, seed=5, texture=0.5), overwrite=True).room
    assert (first.least, again.least, again.most > 0) == (0, 0, True)


def test_raw_dataset_is_refused_by_the_plan_and_left_alone(tmp_path: Path, request_: Request) -> None:
    make_scan(tmp_path / "ds/sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "ds/dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.9.0"}')
    before = everything(tmp_path)
    with pytest.raises(PlanError, match="another BIDS dataset"):
        plan_batch([tmp_path / "ds"], request_, BatchRequest(tmp_path / "ds", bids=True))
    with pytest.raises(PlanError, match="another BIDS dataset"):
        run_here(tmp_path / "ds", tmp_path / "ds", Path(request_.model), bids=True)
    assert everything(tmp_path) == before
    assert not (tmp_path / "ds/logs").exists()
