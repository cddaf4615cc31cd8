"""What runs in the processes of a Ray cluster: workers wherever there is room, and the desk where the list of jobs is.

Nothing here imports Ray before it is called: these classes become actors in medsr.service.cluster.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsr import __version__
from medsr.errors import JobError, PlanError
from medsr.service.jobs import Job, JobStore
from medsr.service.log import EventLog
from medsr.service.pipeline import Rules
from medsr.service.worker import run_worker

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

SEEN_S = 10.0  # after which a file that another node wrote is taken to be invisible here; NFS is late by seconds


@dataclass(frozen=True)
class Site:
    """What a node must have. token: a file among the outputs and what is in it. scan: one of those to be read."""

    version: str
    token: Path
    text: str
    scan: Path | None


class ContactError(JobError):
    """The process or the node on the other side is gone, or cannot be reached."""


class StoreDesk:
    """The list of jobs, for workers that cannot open its file: an actor on the node of the batch.

    Times are those of this node: the clocks of the others may differ by more than a lease.
    """

    def __init__(self, store: Path) -> None:
        self._store = JobStore(store)

    def claim(self, worker: str, lease_s: float, ahead: bool) -> Job | None:
        """As ``JobStore.claim``."""
        return self._store.claim(worker, time.time(), lease_s, ahead=ahead)

    def heartbeat(self, worker: str, lease_s: float) -> frozenset[int]:
        """As ``JobStore.heartbeat``."""
        return self._store.heartbeat(worker, time.time(), lease_s)

    def finish(self, job: Job, outcome: Mapping[str, Any]) -> bool:
        """As ``JobStore.finish``."""
        return self._store.finish(job, outcome, time.time())

    def fail(self, job: Job, error: str, exit_code: int, retry: bool) -> bool:
        """As ``JobStore.fail``."""
        return self._store.fail(job, error, exit_code, time.time(), retry=retry)

    def release(self, worker: str) -> int:
        """As ``JobStore.release``."""
        return self._store.release(worker)


class FarDesk:
    """A worker's way to the ``StoreDesk``; raises JobError, and ContactError when that is gone."""

    def __init__(self, desk: ActorHandle[StoreDesk]) -> None:
        self._desk = desk

    def claim(self, worker: str, now: float, lease_s: float, *, ahead: bool = False) -> Job | None:  # noqa: ARG002
        """As ``JobStore.claim``, by the desk's clock."""
        job: Job | None = answer(self._desk.claim.remote(worker, lease_s, ahead))
        return job

    def heartbeat(self, worker: str, now: float, lease_s: float) -> frozenset[int]:  # noqa: ARG002
        """As ``JobStore.heartbeat``, by the desk's clock."""
        held: frozenset[int] = answer(self._desk.heartbeat.remote(worker, lease_s))
        return held

    def finish(self, job: Job, outcome: Mapping[str, Any], now: float) -> bool:  # noqa: ARG002
        """As ``JobStore.finish``, by the desk's clock."""
        return bool(answer(self._desk.finish.remote(job, outcome)))

    def fail(self, job: Job, error: str, exit_code: int, now: float, *, retry: bool = False) -> bool:  # noqa: ARG002
        """As ``JobStore.fail``, by the desk's clock."""
        return bool(answer(self._desk.fail.remote(job, error, exit_code, retry)))

    def release(self, worker: str) -> int:
        """As ``JobStore.release``."""
        return int(answer(self._desk.release.remote(worker)))


class RemoteWorker:
    """A worker on some node. Its three methods may be called at the same time."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        # As in medsr.service.worker; torch is imported later, when the first model is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def check(self, site: Site) -> None:
        """As ``check_node``: this one may have joined since all were asked."""
        check_node(site)

    def run(self, desk: ActorHandle[StoreDesk], out: Path, rules: Rules, log: Path, *, log_names: bool) -> None:
        """As ``run_worker``. log: file to add to."""
        try:
            stream = log.open("a", encoding="utf-8")
        except OSError as error:
            raise JobError(f"cannot write {log}: {error.strerror}") from error
        with stream:
            run_worker(FarDesk(desk), out, rules, EventLog(stream, rules.name, names=log_names), self._stop)

    def stop(self) -> None:
        """``run`` is to end: what is being written is finished, the rest given back."""
        self._stop.set()


def check_node(site: Site) -> None:
    """Raises PlanError when this node cannot work for the batch."""
    import ray

    node = ray.util.get_node_ip_address()
    if __version__ != site.version:
        raise PlanError(f"node {node} has medsr {__version__}, the batch {site.version}; install one on all nodes")
    until = time.monotonic() + SEEN_S
    while _text(site.token) != site.text:
        if time.monotonic() > until:
            raise PlanError(
                f"node {node} does not see {site.token.parent}; --out must be on a file system that all nodes see, "
                "under the same path"
            )
        time.sleep(0.2)
    if site.scan is not None and not site.scan.exists():
        raise PlanError(
            f"node {node} does not see the scans (such as {site.scan}); they must be on a file system that all nodes "
            "see, under the same path"
        )


def answer(call: ObjectRef[Any]) -> Any:
    """What a call of an actor gives. Raises what it raised, and ContactError when the actor is gone."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise
    except RayError as error:
        raise ContactError(" ".join(f"{type(error).__name__}: {error}".split())[:300]) from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None
