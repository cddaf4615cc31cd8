"""A planned cohort into the list of jobs: what is new, what is done and still whole, what must be done again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from medsr.errors import PlanError
from medsr.image.files import display_name, sha256_of
from medsr.outputs import output_files
from medsr.service.items import LeftOut
from medsr.service.jobs import Job, JobStore, NewJob
from medsr.service.planning import THREADS, PlannedItem, Planning


@dataclass(frozen=True)
class Enrolled:
    """What became of the scans of one command.

    keys: of its jobs, those of what was left out among them. whole: how many were done before and need nothing.
    again: how many are to be done again, since they failed or their files are not what they were.
    """

    keys: tuple[str, ...]
    whole: int
    again: int


def enrol(store: JobStore, planning: Planning, out: Path, *, overwrite: bool, now: float) -> Enrolled:
    """Bring the list of jobs up to the plan.

    Only while no worker is at work: what seems to run belongs to one that died with its batch, and goes back to the
    queue without blame. A job is done only if its files have the hashes on record; a failed one is queued again, a
    parked one stays. An output that exists and is not this job's own, or was made from another input or with other
    options, is replaced only with ``overwrite``; else the scan is refused.
    """
    for worker in {job.worker for job in store.jobs(["running"]) if job.worker is not None}:
        store.release(worker)
    known = list(store.jobs())
    book = _Book(
        by_key={job.key: job for job in known},
        by_output=_grouped((job.task["output"], job) for job in known if job.task),
    )
    whole = _whole(out, [job for p in planning.planned if p.key and (job := book.by_key.get(p.key))])
    refused = [r for p in planning.planned if (r := _enter(p, book, out, whole, overwrite=overwrite)) is not None]
    rows = [_row(left_out) for left_out in (*planning.left_out, *refused)]
    mine = {p.item.name for p in planning.planned} | {row.name for row in rows}
    stale = [job.id for job in known if not job.task and job.name in mine]
    for job in book.replaced:
        _remove_orphans(out, job, book.new)
    store.forget([*stale, *(job.id for job in book.replaced)])
    store.requeue(book.again)
    store.add([*book.new, *rows], now)
    keys = [p.key for p in planning.planned if p.key is not None and p.item.name not in {r.name for r in refused}]
    return Enrolled((*keys, *(row.key for row in rows)), len(whole), len(book.again))


@dataclass
class _Book:
    """The list as it was, and what is to be changed in it. again: ids."""

    by_key: Mapping[str, Job]
    by_output: Mapping[str, Sequence[Job]]
    new: list[NewJob] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    replaced: list[Job] = field(default_factory=list)


def _enter(one: PlannedItem, book: _Book, out: Path, whole: frozenset[int], *, overwrite: bool) -> LeftOut | None:
    """Note what is to be done about one item; the row that says why it is refused, or None."""
    if one.key is None or one.task is None:
        raise ValueError(f"{one.item.name} was planned without a key")
    rivals = [job for job in book.by_output.get(one.item.output, ()) if job.key != one.key]
    job = book.by_key.get(one.key)
    if job is None and not overwrite:
        made = any(rival.state == "done" for rival in rivals)
        there = next((p for p in output_files(out / one.item.output, one.request).values() if os.path.lexists(p)), None)
        if there is not None:
            why = "was made from another input or with other options" if made else "exists, and is not of this batch"
            reason = f"{display_name(there)} {why}; use --overwrite to replace it, or another --out"
            return LeftOut(one.item.name, reason, PlanError.exit_code)
    book.replaced += rivals
    if job is None:
        book.new.append(NewJob(one.key, one.item.name, one.task.to_json()))
    elif job.state == "failed" or (job.state == "done" and job.id not in whole):
        book.again.append(job.id)
    return None


def _grouped(pairs: Iterable[tuple[str, Job]]) -> dict[str, list[Job]]:
    groups: dict[str, list[Job]] = {}
    for key, job in pairs:
        groups.setdefault(key, []).append(job)
    return groups


def _whole(out: Path, jobs: Sequence[Job]) -> frozenset[int]:
    """Ids of the jobs that are done and whose files are all there, with the bytes that were recorded."""
    done = [job for job in jobs if job.state == "done"]
    with ThreadPoolExecutor(THREADS) as pool:
        sound = list(pool.map(lambda job: _matches(out, job), done))
    return frozenset(job.id for job, ok in zip(done, sound, strict=True) if ok)


def _matches(out: Path, job: Job) -> bool:
    files: Mapping[str, str] = (job.outcome or {}).get("files", {})
    try:
        return bool(files) and all(sha256_of(out / name) == digest for name, digest in files.items())
    except OSError:
        return False


def _row(left_out: LeftOut) -> NewJob:
    key = hashlib.sha256(f"left out\0{left_out.name}\0{left_out.reason}".encode(errors="surrogateescape")).hexdigest()
    if left_out.exit_code == 0:
        return NewJob(key, left_out.name, {}, "skipped", left_out.reason)
    return NewJob(key, left_out.name, {}, "failed", left_out.reason, left_out.exit_code)


def _remove_orphans(out: Path, job: Job, new: Sequence[NewJob]) -> None:
    """Remove maps of a result that is replaced: beside the new one they would be taken for its own.

    The image and its sidecar are left for the new ones to replace, and so is what somebody has changed since.
    """
    successor = next((n for n in new if n.task.get("output") == job.task["output"]), None)
    if successor is None:
        return
    output = job.task["output"]
    sidecar = output.removesuffix(".gz").removesuffix(".nii") + ".json"
    for name, digest in ((job.outcome or {}).get("files", {})).items():
        if name in (output, sidecar) or name.startswith(f"{output}/"):
            continue
        with contextlib.suppress(OSError):
            if sha256_of(out / name) == digest:
                (out / name).unlink()
