"""``medsr jobs``: what became of the scans of a batch, and queueing again those that failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsr.errors import JobError
from medsr.service.jobs import Counts, Job, JobStore, State
from medsr.service.manifest import Row
from medsr.service.place import STORE, Place

FAILED: tuple[State, ...] = ("failed", "parked")


@dataclass(frozen=True)
class Retried:
    """queued: jobs that were queued again. refused: scans that were never begun, since they cannot be planned."""

    queued: int
    refused: int


def job_lines(out: Path, *, failed: bool) -> Iterator[str]:
    """A line for every scan of the batch in ``out``, or every one that failed, and the sum. Raises JobError."""
    counts = []
    for store in _stores(out):
        yield from map(_line, store.jobs(FAILED if failed else ()))
        counts.append(store.counts())
    yield _sum(counts)


def job_rows(out: Path, *, failed: bool) -> Iterator[dict[str, Any]]:
    """The same as JSON values, as they stand in the manifest. Raises JobError."""
    for store in _stores(out):
        for job in store.jobs(FAILED if failed else ()):
            yield Row.of(job).to_json()


def retry_jobs(out: Path) -> Retried:
    """Queue again what failed or was parked, for the batch that runs or the next one. Raises JobError."""
    queued = refused = 0
    for store in _stores(out):
        ended = list(store.jobs(FAILED))
        queued += store.requeue([job.id for job in ended if job.attempts])
        refused += sum(not job.attempts for job in ended)
    return Retried(queued, refused)


def retried_text(retried: Retried) -> str:
    """What was done, and what to do next."""
    lines = [f"{_scans(retried.queued)} queued again" + ("; run the batch command again" if retried.queued else "")]
    if retried.refused:
        lines.append(
            f"{_scans(retried.refused)} cannot be done as asked: see medsr jobs --failed; mend that, then run the "
            "batch command again"
        )
    return "\n".join(lines)


def _stores(out: Path) -> Iterator[JobStore]:
    """The lists of every part of the batch, each open while it is looked at."""
    paths = [path for part in Place(out).parts() if (path := part / STORE).is_file()]
    if not paths:
        raise JobError(f"{out} holds no batch; name the folder that was given to medsr batch with --out")
    for path in paths:
        with JobStore(path) as store:
            yield store


def _line(job: Job) -> str:
    if job.state in FAILED:
        return f"{job.state:<8} {job.name}: {job.error} (exit code {job.exit_code})"
    if job.state == "skipped":
        return f"{job.state:<8} {job.name}: {job.error}"
    if job.state == "done" and job.started is not None and job.finished is not None:
        return f"{job.state:<8} {job.name} ({job.finished - job.started:.1f} s)"
    again = f" (failed before: {job.error})" if job.error else f" (attempt {job.attempts + 1})" if job.attempts else ""
    return f"{job.state:<8} {job.name}{again if job.state == 'queued' else ''}"


def _sum(counts: Sequence[Counts]) -> str:
    sums = {state: sum(getattr(c, state) for c in counts) for state in Counts.__dataclass_fields__}
    parts = [f"{number} {state}" for state, number in sums.items() if number]
    return f"{_scans(sum(sums.values()))}: {', '.join(parts)}" if parts else "no scans"


def _scans(number: int) -> str:
    return "1 scan" if number == 1 else f"{number} scans"
