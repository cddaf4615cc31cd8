"""Worker processes on this computer: started, replaced when they die, ended with their parent, however that ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from medsr import stopping
from medsr.errors import ConfigError, DeviceError, InputError, JobError, MedsrError, ModelError, PlanError
from medsr.machine import cores
from medsr.service.jobs import Counts, JobStore

PATIENCE_S = 90.0  # for which workers may finish what they are writing before they are killed
_TICK_S = 0.1
_REAP_S = 5.0
_IDLE_DEATHS = 3  # in a row, of workers that had no job: then nothing will come of starting more
_BY_CODE: Mapping[int, type[MedsrError]] = {
    kind.exit_code: kind for kind in (ConfigError, InputError, PlanError, ModelError, DeviceError, JobError)
}

Tell = Callable[[Counts], None]


@dataclass(frozen=True)
class Orders:
    """How many workers there are and how they work.

    name: how the names of workers and logs begin. threads: of each; None: the cores, shared out evenly. retries: how
    often a scan that failed is tried again. fail_fast: end at the first scan that failed. log_names: name scans in
    logs. verbose: tracebacks in logs.
    """

    out: Path
    logs: Path
    name: str = "batch"
    workers: int = 1
    threads: int | None = None
    retries: int = 0
    fail_fast: bool = False
    log_names: bool = False
    verbose: bool = False


def run_crew(store: JobStore, orders: Orders, tell: Tell | None = None) -> Counts:
    """Work in processes until no job is queued or running, or with ``fail_fast`` one more than before has failed.

    tell: is called now and then. Returns how the jobs stand. Whatever ends it, Ctrl-C included, ends the workers
    first: they finish what they are writing and give back the rest. Raises what a worker could not go on for, such as
    DeviceError for a device that is absent, and JobError when the store cannot be used or workers die at once.
    """
    return work_off(store, _Processes(store, orders), tell, fail_fast=orders.fail_fast)


class Crew(Protocol):
    """Workers, wherever they are."""

    def look(self) -> None:
        """See who has ended, and how. Raises what ended a worker that was no scan's fault."""

    def fill(self, counts: Counts) -> None:
        """As many workers as there is work for."""

    def end(self) -> None:
        """Tell all to end, wait for it, and give back what they had; an interruption meanwhile is raised after it."""


def work_off(store: JobStore, crew: Crew, tell: Tell | None = None, *, fail_fast: bool) -> Counts:
    """Keep a crew at work until no job is queued or running; the rest is as ``run_crew`` says."""
    counts = store.counts()
    failed_before = counts.failed + counts.parked
    reaped = time.monotonic()
    try:
        while counts.unfinished:
            crew.look()
            if time.monotonic() - reaped > _REAP_S:
                store.reap(time.time())
                reaped = time.monotonic()
            counts = store.counts()
            if tell is not None:
                tell(counts)
            if fail_fast and counts.failed + counts.parked > failed_before:
                break
            crew.fill(counts)
            time.sleep(_TICK_S)
    finally:
        crew.end()
    return store.counts()


class Deaths:
    """Of workers that died without a word, or of a fault of ours."""

    def __init__(self, store: JobStore) -> None:
        self._store, self._idle = store, 0

    def note(self, worker: str, how: str) -> None:
        """What it had goes back to the queue, or is parked. Raises JobError when one after another had nothing."""
        if self._store.lost(worker, time.time()):
            self._idle = 0
            return
        self._idle += 1
        if self._idle >= _IDLE_DEATHS:
            raise JobError(f"workers end at once, {how}")


@dataclass(frozen=True, eq=False)
class _Worker:
    name: str
    seat: int
    process: subprocess.Popen[bytes]
    log: Path


class _Processes:
    """The processes. A seat is a place for one of them: it keeps its log and its device."""

    def __init__(self, store: JobStore, orders: Orders) -> None:
        self._store, self._orders = store, orders
        self._seats: dict[int, _Worker] = {}
        self._started = 0
        self._deaths = Deaths(store)

    def look(self) -> None:
        """See who has ended, and how. Raises what ended a worker that was no scan's fault."""
        for worker in list(self._seats.values()):
            code = worker.process.poll()
            if code is None:
                continue
            self._leave(worker)
            if code in _BY_CODE and code != 0:
                _raise(code, worker.log)
            if code != 0:
                how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
                self._deaths.note(worker.name, f"{how}; see {worker.log}")

    def fill(self, counts: Counts) -> None:
        """As many workers as there is work for."""
        wanted = min(self._orders.workers, len(self._seats) + counts.queued)
        for seat in range(self._orders.workers):
            if len(self._seats) < wanted and seat not in self._seats:
                self._seats[seat] = self._start(seat)

    def end(self) -> None:
        """Tell all to end and wait for it; whoever takes too long is killed."""
        for worker in self._seats.values():
            worker.process.terminate()
        patient_until = time.monotonic() + PATIENCE_S
        with stopping.uninterrupted():  # the signal that ends us comes again and again; they are ending already
            while any(worker.process.poll() is None for worker in self._seats.values()):
                if time.monotonic() > patient_until:
                    for worker in self._seats.values():
                        worker.process.kill()
                time.sleep(_TICK_S)
            for worker in list(self._seats.values()):
                self._leave(worker)
                self._store.release(worker.name)

    def _start(self, seat: int) -> _Worker:
        orders = self._orders
        self._started += 1
        name = f"{orders.name}-{seat + 1}-{os.getpid()}-{self._started}"
        log = orders.logs / f"{orders.name}-worker-{seat + 1}.jsonl"
        threads = orders.threads or max(1, cores() // orders.workers)
        arguments = [str(self._store.path), str(orders.out), "--worker", name, "--threads", str(threads)]
        arguments += ["--retries", str(orders.retries), "--parent"]
        arguments += ["--log-names"] * orders.log_names + ["--verbose"] * orders.verbose
        with _appending(log) as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "medsr.service.worker", *arguments],
                stdin=subprocess.PIPE,  # nothing is written: its end tells the worker that we are gone
                stdout=stream,
                stderr=stream,
                env=_environment(seat, threads),
                start_new_session=True,  # Ctrl-C on a terminal is for us alone: we end them in order
            )
        return _Worker(name, seat, process, log)

    def _leave(self, worker: _Worker) -> None:
        del self._seats[worker.seat]
        if worker.process.stdin is not None:
            worker.process.stdin.close()


def _environment(seat: int, threads: int) -> dict[str, str]:
    """For a worker: its number of threads, and where CUDA_VISIBLE_DEVICES names several devices, one of them."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    devices = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[seat % len(devices)].strip()
    return environment


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("ab")
    except OSError as error:
        raise JobError(f"cannot write {path}: {error.strerror}") from error
    with stream:
        yield stream


def _raise(code: int, log: Path) -> NoReturn:
    """The error that a worker ended with, in its own words."""
    said = f"a worker ended with exit code {code}; see {log}"
    with contextlib.suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]:
            if line.startswith("medsr: error: "):
                said = line.removeprefix("medsr: error: ")
    raise _BY_CODE[code](said)
