"""Nodes of a Ray cluster on loopback, each a real raylet, that can be lost; and batches that run on them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.conftest import IN_CI


def needs_ray() -> pytest.MarkDecorator:
    """Skip where Ray is not installed; in CI that is a failure."""
    missing = importlib.util.find_spec("ray") is None
    if missing and IN_CI:
        raise RuntimeError("Ray is missing; it is in the extra [dev]")
    return pytest.mark.skipif(missing or sys.platform != "linux", reason="no Ray, or no Linux")


class Node:
    """``ray start`` and what it started. address: of the head node."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
            )
        until = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text(errors="replace"):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def raylet(self) -> psutil.Process:
        """The process whose end is the loss of the node."""
        return next(p for p in self._family() if p.name() == "raylet")

    def kill(self) -> None:
        """Lose the node: its raylet is killed, and its workers see to themselves."""
        self.raylet().kill()

    def end(self) -> None:
        """Kill all that is left of it."""
        for process in [*self._family(), psutil.Process(self._process.pid)] if self._process.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True)


class Cluster:
    """A head node with one CPU, and others that come and go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._nodes: list[Node] = []
        self.head = self._start("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")

    def add(self, *, hidden: Path | None = None) -> Node:
        """One more node with one CPU. hidden: a folder that is another one there, as on a disk of its own."""
        return self._start(f"--address={self.address}", hidden=hidden)

    def end(self) -> None:
        """All nodes, the last one first."""
        for node in reversed(self._nodes):
            node.end()

    def _start(self, *options: str, hidden: Path | None = None) -> Node:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", *options, "--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats", "--block"]
        if hidden is not None:
            mount = f'mount -t tmpfs tmpfs "{hidden}" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
        node = Node(command, self._folder / f"node-{len(self._nodes)}.log")
        self._nodes.append(node)
        return node


@contextlib.contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """A cluster of one node, in a folder with a name short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="medsr-ray-"))
    cluster: Cluster | None = None
    try:
        cluster = Cluster(folder)
        yield cluster
    finally:
        if cluster is not None:
            cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


def start_batch(
    cohort: Path, out: Path, model: Path, cluster: Cluster, environment: dict[str, str], workers: int = 0
) -> subprocess.Popen[str]:
    """A batch in a process of its own. workers: 0 leaves it to the cluster."""
    command = [sys.executable, "-m", "medsr", "batch", str(cohort), "--out", str(out), "--model", str(model)]
    command += ["--engine", "ray", "--address", cluster.address, "--threads", "1", "--quiet"]
    command += ["--workers", str(workers)] if workers else []
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
