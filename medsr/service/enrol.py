"""A planned cohort into the list of jobs: what is new, what is done and still whole, what must be done again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medsr.errors import PlanError
from medsr.image.files import display_name, sha256_of
from medsr.outputs import output_files
from medsr.service.items import LeftOut
from medsr.service.jobs import Entry, JobStore, NewJob
from medsr.service.planning import THREADS, PlannedItem, batched
from medsr.service.room import NOTHING, Room, room_for

Fate = Literal["new", "waiting", "again", "whole", "parked", "refused"]
TO_DO: tuple[Fate, ...] = ("new", "waiting", "again")
_AT_A_TIME = 500  # scans that are looked at before what was found out is written down


@dataclass(frozen=True)
class Enrolled:
    """What became of the scans of one command.

    keys: of its jobs, those of what was left out among them. planned: how many could be planned. left_out: what the
    plan left out. whole: how many were done before and need nothing. again: how many are to be done again, since they
    failed or their files are not what they were. room: what those need that are still to be done.
    """

    keys: frozenset[str]
    planned: int
    left_out: tuple[LeftOut, ...]
    whole: int
    again: int
    room: Room


def enrol(
    store: JobStore, outcomes: Iterable[PlannedItem | LeftOut], out: Path, *, overwrite: bool, now: float
) -> Enrolled:
    """Bring the list of jobs up to the plan, which is written down as it is made.

    Only while no worker is at work: what seems to run belongs to one that died with its batch, and goes back to the
    queue without blame. A job is done only if its files have the hashes on record; a failed one is queued again, a
    parked one stays. An output that exists and is not this job's own, or was made from another input or with other
    options, is replaced only with ``overwrite``; else the scan is refused.
    """
    for worker in {entry.worker for entry in store.entries() if entry.worker is not None}:
        store.release(worker)
    book, sums = Book.of(store), _Sums()
    for some in batched(outcomes, _AT_A_TIME):
        _compared(some, book, sums, out, overwrite=overwrite).write(store, out, now)
    return Enrolled(
        frozenset(sums.keys), sums.planned, tuple(sums.left_out), sums.fates["whole"], sums.fates["again"], sums.room
    )


@dataclass
class _Sums:
    """What ``Enrolled`` will say, so far."""

    keys: set[str] = field(default_factory=set)
    planned: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    fates: Counter[Fate] = field(default_factory=Counter)
    room: Room = NOTHING


def _compared(
    some: Sequence[PlannedItem | LeftOut], book: Book, sums: _Sums, out: Path, *, overwrite: bool
) -> _Changes:
    """Some of the plan against the list; ``sums`` is added to."""
    refused = [row for row in some if isinstance(row, LeftOut)]
    items = [one for one in some if isinstance(one, PlannedItem)]
    sums.left_out += refused
    sums.planned += len(items)
    sound = _whole(out, [entry for one in items if (entry := book.by_key.get(one.key or "")) is not None])
    changes = _Changes()
    for one in items:
        if one.key is None or one.task is None:
            raise ValueError(f"{one.item.name} was planned without a key")
        verdict = judge(one, book.by_key.get(one.key), book, out, overwrite=overwrite, sound=sound)
        if verdict.refusal is not None:
            refused.append(verdict.refusal)
            continue
        sums.keys.add(one.key)
        sums.fates[verdict.fate] += 1
        if verdict.fate in TO_DO:
            sums.room += room_for(one, out)
        changes.note(NewJob(one.key, one.item.name, one.task.to_json()), verdict)
    rows = [_row(row) for row in refused]
    changes.new += rows
    sums.keys.update(row.key for row in rows)
    changes.gone += [
        n for name in {one.item.name for one in items} | {r.name for r in refused} for n in book.listed(name)
    ]
    return changes


class Book:
    """The list of jobs as it was, by what scans are compared by."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.by_key: dict[str, Entry] = {}
        self.by_output: dict[str, list[Entry]] = {}
        self._listed: dict[str, list[int]] = {}
        for entry in entries:
            self.by_key[entry.key] = entry
            if entry.output is None:
                self._listed.setdefault(entry.name, []).append(entry.id)
            else:
                self.by_output.setdefault(entry.output, []).append(entry)

    @classmethod
    def of(cls, store: JobStore) -> Book:
        """Of a list as it stands."""
        return cls(store.entries())

    def listed(self, name: str) -> Sequence[int]:
        """Ids of the rows of this name that say why it was left out."""
        return self._listed.get(name, ())


