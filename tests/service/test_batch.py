"""A batch as a whole: what is done is recorded, what was done is not done again, and nothing is replaced unasked."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medsr.errors import ConfigError, PlanError
from medsr.image.nifti import read
from medsr.request import Request
from medsr.run import upscale_file
from medsr.service.batch import BatchRequest, plan_batch, run_batch
from medsr.service.place import Place, Shard
from tests.image.dicom_phantom import Phantom, save
from tests.service.cohorts import make_cohort, make_scan, manifest, run_here, states, work_here


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return make_cohort(tmp_path / "in")


def stamps(out: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in out.rglob("*_sr.nii.gz")}


def test_one_bad_scan_fails_one_row(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    (cohort / "bad.nii.gz").write_bytes(b"no scan")
    ended = run_here(cohort, tmp_path / "out", tiny_model)
    assert (ended.done, ended.before, [(t.name, t.exit_code) for t in ended.trouble]) == (3, 0, [("bad.nii.gz", 3)])
    rows = {row["name"]: row for row in manifest(tmp_path / "out")}
    assert rows["bad.nii.gz"]["state"] == "failed"
    assert "not a NIfTI file" in rows["bad.nii.gz"]["error"]
    done = rows["sub-1/t1_T1w.nii.gz"]
    source = cohort / "sub-1/t1_T1w.nii.gz"
    assert done["input_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert set(done["files"]) == {"sub-1/t1_T1w_sr.nii.gz", "sub-1/t1_T1w_sr.json"}
    for name, digest in done["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert done["plan"]["target"]["shape"] == [20, 18, 5]
    assert done["attempts"] == 1
    assert done["residual"] is not None


def test_voxels_are_those_of_upscale(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    run_here(cohort, tmp_path / "out", tiny_model)
    alone = tmp_path / "alone.nii.gz"
    upscale_file(cohort / "sub-2/t1_T1w.nii.gz", alone, Request(model=str(tiny_model), threads=1))
    batch = read(tmp_path / "out/sub-2/t1_T1w_sr.nii.gz", modality="MR")
    np.testing.assert_array_equal(batch.array, read(alone, modality="MR").array)


def test_same_command_again_does_only_what_is_missing(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    run_here(cohort, out, tiny_model)
    before = stamps(out)
    assert run_here(cohort, out, tiny_model).before == 3
    assert stamps(out) == before
    touched, gone = out / "sub-0/t1_T1w_sr.nii.gz", out / "sub-1/t1_T1w_sr.json"
    whole = touched.read_bytes()
    touched.write_bytes(whole[:-1])
    gone.unlink()
    make_scan(cohort / "sub-9/t1_T1w.nii.gz", 9)
    ended = run_here(cohort, out, tiny_model)
    assert (ended.done, ended.before) == (4, 1)
    assert touched.read_bytes() == whole
    assert gone.is_file()
    assert stamps(out)[str(out / "sub-2/t1_T1w_sr.nii.gz")] == before[str(out / "sub-2/t1_T1w_sr.nii.gz")]


def test_other_options_replace_only_on_request(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    run_here(cohort, out, tiny_model, uncertainty=True)
    assert (out / "sub-0/t1_T1w_sr_std.nii.gz").is_file()
    before = stamps(out)
    ended = run_here(cohort, out, tiny_model, scale=(3,))
    assert {t.exit_code for t in ended.trouble} == {4}
    assert all("--overwrite" in t.reason for t in ended.trouble)
    assert stamps(out) == before
    ended = run_here(cohort, out, tiny_model, scale=(3,), overwrite=True)
    assert (ended.done, ended.trouble) == (3, ())
    assert read(out / "sub-0/t1_T1w_sr.nii.gz", modality="MR").array.shape == (30, 27, 5)
    # A map of the old result beside the new one would be taken for the new one's.
    assert not (out / "sub-0/t1_T1w_sr_std.nii.gz").exists()
    assert set(states(out).values()) == {"done"}
    assert len(manifest(out)) == 3


def test_changed_input_is_noticed(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    run_here(cohort, out, tiny_model)
    make_scan(cohort / "sub-1/t1_T1w.nii.gz", 77)
    ended = run_here(cohort, out, tiny_model)
    assert [(t.name, t.exit_code) for t in ended.trouble] == [("sub-1/t1_T1w.nii.gz", 4)]
    assert ended.before == 2


def test_file_of_somebody_else_is_never_replaced(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    mine = tmp_path / "out/sub-0/t1_T1w_sr.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    ended = run_here(cohort, tmp_path / "out", tiny_model)
    assert [(t.name, t.exit_code) for t in ended.trouble] == [("sub-0/t1_T1w.nii.gz", 4)]
    assert (ended.done, mine.read_text()) == (2, "mine")


def test_refused_scan_is_planned_anew(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    bad = cohort / "bad_T1w.nii.gz"
    bad.write_bytes(b"no scan")
    run_here(cohort, tmp_path / "out", tiny_model)
    make_scan(bad, 5)
    ended = run_here(cohort, tmp_path / "out", tiny_model)
    assert (ended.done, ended.before, ended.trouble) == (4, 3, ())
    assert states(tmp_path / "out")["bad_T1w.nii.gz"] == "done"


def test_failed_scan_is_tried_again(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    """A truncated file passes planning when only its end is gone, and fails when its voxels are read."""
    path = cohort / "sub-0/t1_T1w.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    ended = run_here(cohort, tmp_path / "out", tiny_model)
    assert [(t.name, t.exit_code) for t in ended.trouble] == [("sub-0/t1_T1w.nii.gz", 3)]
    again = run_here(cohort, tmp_path / "out", tiny_model)
    assert (again.before, len(again.trouble)) == (2, 1)
    path.write_bytes(whole)
    assert run_here(cohort, tmp_path / "out", tiny_model).trouble == ()


def test_fail_fast_begins_nothing_after_a_refusal(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    (cohort / "bad.nii.gz").write_bytes(b"no scan")
    ended = run_here(cohort, tmp_path / "out", tiny_model, fail_fast=True)
    assert (ended.done, ended.waiting, len(ended.trouble)) == (0, 3, 1)
    assert run_here(cohort / "sub-0", tmp_path / "out", tiny_model).done == 1


def test_nothing_to_do_is_said(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="no such file"):
        run_here(tmp_path / "gone", tmp_path / "out", tiny_model)
    with pytest.raises(PlanError, match="holds no scan"):
        run_here(tmp_path / "in", tmp_path / "out", tiny_model)
    assert run_here(tmp_path / "in", tmp_path / "out", tiny_model, shard=Shard(1, 2)).done == 0
    localizer = Phantom(modality="MR").classic()
    for ds in localizer:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(tmp_path / "in", localizer)
    with pytest.raises(PlanError, match=r"nothing to do.*localizer"):
        run_here(tmp_path / "in", tmp_path / "out2", tiny_model)
    assert set(states(tmp_path / "out2").values()) == {"skipped"}


def test_output_beside_the_inputs(cohort: Path, tiny_model: Path) -> None:
    """The folder of outputs may be that of the inputs: results are no inputs of the next run."""
    save(cohort / "ct", Phantom(modality="MR").classic())
    assert run_here(cohort, cohort, tiny_model).done == 4
    again = run_here(cohort, cohort, tiny_model)
    assert (again.done, again.before, again.trouble) == (4, 4, ())


def test_dicom_becomes_a_series(tmp_path: Path, tiny_model: Path) -> None:
    save(tmp_path / "in/study", Phantom(modality="MR", series=4).classic())
    out = tmp_path / "out"
    assert run_here(tmp_path / "in", out, tiny_model).done == 1
    (row,) = manifest(out)
    assert row["output"].startswith("study/series-4-")
    files = sorted(name for name in row["files"] if name.endswith(".dcm"))
    assert len(files) == 7
    assert run_here(tmp_path / "in", out, tiny_model).before == 1
    (out / files[2]).unlink()
    again = run_here(tmp_path / "in", out, tiny_model)
    assert (again.done, again.before) == (1, 0)
    assert (out / files[2]).is_file()


def test_shards_do_every_scan_once_and_share_the_manifest(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    done = [run_here(cohort, out, tiny_model, shard=Shard(n, 2)).done for n in (1, 2)]
    assert sum(done) == 3
    assert sorted(states(out)) == [f"sub-{n}/t1_T1w.nii.gz" for n in range(3)]
    assert set(states(out).values()) == {"done"}
    assert run_here(cohort, out, tiny_model, shard=Shard(2, 2)).before == done[1]
    assert len(manifest(out)) == 3


def test_second_batch_on_one_folder_is_refused(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"

    def meanwhile(store: object, orders: object, tell: object) -> object:
        with pytest.raises(PlanError, match=rf"another batch.*process {os.getpid()}.*--out"):
            run_here(cohort, out, tiny_model)
        with pytest.raises(PlanError, match="another batch"):
            run_here(cohort, out, tiny_model, shard=Shard(1, 2))
        return work_here(store, orders, tell)  # type: ignore[arg-type]

    request = Request(model=str(tiny_model), threads=1)
    ended = run_batch([cohort], request, BatchRequest(out), work=meanwhile)  # type: ignore[arg-type]
    assert ended.done == 3


def test_parts_may_run_at_once_but_not_the_same_twice(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    one = Place(out, Shard(1, 2))
    one.make()
    with one.alone():
        run_here(cohort, out, tiny_model, shard=Shard(2, 2))
        with pytest.raises(PlanError, match="another batch"):
            run_here(cohort, out, tiny_model, shard=Shard(1, 2))
        with pytest.raises(PlanError, match="another batch"):
            run_here(cohort, out, tiny_model)


def test_plan_writes_nothing(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    request = Request(model=str(tiny_model))
    planning = plan_batch([cohort], request, BatchRequest(tmp_path / "out"))
    assert [one.item.output for one in planning.planned] == [f"sub-{n}/t1_T1w_sr.nii.gz" for n in range(3)]
    assert not (tmp_path / "out").exists()


def test_records_are_remade_from_the_list_of_jobs(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    run_here(cohort, out, tiny_model)
    files = [out / name for name in ("manifest.jsonl", "summary.csv", "summary.html")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    run_here(cohort, out, tiny_model)
    assert [file.read_bytes() for file in files] == before


def test_logs_name_no_scan_unless_asked(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    (cohort / "meier_T1w.nii.gz").write_bytes(b"no scan")
    run_here(cohort, tmp_path / "out", tiny_model)
    text = "".join(file.read_text() for file in (tmp_path / "out/logs").iterdir())
    assert "meier" not in text
    assert "sub-0" not in text
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events == ["planned", "left out", "ended"]
    shutil.rmtree(tmp_path / "out/logs")
    run_here(cohort, tmp_path / "out", tiny_model, log_names=True)
    assert "meier" in (tmp_path / "out/logs/batch.jsonl").read_text()


def test_table_of_results_is_no_formula(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/=cmd().nii.gz").write_bytes(b"no scan")
    run_here(tmp_path / "in", tmp_path / "out", tiny_model)
    with (tmp_path / "out/summary.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["name"] == "'=cmd().nii.gz"
    assert row["exit_code"] == "3"
