"""How a worker goes through scans: the network runs over one while threads read the next and write the last.

At most three scans are in memory. What is a scan's fault fails its job; what is not ends the worker.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from medsr.errors import DeviceError, JobError, MedsrError
from medsr.image.files import display_name
from medsr.machine import available_memory
from medsr.publish import Processed, publish
from medsr.request import Request
from medsr.run import Prepared, load_for, prepare, process
from medsr.service.jobs import Job
from medsr.service.log import EventLog
from medsr.service.outcome import Outcome, outcome_of
from medsr.service.records import Desk as Desk
from medsr.service.tasks import Task
from medsr.service.unchanged import Origin, origin_of

if TYPE_CHECKING:
    from medsr.diffusion.model import Model

LEASE_S = 60.0  # after which a job is taken from a worker that does not renew it
RENEWALS = 4  # in the time of a lease
BUG = 1  # exit code of what should not happen
# Python's own 5 ms: so long would the network wait, after each of its operations, for a thread that reads or writes.
SWITCH_S = 0.0001

T = TypeVar("T")


@dataclass(frozen=True)
class Rules:
    """How a worker works.

    name: unlike that of any other process. threads: for scans whose request names none. retries: how often a scan
    that failed is tried again. lease_s: seconds. tracebacks: whether the log has them; they may name files.
    """

    name: str
    threads: int | None = None
    retries: int = 0
    lease_s: float = LEASE_S
    tracebacks: bool = False


@dataclass(frozen=True, eq=False)
class _Ready:
    """A scan that is read, and the files that it came from."""

    scan: Prepared
    origin: Origin


@dataclass(frozen=True, eq=False)
class _Coming:
    """A job that is being read."""

    job: Job
    reading: Future[_Ready]


@dataclass(frozen=True, eq=False)
class _Made:
    """What waits to be written. network: when the network began and ended, seconds since 1970."""

    job: Job
    origin: Origin
    done: Processed
    network: tuple[float, float]


class _Stopped(Exception):  # noqa: N818  no error
    """The worker was told to stop while the network ran."""


class Pipeline:
    """A context manager; on leaving it, what is being written is finished and every other job given back."""

    def __init__(self, store: Desk, out: Path, rules: Rules, log: EventLog, stop: threading.Event) -> None:
        """out: the folder that the outputs of tasks are relative to. stop: set from outside to end early."""
        self._store, self._out, self._rules, self._log, self._stop = store, out, rules, log, stop
        self._reader, self._writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
        self._writing: Future[None] | None = None
        self._model: tuple[object, Model] | None = None
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart_fault: MedsrError | None = None
        self._switch_s = sys.getswitchinterval()

    def __enter__(self) -> Self:
        sys.setswitchinterval(SWITCH_S)
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()
        self._ended.set()
        self._heart.join()
        sys.setswitchinterval(self._switch_s)
        try:
            given_back = self._store.release(self._rules.name)
        except JobError:
            if kind is None:
                raise
            return  # what is on its way already says more
        self._say("ended", facts={"given_back": given_back})

    def run(self) -> None:
        """Until no job is queued. Raises DeviceError or JobError as ``run_worker`` says."""
        coming = self._take()
        while coming is not None and not self._stop.is_set():
            current, coming = coming, None
            ready = self._read(current)
            if ready is not None and self._may_read_ahead(current.job, ready):
                coming = self._take(ahead=True)
            made = None if ready is None else self._network(current, ready)
            del ready, current  # the scan's memory is the next one's now
            self._wait_for_writer()
            if made is not None:
                self._writing = self._writer.submit(self._publish, made)
            del made
            coming = coming or self._take()
        self._wait_for_writer()
        if self._heart_fault is not None:
            raise self._heart_fault

    # --- taking

    def _take(self, *, ahead: bool = False) -> _Coming | None:
        """The next job, with its reading begun; None when there is none left, or none to be had ahead."""
        job = self._claim(ahead=ahead)
        if job is None and not ahead and self._writing is not None:
            self._wait_for_writer()  # what is being written may fail, and be queued again
            job = self._claim(ahead=False)
        if job is None:
            return None
        if job.crashes:
            self._wait_for_writer()  # this one was there when a worker died: now it is alone in its worker
        return _Coming(job, self._reader.submit(self._prepare, job))

    def _claim(self, *, ahead: bool) -> Job | None:
        if self._stop.is_set():
            return None
        job = self._store.claim(self._rules.name, time.time(), self._rules.lease_s, ahead=ahead)
        if job is not None:
            self._say("claimed", job, facts={"attempt": job.attempts})
        return job

    def _may_read_ahead(self, job: Job, ready: _Ready) -> bool:
        free = available_memory()
        # The scans of a cohort are mostly alike: the next one is taken to need what this one is about to need.
        return not job.crashes and (free is None or free > 2 * ready.scan.plan.memory_bytes)

    # --- the three stages

    def _read(self, coming: _Coming) -> _Ready | None:
        """The scan; None, and the job failed, when it cannot be read."""
        if coming.reading.exception() is None:
            return coming.reading.result()
        self._wait_for_writer()  # memory may have been short because of the scans before: once more, alone
        return self._tried(coming.job, lambda: self._prepare(coming.job))

    def _prepare(self, job: Job) -> _Ready:
        task = Task.from_json(job.task)
        output = self._out / task.output
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(f"cannot make the folder {display_name(output.parent)}: {error.strerror}") from error
        request = replace(task.request, threads=task.request.threads or self._rules.threads)
        scan = prepare(task.path, output, request, overwrite=True)
        return _Ready(scan, origin_of(task, scan))

    def _network(self, coming: _Coming, ready: _Ready) -> _Made | None:
        """What the network makes; None when the job failed, or the worker is to stop."""
        job = coming.job
        try:
            model = self._model_for(ready.scan.plan.request)
        except DeviceError:
            raise  # of no use for any scan
        except MedsrError as error:
            self._fail(job, error)
            return None
        self._say("network", job)
        began = time.time()
        try:
            done = process(ready.scan, model, self._stop_here)
        except _Stopped:
            return None
        except Exception as error:
            if isinstance(error, DeviceError):
                self._model = None  # the scan was too large, or the device is lost: loading it again will tell
            self._fail(job, error)
            return None
        return _Made(job, ready.origin, done, (began, time.time()))

    def _publish(self, made: _Made) -> None:
        """Write, then record it. A process that dies in between leaves files that the next attempt replaces."""
        rules = self._rules
        if made.job.id not in self._store.heartbeat(rules.name, time.time(), rules.lease_s):
            self._say("lost", made.job)  # another has it by now
            return

        def written() -> Outcome:
            made.origin.check()
            upscaled = publish(made.done, overwrite=True, notes=Task.from_json(made.job.task).notes)
            self._say("published", made.job)
            return outcome_of(upscaled, self._out, rules.name, made.network)

        outcome = self._tried(made.job, written)
        if outcome is None:
            return
        if self._store.finish(made.job, outcome.to_json(), time.time()):
            self._say("done", made.job, facts={"seconds": outcome.seconds})
        else:
            self._say("lost", made.job)

    # --- what they share

    def _wait_for_writer(self) -> None:
        """Raises JobError when what was written could not be recorded."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _model_for(self, request: Request) -> Model:
        """The model of a request, loaded unless the scan before had the same. Raises ModelError, DeviceError."""
        wanted = (request.model, request.device, request.threads)
        if self._model is None or self._model[0] != wanted:
            self._model = None  # its memory first
            try:
                self._model = wanted, load_for(request)
            except MedsrError:
                raise
            except Exception as error:
                line = " ".join(str(error).splitlines()[:1])
                raise DeviceError(f"the model cannot be put on the device {request.device}: {line}") from error
        return self._model[1]

    def _stop_here(self, stage: str, share: float) -> None:  # noqa: ARG002  a Progress
        if self._stop.is_set():
            raise _Stopped

    def _beat(self) -> None:
        while not self._ended.wait(self._rules.lease_s / RENEWALS):
            try:
                self._store.heartbeat(self._rules.name, time.time(), self._rules.lease_s)
            except JobError as error:
                self._heart_fault = error
                self._stop.set()
                return

    def _tried(self, job: Job, stage: Callable[[], T]) -> T | None:
        """What a stage gives; None, and the job failed, when it raises."""
        try:
            return stage()
        except Exception as error:
            self._fail(job, error)
            return None

    def _fail(self, job: Job, error: Exception) -> None:
        code, text = _in_words(error)
        retry = job.attempts - job.crashes <= self._rules.retries
        self._store.fail(job, text, code, time.time(), retry=retry)
        facts: dict[str, Any] = {"exit_code": code, "kind": type(error).__name__, "again": retry}
        if self._rules.tracebacks:
            facts["traceback"] = "".join(traceback.format_exception(error))
        self._say("failed", job, error=text, facts=facts)

    def _say(self, event: str, job: Job | None = None, *, error: str = "", facts: dict[str, Any] | None = None) -> None:
        self._log.write(event, time.time(), scan=job.name if job else "", error=error, facts=facts)


def _in_words(error: Exception) -> tuple[int, str]:
    """Exit code and line of a failure."""
    if isinstance(error, MedsrError):
        return error.exit_code, " ".join(str(error).splitlines())
    if isinstance(error, MemoryError):
        return DeviceError.exit_code, "out of memory; run fewer workers, ask for a smaller --scale or crop the scan"
    text = " ".join(f"{type(error).__name__}: {error}".splitlines())
    return BUG, f"unexpected {text}; this is a bug of medsr, please report it with the traceback that -v logs"
