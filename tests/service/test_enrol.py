"""A long cohort on its way into the list of jobs and out of it again: at no time is all of it in memory."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from medsr.request import Request
from medsr.service.enrol import enrol
from medsr.service.inputs import find_items
from medsr.service.items import LeftOut
from medsr.service.jobs import JobStore, NewJob
from medsr.service.jobs_text import job_lines
from medsr.service.manifest import read_manifest, write_manifest
from medsr.service.place import Place
from medsr.service.planning import Outcomes, PlannedItem, batched, plan_each, plan_items
from medsr.service.summary import write_summary
from tests.service.cohorts import make_cohort, make_scan

SCANS = 1500
AT_ONCE = 1000  # plans that may be alive together


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> PlannedItem:
    folder = tmp_path_factory.mktemp("one")
    make_scan(folder / "a_T1w.nii.gz")
    request = Request(model=str(tiny_model))
    (planned,) = plan_items(find_items([folder], request, out=folder / "out"), request, hashed=True).planned
    return planned


def copies(one: PlannedItem, count: int, seen: Callable[[PlannedItem], None]) -> Outcomes:
    for number in range(count):
        item = replace(one.item, name=f"{number}.nii.gz", output=f"{number}_sr.nii.gz")
        assert one.task is not None
        planned = replace(one, item=item, key=f"key {number}", task=replace(one.task, output=item.output))
        seen(planned)
        yield planned
        if number % 100 == 0:
            yield LeftOut(f"{number}.txt", "no scan")


def test_few_plans_are_alive_at_a_time(one: PlannedItem, tmp_path: Path) -> None:
    alive: weakref.WeakSet[PlannedItem] = weakref.WeakSet()
    most = 0

    def seen(planned: PlannedItem) -> None:
        nonlocal most
        alive.add(planned)
        most = max(most, len(alive))

    with JobStore(tmp_path / "jobs.sqlite", create=True) as store:
        enrolled = enrol(store, copies(one, SCANS, seen), tmp_path, overwrite=False, now=0.0)
        assert (enrolled.planned, len(enrolled.left_out), enrolled.whole) == (SCANS, SCANS // 100, 0)
        assert (store.counts().queued, store.counts().skipped) == (SCANS, SCANS // 100)
        assert most <= AT_ONCE
        again = enrol(store, copies(one, SCANS, seen), tmp_path, overwrite=False, now=0.0)
        assert (again.keys, again.again, store.counts().total) == (enrolled.keys, 0, SCANS + SCANS // 100)
        assert most <= AT_ONCE


def test_planning_reads_no_further_ahead_than_a_handful(tmp_path: Path, tiny_model: Path) -> None:
    """Who stops taking plans, as Ctrl-C does, ends the reading too."""
    make_cohort(tmp_path / "in", 3)
    request = Request(model=str(tiny_model))
    stream = plan_each(find_items([tmp_path / "in"], request, out=tmp_path / "out"), request, hashed=True)
    assert isinstance(next(stream), PlannedItem)
    stream.close()
    assert list(stream) == []


def test_batched_loses_nothing() -> None:
    assert list(batched(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []
    assert list(batched(range(6), 3)) == [[0, 1, 2], [3, 4, 5]]


@pytest.fixture
def full(one: PlannedItem, tmp_path: Path) -> Place:
    """A batch of many scans, all done."""
    assert one.task is not None
    task = one.task.to_json()
    place = Place(tmp_path / "out")
    place.make()

    def jobs() -> Iterator[NewJob]:
        for number in range(SCANS):
            yield NewJob(f"key {number}", f"{number}.nii.gz", task | {"output": f"{number}_sr.nii.gz"})

    outcome = {"files": {}, "modality": "MR", "residual": 1e-6, "seconds": {"read": 0.5}, "warnings": [], "worker": "w"}
    with JobStore(place.store, create=True) as store:
        store.add(jobs(), 0.0)
        store._change(
            f"UPDATE job SET state = 'done', attempts = 1, started = id, finished = id + 0.5, outcome = '"
            f"{json.dumps(outcome)}' WHERE id = ?",
            range(1, SCANS + 1),
        )
    return place


def test_reports_take_no_memory_for_what_they_report(full: Place) -> None:
    with JobStore(full.store) as store:
        tracemalloc.start()
        write_manifest(full, store)
        write_summary(full, store, pictures=False)
        lines = sum(1 for _ in job_lines(full.out, failed=False))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert lines == SCANS + 1
    assert (full.out / "manifest.jsonl").stat().st_size > 2_500_000
    assert peak < 4_000_000  # the rows as objects would take four times as much
    assert [row.name for row in read_manifest(full.out / "manifest.jsonl")] == [f"{n}.nii.gz" for n in range(SCANS)]
    page = (full.out / "summary.html").read_text(encoding="utf-8")
    assert f"The first 200 of {SCANS}; manifest.jsonl has all." in page
    assert f"{SCANS} scans: {SCANS} done" in page
    assert len(page) < 200_000


@pytest.mark.parametrize("most", [1, 7, 8, SCANS])
def test_sample_is_spread_evenly(full: Place, most: int) -> None:
    with JobStore(full.store) as store:
        ids = [job.id for job in store.sample("done", most)]
        assert len(ids) == len(set(ids)) <= most
        assert {b - a for a, b in pairwise(ids)} <= {-(-SCANS // most)}
        assert store.sample("failed", most) == []


def test_entries_are_the_jobs_in_short(full: Place) -> None:
    with JobStore(full.store) as store:
        for job, entry in zip(store.jobs(), store.entries(), strict=True):
            assert (entry.id, entry.key, entry.name, entry.state) == (job.id, job.key, job.name, job.state)
            assert entry.output == job.task["output"]
            assert entry.input_sha256 == job.task["input_sha256"]
            assert entry.files == (job.outcome or {})["files"]
