"""A batch on a Ray cluster: the list of jobs stays with the batch, the workers are wherever the cluster has room.

Ray carries jobs and reports; scans and results go through a file system that every node sees. What an actor does is in
medsr.service.actors.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsr import __version__, stopping
from medsr.errors import DeviceError, JobError, MedsrError, PlanError
from medsr.service.actors import ContactError, RemoteWorker, Site, StoreDesk, answer, check_node
from medsr.service.crew import PATIENCE_S, Deaths, Orders, Tell, work_off
from medsr.service.jobs import Counts, JobStore
from medsr.service.pipeline import Rules
from medsr.service.shares import shared_out

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ANSWER_S = 10.0  # for which a node is waited for that should only say a word
CHECK_S = 60.0  # for which a node is waited for before the first scan
ROOM_S = 600.0  # for which the cluster may have no room for any worker at all
_OLD_PORT = "6379"  # of a head node that was given none


def cluster_work(address: str | None, workers: int | None = None) -> Callable[[JobStore, Orders, Tell], Counts]:
    """How the jobs of a batch get done on a Ray cluster, for ``run_batch``; as ``run_crew`` in all else.

    address: of the head node, as ``ray start`` printed it (``10.0.0.1:6379``); None: RAY_ADDRESS, or the cluster of
    this computer. workers: None stands for one a GPU, or without GPUs one a node. A worker whose node is lost is
    begun anew on what is left. Raises PlanError at once when Ray is not installed or nobody answers at the address;
    later when a node lacks this medsr, the outputs or the scans, or the cluster has no room for a worker.
    """
    if importlib.util.find_spec("ray") is None:
        raise PlanError("--engine ray needs Ray; install it on every node with: pip install 'medsr[cluster]'")
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _knock(address)
    return partial(_run, address, workers)


def _run(address: str | None, workers: int | None, store: JobStore, orders: Orders, tell: Tell) -> Counts:
    with _talk(orders.logs / f"{orders.name}-ray.log"), _connected(address):
        return work_off(store, _Actors(store, orders, workers), tell, fail_fast=orders.fail_fast)


# --- the cluster -----------------------------------------------------------------------------------------------------


def _knock(address: str) -> None:
    """Raises PlanError where nobody answers, or somebody who is not Ray: Ray itself would try for many minutes."""
    if address in ("auto", "local"):
        raise PlanError(
            f"--address {address}: name the head node (host:port), or none for the cluster of this computer"
        )
    if "://" in address:
        raise PlanError(f"--address {address}: give the head node as host:port, and run the batch on a node of it")
    host, _, port = address.rpartition(":") if ":" in address else (address, "", _OLD_PORT)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as line:
            if os.environ.get("RAY_USE_TLS", "0") == "0" and not _speaks_grpc(line):
                raise PlanError(
                    f"what answers at {address} is no Ray cluster; give the address that ray start --head printed"
                )
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlanError(
            f"no Ray cluster answers at {address} ({reason}); start one with: ray start --head --port 6379"
        ) from error


def _speaks_grpc(line: socket.socket) -> bool:
    """True when the other side speaks HTTP/2, as Ray's head does: the first frame of both sides is SETTINGS, type 4
    (RFC 9113, 3.4 and 4.1).
    """
    until = time.monotonic() + ANSWER_S
    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    frame = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while len(frame) < 9 and time.monotonic() < until and (more := line.recv(9 - len(frame))):
            frame += more
    return len(frame) == 9 and frame[3] == 4


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """As a driver of the cluster. Raises PlanError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported: it is not to call home
    import ray

    main = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        what = f"the Ray cluster at {address}" if address else "a Ray cluster on this computer"
        raise PlanError(f"cannot join {what}: {reason}") from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own there, which ends without cleaning up
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _talk(path: Path) -> Iterator[None]:
    """Whatever Ray has to say, such as the last words of a lost node, which it prints among the results of a command.

    path: file to add it to. Raises JobError.
    """
    try:
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise JobError(f"cannot write {path}: {error.strerror}") from error
    with stream, contextlib.redirect_stdout(stream):
        yield


def _alive(*, with_gpus: bool) -> dict[str, tuple[int, int]]:
    """CPUs and GPUs by the id of a node."""
    import ray

    has = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return {node: (int(r.get("CPU", 0)), int(r.get("GPU", 0)) if with_gpus else 0) for node, r in has.items()}


def _check_all(nodes: Iterable[str], site: Site) -> None:
    """Raises PlanError when a node is not fit; one that does not answer has no workers to lose."""
    import ray

    check = ray.remote(check_node)
    calls = [check.options(num_cpus=0, scheduling_strategy=_on(node)).remote(site) for node in nodes]
    for call in ray.wait(calls, num_returns=len(calls), timeout=CHECK_S)[0]:
        with contextlib.suppress(ContactError):
            answer(call)


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


# --- the crew --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    """call: the answer that is waited for, of ``check`` until the node is known to be fit (begun), then of ``run``."""

    name: str
    seat: int
    actor: ActorHandle[RemoteWorker]
    call: ObjectRef[None]
    begun: bool = False