@dataclass(frozen=True)
class Verdict:
    """fate: ``waiting`` is queued already. entry: the job, where there is one. rivals: other jobs with its output."""

    fate: Fate
    entry: Entry | None = None
    rivals: tuple[Entry, ...] = ()
    refusal: LeftOut | None = None


def judge(
    one: PlannedItem, entry: Entry | None, book: Book, out: Path, *, overwrite: bool, sound: Container[int]
) -> Verdict:
    """What is to be done about a scan. entry: its job, where there is one. sound: ids of done jobs with whole files."""
    rivals = tuple(e for e in book.by_output.get(one.item.output, ()) if entry is None or e.key != entry.key)
    if entry is None and not overwrite:
        there = next((p for p in output_files(out / one.item.output, one.request).values() if os.path.lexists(p)), None)
        if there is not None:
            made = any(rival.state == "done" for rival in rivals)
            why = "was made from another input or with other options" if made else "exists, and is not of this batch"
            reason = f"{display_name(there)} {why}; use --overwrite to replace it, or another --out"
            return Verdict("refused", refusal=LeftOut(one.item.name, reason, PlanError.exit_code))
    if entry is None:
        return Verdict("new", None, rivals)
    if entry.state == "done" and entry.id in sound:
        return Verdict("whole", entry, rivals)
    if entry.state in ("done", "failed"):
        return Verdict("again", entry, rivals)
    return Verdict("parked" if entry.state == "parked" else "waiting", entry, rivals)


@dataclass
class _Changes:
    """To be written into the list. again, gone: ids. orphaned: jobs whose results will be replaced by other ones."""

    new: list[NewJob] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    orphaned: list[Entry] = field(default_factory=list)

    def note(self, job: NewJob, verdict: Verdict) -> None:
        """job: as it would be added."""
        self.gone += [rival.id for rival in verdict.rivals]
        if verdict.entry is None:
            self.new.append(job)
            self.orphaned += verdict.rivals
        elif verdict.fate == "again":
            self.again.append(verdict.entry.id)

    def write(self, store: JobStore, out: Path, now: float) -> None:
        for entry in self.orphaned:
            _remove_orphans(out, entry)
        store.forget(self.gone)
        store.requeue(self.again)
        store.add(self.new, now)


def _whole(out: Path, entries: Sequence[Entry]) -> frozenset[int]:
    """Ids of the jobs that are done and whose files are all there, with the bytes that were recorded."""
    done = [entry for entry in entries if entry.state == "done"]
    with ThreadPoolExecutor(THREADS) as pool:
        matching = list(pool.map(lambda entry: _matches(out, entry), done))
    return frozenset(entry.id for entry, ok in zip(done, matching, strict=True) if ok)


def _matches(out: Path, entry: Entry) -> bool:
    try:
        return bool(entry.files) and all(sha256_of(out / name) == digest for name, digest in entry.files.items())
    except OSError:
        return False


def _row(left_out: LeftOut) -> NewJob:
    key = hashlib.sha256(f"left out\0{left_out.name}\0{left_out.reason}".encode(errors="surrogateescape")).hexdigest()
    if left_out.exit_code == 0:
        return NewJob(key, left_out.name, {}, "skipped", left_out.reason)
    return NewJob(key, left_out.name, {}, "failed", left_out.reason, left_out.exit_code)


def _remove_orphans(out: Path, entry: Entry) -> None:
    """Remove maps of a result that is replaced: beside the new one they would be taken for its own.

    The image and its sidecar are left for the new ones to replace, and so is what somebody has changed since.
    """
    if entry.output is None:
        return
    sidecar = entry.output.removesuffix(".gz").removesuffix(".nii") + ".json"
    for name, digest in entry.files.items():
        if name in (entry.output, sidecar) or name.startswith(f"{entry.output}/"):
            continue
        with contextlib.suppress(OSError):
            if sha256_of(out / name) == digest:
                (out / name).unlink()
