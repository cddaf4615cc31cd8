"""``medsr jobs``: every scan of a batch in a line, and failed ones queued again."""

from __future__ import annotations

import json

import pytest

from medsr.errors import JobError
from medsr.service.jobs import JobStore, NewJob
from medsr.service.jobs_text import Retried, job_lines, job_rows, retried_text, retry_jobs
from medsr.service.place import Place, Shard

TASK = {"output": "a_sr.nii.gz", "input_sha256": "12", "plan": {}}


def fill(place: Place, prefix: str) -> None:
    """One scan in every state."""
    place.make()
    with JobStore(place.store, create=True) as store:
        names = ("done", "failed", "parked", "running", "queued")
        store.add([NewJob(f"{prefix}{name}", f"{prefix}{name}", TASK) for name in names], 10.0)
        store.finish(store.claim("w1", 20.0, 60.0), {"residual": 0.5}, 22.5)
        store.fail(store.claim("w1", 20.0, 60.0), "it is truncated", 3, 21.0)
        store.claim("w2", 20.0, 60.0)
        store.lost("w2", 21.0, crash_limit=1)
        store.claim("w3", 20.0, 60.0)
        refused = NewJob(f"{prefix}refused", f"{prefix}refused", {}, "failed", "it is a label map", 4)
        store.add([refused, NewJob(f"{prefix}left", f"{prefix}left", {}, "skipped", "a localizer")], 30.0)


@pytest.fixture
def out(tmp_path):
    fill(Place(tmp_path), "a-")
    return tmp_path


def test_lines(out):
    lines = list(job_lines(out, failed=False))
    assert lines[0] == "done     a-done (2.5 s)"
    assert lines[1] == "failed   a-failed: it is truncated (exit code 3)"
    assert lines[2].startswith("parked   a-parked: the process that worked on it died without a word (deaths: 1)")
    assert lines[3:] == [
        "running  a-running",
        "queued   a-queued",
        "failed   a-refused: it is a label map (exit code 4)",
        "skipped  a-left: a localizer",
        "7 scans: 1 queued, 1 running, 1 done, 2 failed, 1 parked, 1 skipped",
    ]


def test_only_what_failed(out):
    assert [row["name"] for row in job_rows(out, failed=True)] == ["a-failed", "a-parked", "a-refused"]
    assert len(list(job_lines(out, failed=True))) == 4
    rows = json.loads(json.dumps(list(job_rows(out, failed=False))))
    assert [(r["state"], r["exit_code"], r["residual"]) for r in rows[:2]] == [("done", 0, 0.5), ("failed", 3, None)]


def test_all_parts_of_a_batch_together(out):
    for index in (1, 2):
        fill(Place(out, Shard(index, 2)), f"s{index}-")
    assert len(list(job_rows(out, failed=False))) == 21
    assert retry_jobs(out) == Retried(queued=6, refused=3)


def test_retry(out):
    """What ran and failed is queued as if it were new; what was refused has to be planned again."""
    assert retry_jobs(out) == Retried(queued=2, refused=1)
    with JobStore(Place(out).store) as store:
        assert [job.name for job in store.jobs(["queued"])] == ["a-failed", "a-parked", "a-queued"]
        assert all((job.attempts, job.crashes, job.error) == (0, 0, None) for job in store.jobs(["queued"]))
    assert retry_jobs(out) == Retried(queued=0, refused=1)
    assert retried_text(Retried(1, 2)).splitlines() == [
        "1 scan queued again; run the batch command again",
        "2 scans cannot be done as asked: see medsr jobs --failed; mend that, then run the batch command again",
    ]


def test_a_scan_that_waits_for_its_second_attempt(tmp_path):
    place = Place(tmp_path)
    place.make()
    with JobStore(place.store, create=True) as store:
        store.add([NewJob(k, k, TASK) for k in "ab"], 0.0)
        store.fail(store.claim("w", 1.0, 9.0), "the disk is full", 7, 2.0, retry=True)
        store.claim("w", 1.0, 9.0)
        store.lost("w", 2.0)
    assert list(job_lines(tmp_path, failed=False)) == [
        "queued   a (failed before: the disk is full)", "queued   b (attempt 2)", "2 scans: 2 queued",
    ]  # fmt: skip


def test_no_batch_there(tmp_path):
    for look in (lambda: list(job_lines(tmp_path, failed=False)), lambda: retry_jobs(tmp_path)):
        with pytest.raises(JobError, match="holds no batch; name the folder that was given to medsr batch with --out"):
            look()