class _Actors:
    """The workers of a batch as actors; a ``Crew``."""

    def __init__(self, store: JobStore, orders: Orders, workers: int | None) -> None:
        import ray

        self._store, self._orders, self._deaths = store, orders, Deaths(store)
        queued = next(store.jobs(["queued"]), None)
        self._site = _site(store, None if queued is None else Path(queued.task["path"]))
        on_gpus = any(job.task["request"]["device"] != "cpu" for job in store.jobs(["queued"]))
        nodes = _alive(with_gpus=on_gpus)
        self._share = shared_out(list(nodes.values()), workers, orders.threads)
        _check_all((node for node, (cpus, _) in nodes.items() if cpus), self._site)
        here = _on(ray.get_runtime_context().get_node_id())
        self._desk = ray.remote(StoreDesk).options(num_cpus=0, scheduling_strategy=here).remote(store.path.absolute())
        self._hire = ray.remote(RemoteWorker).options(
            num_cpus=self._share.cpus,
            num_gpus=self._share.gpus,
            max_concurrency=3,
            scheduling_strategy="SPREAD",  # the loss of a node is then the loss of few workers
        )
        self._seats: dict[int, _Worker] = {}
        self._unfit: set[int] = set()
        self._started = 0
        self._room_at = time.monotonic()

    def look(self) -> None:
        """See who is ready, who has ended, and how. Raises what ended a worker that was no scan's fault."""
        import ray

        calls = {worker.call: worker for worker in self._seats.values()}
        ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0) if calls else ([], [])
        for call in ended:
            self._heard(calls[call])
        if not self._seats or any(worker.begun for worker in self._seats.values()):
            self._room_at = time.monotonic()
        elif time.monotonic() - self._room_at > ROOM_S:
            raise PlanError(
                f"the cluster has had no room for a worker ({self._share.cpus} CPUs, {self._share.gpus} GPUs) for "
                f"{ROOM_S / 60:g} minutes; wait for its other work to end, or add nodes. The same command goes on"
            )

    def fill(self, counts: Counts) -> None:
        """As many workers as there is work for."""
        wanted = min(self._share.workers - len(self._unfit), len(self._seats) + counts.queued)
        for seat in range(self._share.workers):
            if len(self._seats) < wanted and seat not in self._seats and seat not in self._unfit:
                self._seats[seat] = self._start(seat)

    def end(self) -> None:
        """Tell all to end and wait for it; whoever is not there or takes too long is killed."""
        with stopping.uninterrupted():  # the signal that ends us comes again and again; they are ending already
            heard = {worker.actor.stop.remote(): worker for worker in self._seats.values() if worker.begun}
            ended = _wait(list(heard), ANSWER_S)
            _wait([heard[call].call for call in ended], PATIENCE_S)
            for worker in list(self._seats.values()):
                self._leave(worker)
                self._store.release(worker.name)

    def _start(self, seat: int) -> _Worker:
        self._started += 1
        name = f"{self._orders.name}-{seat + 1}-{os.getpid()}-{self._started}"
        actor = self._hire.remote()
        return _Worker(name, seat, actor, actor.check.remote(self._site))

    def _heard(self, worker: _Worker) -> None:
        """A worker's node is fit, or its work has ended."""
        try:
            answer(worker.call)
        except DeviceError:
            self._leave(worker)
            self._unfit.add(worker.seat)  # there may be better devices elsewhere
            if len(self._unfit) == self._share.workers:
                raise
        except ContactError as error:
            self._leave(worker)
            self._deaths.note(worker.name, f"on a node of the cluster: {error}")
        except MedsrError:
            self._leave(worker)
            raise
        except Exception as error:
            self._leave(worker)
            self._deaths.note(worker.name, f"of a bug ({type(error).__name__}: {error})")
        else:
            if worker.begun:
                self._leave(worker)
            else:
                self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        orders = self._orders
        rules = Rules(worker.name, threads=self._share.cpus, retries=orders.retries, tracebacks=orders.verbose)
        log = orders.logs.absolute() / f"{orders.name}-worker-{worker.seat + 1}.jsonl"
        run = worker.actor.run.remote(self._desk, orders.out.absolute(), rules, log, log_names=orders.log_names)
        worker.call, worker.begun = run, True

    def _leave(self, worker: _Worker) -> None:
        """Kill it, if it is not dead: a node that is out of reach may still be at work."""
        import ray

        del self._seats[worker.seat]
        ray.kill(worker.actor)


def _site(store: JobStore, scan: Path | None) -> Site:
    """What every node must have, and a file by which it can tell."""
    token = store.path.absolute().with_suffix(".nodes")
    text = secrets.token_hex(16)
    try:
        token.write_text(text, encoding="ascii")
    except OSError as error:
        raise JobError(f"cannot write {token}: {error.strerror}") from error
    return Site(__version__, token, text, scan)


def _wait(calls: Sequence[ObjectRef[Any]], seconds: float) -> list[ObjectRef[Any]]:
    """The calls that have ended after at most so long."""
    import ray

    return ray.wait(list(calls), num_returns=len(calls), timeout=seconds)[0] if calls else []
