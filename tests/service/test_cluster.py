"""A batch on real Ray nodes, one of which is lost; and how a cluster is shared out."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.errors import PlanError
from medsr.service import cluster as cluster_module
from medsr.service.cluster import cluster_work
from medsr.service.jobs import JobStore
from medsr.service.place import Place
from medsr.service.shares import Share, shared_out
from tests.service.cohorts import make_cohort, make_scan, manifest, run_here, states
from tests.service.ray_nodes import Cluster, needs_ray, ray_cluster, start_batch
from tests.service.test_crew import equal_outputs, half_files, until
from tests.test_faults import mount_fault

SECONDS = 120  # after which a batch is given up
SLOW = (64, 64, 12)  # a scan that stays in the network long enough to be killed there
MEDIUM = (128, 128, 24)  # of which one worker cannot do several before another has begun
LARGE = (160, 160, 30)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster() as running:
        yield running


def events(out: Path, event: str) -> int:
    """How many workers have told of an event."""
    return sum(f'"{event}"' in log.read_text() for log in out.glob("logs/batch-worker-*.jsonl"))


# --- real nodes


@needs_ray()
def test_lost_node(cluster: Cluster, tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]) -> None:
    """The raylet of one of two nodes is killed while both have scans in the network."""
    for number in range(6):
        make_scan(tmp_path / f"in/{number}_T1w.nii.gz", number, MEDIUM)
    run_here(tmp_path / "in", tmp_path / "undisturbed", tiny_model)
    out = tmp_path / "out"
    node = cluster.add()
    batch = start_batch(tmp_path / "in", out, tiny_model, cluster, child_environment)
    until(lambda: events(out, "network") == 2 or batch.poll() is not None)
    node.kill()
    said, fault = batch.communicate(timeout=SECONDS)
    assert batch.returncode == 0, fault
    assert said == "", "what Ray says of the node belongs in its log"
    rows = manifest(out)
    assert sorted(row["name"] for row in rows) == [f"{number}_T1w.nii.gz" for number in range(6)]
    assert {row["state"] for row in rows} == {"done"}
    assert {row["crashes"] for row in rows} == {0, 1}, "nothing was lost with the node"
    assert len({row["worker"] for row in rows}) <= 3
    equal_outputs(tmp_path / "undisturbed", out)


@needs_ray()
def test_terminated_batch_gives_back_its_scans(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    make_scan(tmp_path / "in/large_T1w.nii.gz", shape=LARGE)
    out = tmp_path / "out"
    batch = start_batch(tmp_path / "in", out, tiny_model, cluster, child_environment, workers=1)
    until(lambda: events(out, "network") == 1 or batch.poll() is not None)
    batch.send_signal(signal.SIGTERM)
    _, fault = batch.communicate(timeout=SECONDS)
    assert batch.returncode == 143, fault
    assert half_files(out) == []
    with JobStore(Place(out).store) as store:
        (job,) = store.jobs()
    assert job.state in ("queued", "done")
    assert job.crashes == 0


@needs_ray()
def test_killed_batch_goes_on(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    """Ray ends the workers of a batch that is gone; the same command does what is left."""
    for number in range(4):
        make_scan(tmp_path / f"in/{number}_T1w.nii.gz", number, SLOW)
    run_here(tmp_path / "in", tmp_path / "undisturbed", tiny_model)
    out = tmp_path / "out"
    batch = start_batch(tmp_path / "in", out, tiny_model, cluster, child_environment)
    until(lambda: events(out, "network") == 1 or batch.poll() is not None)
    batch.kill()
    batch.communicate()
    again = start_batch(tmp_path / "in", out, tiny_model, cluster, child_environment)
    _, fault = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, fault
    assert set(states(out).values()) == {"done"}
    assert {row["crashes"] for row in manifest(out)} == {0}
    equal_outputs(tmp_path / "undisturbed", out)


@needs_ray()
@pytest.mark.skipif(bool(mount_fault()), reason=mount_fault())
def test_node_that_does_not_see_the_outputs(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    make_cohort(tmp_path / "in", 3)
    node = cluster.add(hidden=out)
    try:
        batch = start_batch(tmp_path / "in", out, tiny_model, cluster, child_environment)
        _, fault = batch.communicate(timeout=SECONDS)
    finally:
        node.end()
    assert batch.returncode == 4
    assert "does not see" in fault
    assert "--out must be on a file system that all nodes see" in fault
    assert set(states(out).values()) == {"queued"}, "nothing is begun before all nodes are known to be fit"


# --- without a cluster


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PlanError, match=r"pip install 'medsr\[cluster\]'"):
        cluster_work(None)


@needs_ray()
@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "auto", "local", "127.0.0.1:port", "127.0.0.1:99999", ""])
def test_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://from-the-environment:10001")
    with pytest.raises(PlanError, match=r"(head node|answers at)"):
        cluster_work(address)


@needs_ray()
@pytest.mark.parametrize("answers", [b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"220 mail\r\n"])
@needs_ray()
def test_address_of_another_service(answers: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would ask it for ten minutes, and fill the terminal meanwhile."""
    monkeypatch.setattr(cluster_module, "ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line, contextlib.suppress(ConnectionError):
                line.sendall(answers)
                while line.recv(1000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(PlanError, match="is no Ray cluster"):
            cluster_work(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@needs_ray()
def test_address_of_a_cluster(cluster: Cluster) -> None:
    cluster_work(cluster.address)


def test_address_where_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        began = time.monotonic()
        with pytest.raises(PlanError, match=r"no Ray cluster answers at 127.0.0.1:\d+ \(.*\); start one with"):
            cluster_work(f"127.0.0.1:{taken.getsockname()[1]}")
    assert time.monotonic() - began < 15


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, medsr.service.cluster; print([m for m in ('ray', 'torch', 'monai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- shares


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "expected"),
    [
        ([(8, 0), (8, 0)], None, None, Share(2, 8, 0)),  # one a node, with all of it
        ([(8, 0), (8, 0)], 4, None, Share(4, 4, 0)),
        ([(8, 0), (8, 0)], 3, None, Share(3, 4, 0)),
        ([(6, 0), (2, 0)], None, None, Share(2, 3, 0)),  # both on the larger one: more than 2 CPUs each
        ([(0, 0), (4, 0)], None, None, Share(1, 4, 0)),  # a head node that does no work
        ([(2, 0), (2, 0)], 9, None, Share(4, 1, 0)),  # no more than there is room for
        ([(8, 0), (3, 0)], None, 2, Share(5, 2, 0)),
        ([(8, 0), (3, 0)], 2, 2, Share(2, 2, 0)),
        ([(16, 4), (8, 1), (4, 0)], None, None, Share(5, 4, 1)),
        ([(16, 4), (8, 1)], 2, 3, Share(2, 3, 1)),
        ([(1, 2)], None, None, Share(2, 1, 1)),
    ],
)
def test_shares(nodes: list[tuple[int, int]], workers: int | None, threads: int | None, expected: Share) -> None:
    assert shared_out(nodes, workers, threads) == expected


@given(
    nodes=st.lists(st.tuples(st.integers(0, 40), st.just(0)), min_size=1, max_size=6),
    workers=st.none() | st.integers(1, 50),
    threads=st.none() | st.integers(1, 8),
)
def test_every_worker_has_room(nodes: list[tuple[int, int]], workers: int | None, threads: int | None) -> None:
    largest = max(cpus for cpus, _ in nodes)
    if largest < (threads or 1):
        with pytest.raises(PlanError, match=f"the largest has {largest}"):
            shared_out(nodes, workers, threads)
        return
    share = shared_out(nodes, workers, threads)

    def room(each: int) -> int:
        return sum(cpus // each for cpus, _ in nodes)

    assert 1 <= share.workers <= room(share.cpus)
    assert workers is None or share.workers <= workers
    if threads is None:
        assert room(share.cpus + 1) < (workers or sum(cpus > 0 for cpus, _ in nodes)), "they could have more each"
