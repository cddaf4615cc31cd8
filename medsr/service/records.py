"""What a job is: as it is added, as it stands in the list, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

State = Literal["queued", "running", "done", "failed", "parked", "skipped"]


@dataclass(frozen=True)
class NewJob:
    """A job to be added.

    key: the same for the same work, unique. name: what people call it. task: JSON values, what a worker needs.
    state: ``queued``, or for what will not be run: ``failed`` (with ``error`` and ``exit_code``) or ``skipped``.
    """

    key: str
    name: str
    task: Mapping[str, Any]
    state: Literal["queued", "failed", "skipped"] = "queued"
    error: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was read.

    attempts: how often it was begun, without those that were given back in order. crashes: attempts whose process
    died without a word. outcome: JSON values, what the worker reported. created, started, finished: seconds since
    1970; started is of the last attempt.
    """

    id: int
    key: str
    name: str
    task: Mapping[str, Any]
    state: State
    attempts: int
    crashes: int
    worker: str | None
    lease_until: float | None
    error: str | None
    exit_code: int | None
    outcome: Mapping[str, Any] | None
    created: float
    started: float | None
    finished: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A job in short, as it stood. output and hashes: as in its task; None for what is only listed. files: SHA-256 by
    path, of its outcome.
    """

    id: int
    key: str
    name: str
    state: State
    worker: str | None
    error: str | None
    exit_code: int | None
    output: str | None
    input_sha256: str | None
    template_sha256: str | None
    files: Mapping[str, str]


@dataclass(frozen=True)
class Added:
    """How many jobs were new, and how many were known by their keys and left as they were."""

    new: int
    known: int


@dataclass(frozen=True)
class Counts:
    """Jobs by state."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    parked: int = 0
    skipped: int = 0

    @property
    def unfinished(self) -> int:
        """Jobs that a worker has, or will have."""
        return self.queued + self.running

    @property
    def total(self) -> int:
        """All jobs."""
        return self.unfinished + self.done + self.failed + self.parked + self.skipped


class Desk(Protocol):
    """Where a worker gets jobs and reports what became of them: a ``JobStore``, or what stands for one elsewhere."""

    def claim(self, worker: str, now: float, lease_s: float, *, ahead: bool = False) -> Job | None:
        """As ``JobStore.claim``."""

    def heartbeat(self, worker: str, now: float, lease_s: float) -> frozenset[int]:
        """As ``JobStore.heartbeat``."""

    def finish(self, job: Job, outcome: Mapping[str, Any], now: float) -> bool:
        """As ``JobStore.finish``."""

    def fail(self, job: Job, error: str, exit_code: int, now: float, *, retry: bool = False) -> bool:
        """As ``JobStore.fail``."""

    def release(self, worker: str) -> int:
        """As ``JobStore.release``."""
