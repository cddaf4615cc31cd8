"""``medsr batch``: a cohort found, planned, worked through and recorded; the same command again goes on."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsr import __version__, stopping
from medsr.card import read_card
from medsr.errors import ConfigError, MedsrError, PlanError
from medsr.request import Request, check_request
from medsr.service import bids
from medsr.service.crew import Orders, run_crew
from medsr.service.enrol import Enrolled, enrol
from medsr.service.inputs import check_inputs, find_items, without_collisions
from medsr.service.items import Found, LeftOut
from medsr.service.jobs import Counts, Entry, JobStore
from medsr.service.log import EventLog
from medsr.service.manifest import write_manifest
from medsr.service.place import Place, Shard
from medsr.service.planning import Outcomes, plan_each
from medsr.service.preview import Preview, preview_of
from medsr.service.room import check_room
from medsr.service.summary import write_summary

Progress = Callable[[str, float], None]  # what is being done, share of all that is done
Work = Callable[[JobStore, Orders, Callable[[Counts], None]], Counts]


@dataclass(frozen=True)
class BatchRequest:
    """What is asked of a batch beside the request for each scan.

    out: folder of the outputs. workers: processes on this computer. shard: the part of the cohort to do. bids: input
    and output are BIDS datasets. retries: how often a scan that failed is tried again. fail_fast: end at the first
    failure. log_names: scans are named in logs. verbose: tracebacks in logs.
    """

    out: Path
    workers: int = 1
    shard: Shard | None = None
    bids: bool = False
    retries: int = 0
    fail_fast: bool = False
    overwrite: bool = False
    log_names: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class Trouble:
    """A scan without a result."""

    name: str
    reason: str
    exit_code: int


@dataclass(frozen=True)
class Ended:
    """How the scans of one command stand. before: how many of those done were done before. waiting: not begun."""

    done: int
    before: int
    left_out: int
    waiting: int
    trouble: tuple[Trouble, ...]


def plan_batch(
    inputs: Sequence[Path], request: Request, batch: BatchRequest, progress: Progress | None = None
) -> Preview:
    """What would be done, and what not; writes nothing.

    Raises ConfigError, ModelError, JobError for a list of jobs that cannot be read, and PlanError as ``run_batch``.
    """
    report = progress or _silent
    _check(inputs, request, batch)
    place = Place(batch.out, batch.shard)
    found = _found(inputs, request, batch, report)
    return preview_of(_planned(found, request, report, hashed=False), place, overwrite=batch.overwrite)


def run_batch(
    inputs: Sequence[Path],
    request: Request,
    batch: BatchRequest,
    progress: Progress | None = None,
    *,
    work: Work = run_crew,
) -> Ended:
    """Upscale every scan that the inputs lead to, into ``batch.out``; one bad scan fails one row.

    work: how queued jobs get done; processes on this computer unless something else is given. What is done when it
    ends, however it ends, is done and in the manifest, and the same command goes on. Raises PlanError when another
    batch writes into the folder, when the disk cannot hold the results, or when there is nothing to do (for a part of a
    cohort that is no error), ConfigError and ModelError as ``plan_batch``, JobError and DeviceError when the work
    cannot go on.
    """
    report = progress or _silent
    _check(inputs, request, batch)
    place = Place(batch.out, batch.shard)
    place.make()
    with place.alone():
        found = _found(inputs, request, batch, report)
        if batch.bids:
            bids.write_description(batch.out, inputs[0], __version__)
        with JobStore(place.store, create=True) as store, place.log() as stream:
            log = EventLog(stream, place.name, names=batch.log_names)
            try:
                with contextlib.closing(_planned(found, request, report, hashed=True)) as outcomes:
                    enrolled = enrol(store, outcomes, batch.out, overwrite=batch.overwrite, now=time.time())
                _log_plan(log, enrolled)
                if not (batch.fail_fast and _failed_already(store, enrolled)):
                    check_room(enrolled.room, batch.out)
                    work(store, _orders(place, request, batch), _telling(report, store.counts()))
                report("writing the manifest", 1.0)
                write_manifest(place, store)
                write_summary(place, store)
            except BaseException:
                _record(place, store)
                raise
            finally:
                with stopping.uninterrupted():
                    log.write("ended", time.time(), facts=vars(store.counts()))
            ended = _ended(store, enrolled)
    if not enrolled.planned and batch.shard is None and _is_no_fault(enrolled.left_out):
        raise PlanError(f"there is nothing to do: {_why_nothing(enrolled.left_out)}")
    return ended


# --- before --------------------------------------------------------------------------------------------------------


def _check(inputs: Sequence[Path], request: Request, batch: BatchRequest) -> None:
    check_inputs(inputs)
    if request.target is not None:
        raise ConfigError("a batch takes no target grid: scans of a cohort have grids of their own")
    if batch.out.exists() and not batch.out.is_dir():
        raise PlanError(f"--out {batch.out} is a file; name a folder")
    check_request(request, read_card(request.model))  # what no scan could be done with is not said of every scan
    if batch.bids:
        bids.check_derivative(batch.out)


def _found(inputs: Sequence[Path], request: Request, batch: BatchRequest, report: Progress) -> Found:
    report("looking for scans", 0.0)
    found = without_collisions(bids.find_dataset(inputs)) if batch.bids else find_items(inputs, request, out=batch.out)
    if batch.shard is None:
        return found
    return Found(
        tuple(item for item in found.items if batch.shard.holds(item.name)),
        tuple(row for row in found.left_out if batch.shard.holds(row.name)),
    )


def _planned(found: Found, request: Request, report: Progress, *, hashed: bool) -> Outcomes:
    total = max(1, len(found.items))
    return plan_each(found, request, hashed=hashed, tell=lambda count: report("planning", count / total))


def _orders(place: Place, request: Request, batch: BatchRequest) -> Orders:
    return Orders(
        out=place.out,
        logs=place.logs,
        name=place.name,
        workers=batch.workers,
        threads=request.threads,
        retries=batch.retries,
        fail_fast=batch.fail_fast,
        log_names=batch.log_names,
        verbose=batch.verbose,
    )


def _log_plan(log: EventLog, enrolled: Enrolled) -> None:
    facts = {"scans": enrolled.planned, "done_before": enrolled.whole, "again": enrolled.again}
    log.write("planned", time.time(), facts=facts)
    for row in enrolled.left_out:
        log.write("left out", time.time(), scan=row.name, error=row.reason, facts={"exit_code": row.exit_code})


def _failed_already(store: JobStore, enrolled: Enrolled) -> bool:
    """True when planning refused a scan: with ``--fail-fast`` nothing is begun then."""
    return any(entry.state in ("failed", "parked") for entry in _mine(store, enrolled))


def _telling(report: Progress, before: Counts) -> Callable[[Counts], None]:
    """Progress over the jobs that were not finished at the start."""
    todo = max(1, before.unfinished)

    def tell(counts: Counts) -> None:
        finished = todo - counts.unfinished
        bad = counts.failed + counts.parked - before.failed - before.parked
        failed = f", {bad} failed" if bad else ""
        report(f"{finished} of {todo} scans{failed}", min(1.0, finished / todo))

    return tell


def _silent(stage: str, share: float) -> None:
    """No progress is wanted."""


# --- after ---------------------------------------------------------------------------------------------------------


def _record(place: Place, store: JobStore) -> None:
    """Manifest and page of a batch that ends before its time; what ends it says more than what goes wrong here."""
    with stopping.uninterrupted(), contextlib.suppress(MedsrError, OSError):
        write_manifest(place, store)
        write_summary(place, store, pictures=False)


def _mine(store: JobStore, enrolled: Enrolled) -> Iterator[Entry]:
    return (entry for entry in store.entries() if entry.key in enrolled.keys)


def _ended(store: JobStore, enrolled: Enrolled) -> Ended:
    states: Counter[str] = Counter()
    trouble: list[Trouble] = []
    for entry in _mine(store, enrolled):
        states[entry.state] += 1
        if entry.state in ("failed", "parked"):
            trouble.append(Trouble(entry.name, entry.error or "", entry.exit_code or 1))
    return Ended(
        done=states["done"],
        before=enrolled.whole,
        left_out=states["skipped"],
        waiting=states["queued"] + states["running"],
        trouble=tuple(trouble),
    )


def _is_no_fault(left_out: Sequence[LeftOut]) -> bool:
    """True when nothing is wrong with a scan: there is none, or none that should be upscaled."""
    return all(row.exit_code in (0, PlanError.exit_code) for row in left_out)


def _why_nothing(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return "no scan among the inputs belongs to this part"
    first = left_out[0]
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return f"{first.name}: {first.reason}{more}"
