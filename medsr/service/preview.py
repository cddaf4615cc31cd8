"""What a batch would do, by its plan and by what is in the folder of outputs already; nothing is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medsr.errors import SOME_FAILED, PlanError
from medsr.service.enrol import Book, judge
from medsr.service.identity import job_key
from medsr.service.items import LeftOut
from medsr.service.jobs import Entry, JobStore
from medsr.service.place import Place
from medsr.service.planning import PlannedItem
from medsr.service.room import NOTHING, Room, free_in, room_for, shortage


@dataclass(frozen=True, eq=False)
class Preview:
    """planned: what would be done. done: names of what is done already, by the list of jobs. parked: names of what
    would not be tried again. left_out: what would not be done, also since a file is in its way. room: that the results
    need; free: of the disk, None where the file system does not say. shortage: why they cannot fit, or None.
    """

    planned: tuple[PlannedItem, ...]
    left_out: tuple[LeftOut, ...]
    done: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    room: Room = NOTHING
    free: int | None = None
    shortage: str | None = None

    @property
    def exit_code(self) -> int:
        """As that of a run would be at the best: 4 where it would not begin, 8 where some are refused."""
        if self.shortage is not None:
            return PlanError.exit_code
        return SOME_FAILED if self.parked or any(row.exit_code for row in self.left_out) else 0


def preview_of(outcomes: Iterable[PlannedItem | LeftOut], place: Place, *, overwrite: bool) -> Preview:
    """Hold a plan, without hashes, against what is there.

    What the list of jobs calls done is believed where its files are there, and where name and plan are still those of
    the job: only a run compares hashes. Raises JobError for a list that cannot be read.
    """
    book = _book(place)
    planned: list[PlannedItem] = []
    left_out: list[LeftOut] = []
    done: list[str] = []
    parked: list[str] = []
    room = Room()
    for one in outcomes:
        if isinstance(one, LeftOut):
            left_out.append(one)
            continue
        entry = _entry(one, book)
        sound = {entry.id} if entry is not None and _all_there(entry, place.out) else frozenset[int]()
        verdict = judge(one, entry, book, place.out, overwrite=overwrite, sound=sound)
        if verdict.refusal is not None:
            left_out.append(verdict.refusal)
        elif verdict.fate in ("whole", "parked"):
            (done if verdict.fate == "whole" else parked).append(one.item.name)
        else:
            planned.append(one)
            room += room_for(one, place.out)
    return Preview(
        tuple(planned), tuple(left_out), tuple(done), tuple(parked), room, free_in(place.out), shortage(room, place.out)
    )


def _book(place: Place) -> Book:
    if not place.store.is_file():
        return Book()
    with contextlib.closing(JobStore(place.store)) as store:
        return Book.of(store)


def _entry(one: PlannedItem, book: Book) -> Entry | None:
    """The job that is this one if the bytes of the scan are still those that it was planned with."""
    rivals = book.by_output.get(one.item.output)
    if not rivals:
        return None
    plan = one.plan.to_json()
    for entry in rivals:
        if entry.input_sha256 is not None and entry.key == job_key(
            one.item.name, entry.input_sha256, plan, one.request, entry.template_sha256
        ):
            return entry
    return None


def _all_there(entry: Entry, out: Path) -> bool:
    return bool(entry.files) and all(os.path.lexists(out / name) for name in entry.files)
