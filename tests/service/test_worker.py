"""Workers in real processes, killed, stopped and cut off: every scan is done once, with the voxels of a quiet run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from medsr import plan as plan_module
from medsr.errors import DeviceError
from medsr.image.files import sha256_of
from medsr.image.scan import inspect
from medsr.request import Request
from medsr.run import plan_file
from medsr.service import pipeline
from medsr.service.identity import files_of, hash_of
from medsr.service.jobs import JobStore, NewJob
from medsr.service.log import scan_hash
from medsr.service.tasks import Task
from tests.conftest import ROOT
from tests.service.cohort import Cohort

SECONDS = 300  # after which a child is given up

# Run in a worker before it begins: at a stage of the work on one scan it kills, stops or delays itself, for real.
AT_A_STAGE = """
import os, signal, time
from medsr.image import files
from medsr.service import pipeline
from medsr.service.identity import files_of, hash_of
from medsr.service.jobs import JobStore

def now():
    {action}

def before(owner, name, meant):
    plain = getattr(owner, name)
    def wrapped(*args, **kwargs):
        if meant(*args):
            now()
        return plain(*args, **kwargs)
    setattr(owner, name, wrapped)

stage, scan = {stage!r}, {scan!r}
if stage == "claimed":
    before(pipeline.Pipeline, "_prepare", lambda self, job: job.name == scan)
elif stage == "network":
    def process(ready, model, progress, plain=pipeline.process):
        def report(stage, share):
            if ready.plan.path.name.startswith(scan):
                now()
            progress(stage, share)
        return plain(ready, model, report)
    pipeline.process = process
elif stage == "half published":  # the image has its name, the sidecar has not
    before(files, "_publish", lambda staging, path: path.name == "scan_sr.json" and path.parent.name == scan)
elif stage == "published":
    before(JobStore, "finish", lambda self, job, outcome, now: job.name == scan)
"""
STAGES = ("claimed", "network", "half published", "published")


@pytest.fixture
def cohort(tmp_path, tiny_model) -> Cohort:
    made = Cohort(tmp_path, Request(model=str(tiny_model), device="cpu", threads=1))
    made.add("a", "b", "c")
    return made


def at_stage(stage: str, scan: str, number: str = "SIGKILL") -> str:
    action = "time.sleep(2)" if number == "delay" else f"os.kill(os.getpid(), signal.{number})"
    return AT_A_STAGE.format(stage=stage, scan=scan, action=action)


def names_of(events: list[dict], event: str) -> list[str]:
    return [e["scan"] for e in events if e["event"] == event]


# --- quiet runs


def test_a_cohort(cohort):
    events = cohort.work()
    cohort.check_done("a", "b", "c")
    outcome = cohort.jobs()["b"].outcome
    sidecar = json.loads((cohort.out / "b" / "scan_sr.json").read_text())
    assert outcome["residual"] == sidecar["certificate"]["residual"]
    assert outcome["seconds"] == sidecar["timings"]
    assert outcome["worker"] == "here"
    began, ended = outcome["network"]
    assert cohort.jobs()["b"].started <= began < ended <= cohort.jobs()["b"].finished
    assert names_of(events, "done") == ["a", "b", "c"]
    assert events[-1] | {"time": ""} == {"time": "", "source": "here", "event": "ended", "given_back": 0}


def test_the_next_scan_is_read_while_the_network_runs(cohort):
    """By the order of events: b is claimed before the network has a, and written behind it."""
    happened = [(e["event"], e["scan"]) for e in cohort.work() if "scan" in e]
    assert happened.index(("claimed", "b")) < happened.index(("network", "a"))
    assert happened.index(("claimed", "c")) < happened.index(("network", "b"))
    assert happened.count(("claimed", "b")) == 1


def test_one_bad_scan_fails_one_row(cohort):
    cohort.scans["b"].write_bytes(cohort.scans["b"].read_bytes()[:-300])
    events = cohort.work(retries=1)
    cohort.check_done("a", "c")
    bad = cohort.jobs()["b"]
    assert (bad.state, bad.exit_code, bad.attempts, bad.outcome) == ("failed", 3, 2, None)
    assert "b_T1w.nii.gz is truncated" in bad.error
    assert [e["again"] for e in events if e["event"] == "failed"] == [True, False]


def test_an_input_that_was_changed_since_it_was_planned(cohort):
    cohort.scans["b"].write_bytes(cohort.scans["c"].read_bytes())
    cohort.work()
    cohort.check_done("a", "c")
    assert cohort.jobs()["b"].error == "b_T1w.nii.gz has changed since the batch was planned; run the batch again"


def test_a_model_that_was_changed_since_it_was_planned(cohort, tmp_path, tiny_model):
    other = cohort.jobs()["b"].task
    with JobStore(cohort.store_path) as store:
        store.forget([job.id for job in store.jobs() if job.name != "a"])
        changed = other | {"plan": other["plan"] | {"model_sha256": "0" * 64}}
        store._change(f"UPDATE job SET task = '{json.dumps(changed)}' WHERE id = ?", [1])
    cohort.work()
    failed = cohort.jobs()["a"]
    assert (failed.exit_code, failed.error) == (
        4, "model tiny has changed since the batch was planned; run the batch again",
    )  # fmt: skip


def test_what_cannot_be_read_beside_another_is_read_alone(cohort, monkeypatch):
    """Memory that is short only because of the scan before must not fail a scan."""
    plain, calls = plan_module.available_memory, []

    def short_once() -> int | None:
        calls.append(1)
        return 0 if len(calls) == 5 else plain()  # each scan is planned three times: in the midst of the second

    monkeypatch.setattr(plan_module, "available_memory", short_once)
    events = cohort.work()
    cohort.check_done("a", "b", "c")
    assert not names_of(events, "failed")
    assert len(calls) > 9


def test_an_output_that_cannot_be_written(cohort):
    (cohort.out / "b").write_text("a file where a folder should be")
    cohort.work()
    assert {n: j.state for n, j in cohort.jobs().items()} == {"a": "done", "b": "failed", "c": "done"}
    assert cohort.jobs()["b"].exit_code == 7


def test_an_absent_device_is_no_scans_fault(tmp_path, tiny_model):
    cohort = Cohort(tmp_path, Request(model=str(tiny_model), device="cuda:99", threads=1))
    cohort.add("a", "b")
    with pytest.raises(DeviceError, match="cuda:99"):
        cohort.work()
    assert [(j.state, j.attempts, j.crashes) for j in cohort.jobs().values()] == [("queued", 0, 0)] * 2


def test_a_scan_that_is_too_large_for_the_device_fails_alone(cohort, monkeypatch):
    """There is no device here that could run out of memory, so the engine's own error is raised in its place."""

    def process(ready, model, progress, plain=pipeline.process):
        if ready.plan.path.name.startswith(("a", "b")):
            raise DeviceError("cuda ran out of memory twice")
        return plain(ready, model, progress)

    monkeypatch.setattr(pipeline, "process", process)
    cohort.work()
    jobs = cohort.jobs()
    assert [(jobs[n].state, jobs[n].exit_code) for n in "abc"] == [("failed", 6), ("failed", 6), ("done", None)]


def test_a_device_that_is_lost_ends_the_worker(cohort, monkeypatch):
    """After a fault the model is loaded anew, which a lost device refuses: the scans behind it are not failed."""
    loads = []

    def load_for(request, plain=pipeline.load_for):
        loads.append(request)
        if len(loads) > 1:
            raise RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
        return plain(request)

    def process(ready, model, progress):
        raise DeviceError("cuda failed: unspecified launch failure")

    monkeypatch.setattr(pipeline, "load_for", load_for)
    monkeypatch.setattr(pipeline, "process", process)
    with pytest.raises(DeviceError, match=r"cannot be put on the device cpu: CUDA error: unspecified launch failure$"):
        cohort.work()
    assert [(j.state, j.attempts) for j in cohort.jobs().values()] == [("failed", 1), ("queued", 0), ("queued", 0)]


def test_settings_of_one_scan_are_its_own(cohort):
    cohort.add("d", request=replace(cohort.request, scale=(3.0,)))
    cohort.work()
    plan = json.loads((cohort.out / "d" / "scan_sr.json").read_text())["plan"]
    assert plan["factors"] == [3.0, 3.0, 1.0]
    assert all(job.state == "done" for job in cohort.jobs().values())


def test_notes_stand_in_the_sidecar(cohort):
    with JobStore(cohort.store_path) as store:
        task = store.job("key of a").task
        store._change(f"UPDATE job SET task = '{json.dumps(task | {'notes': {'Sources': ['x']}})}' WHERE id = ?", [1])
    cohort.work()
    assert json.loads((cohort.out / "a" / "scan_sr.json").read_text())["Sources"] == ["x"]


def test_a_dicom_series(tmp_path, tiny_model):
    """In and out; done again, with its maps, every file has the bytes it had."""
    cohort = Cohort(tmp_path, Request(model=str(tiny_model), device="cpu", threads=1, uncertainty=True))
    scan = ROOT / "sample_data" / "head_dicom"
    plan = plan_file(scan, None, cohort.request).plan
    header = inspect(scan)
    digest = hash_of(files_of(header, cohort.request))
    task = Task(scan, "study/head_sr", cohort.request, plan.to_json(), digest)
    with JobStore(cohort.store_path, create=True) as store:
        store.add([NewJob("key", "head", task.to_json())], time.time())
    cohort.work()
    first = cohort.jobs()["head"].outcome["files"]
    folder = cohort.out / "study"
    assert {folder / "head_sr.json", folder / "head_sr_std.dcm"} < {cohort.out / name for name in first}
    assert len([name for name in first if name.startswith("study/head_sr/")]) == plan.target.shape[2]
    with JobStore(cohort.store_path) as store:
        store.requeue([1])
    cohort.work()
    second = cohort.jobs()["head"].outcome["files"]
    del first["study/head_sr.json"], second["study/head_sr.json"]  # it tells the time
    assert second == first
    assert set(cohort.out.rglob("*.dcm")) == {cohort.out / name for name in first}


# --- killed


@pytest.mark.parametrize("stage", STAGES)
def test_killed(cohort, child_environment, stage):
    """kill -9 at a stage: the same command again gives every output once, with the voxels of an undisturbed run."""
    worker = cohort.start(child_environment, code=at_stage(stage, "b"))
    assert worker.wait(SECONDS) == -signal.SIGKILL
    assert cohort.output("b").exists() == (stage in ("half published", "published"))
    with JobStore(cohort.store_path) as store:
        taken = store.lost("w1", time.time())
    assert "b" in {job.name for job in taken}
    assert all(job.state == "queued" and job.crashes == 1 for job in taken)
    before = {n: j for n, j in cohort.jobs().items() if j.state == "done"}
    cohort.work()
    cohort.check_done("a", "b", "c")
    assert {n: j for n, j in cohort.jobs().items() if n in before} == before, "done twice"


def test_a_scan_that_kills_its_worker_is_parked_and_the_rest_is_done(cohort, child_environment):
    """The scans that were in the worker beside it are suspected once, and then done."""
    codes = []
    while cohort.jobs()["b"].state == "queued":
        worker = cohort.start(child_environment, name=f"w{len(codes)}", code=at_stage("network", "b"))
        codes.append(worker.wait(SECONDS))
        with JobStore(cohort.store_path) as store:
            store.lost(f"w{len(codes) - 1}", time.time())
    assert codes == [-signal.SIGKILL] * 2
    cohort.work()
    cohort.check_done("a", "c")
    parked = cohort.jobs()["b"]
    assert (parked.state, parked.crashes, parked.exit_code) == ("parked", 2, 7)


# --- told to stop


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "end of input"])
def test_told_to_stop(cohort, child_environment, how):
    """It gives back what it has, in good order, and does not count as dead."""
    code = at_stage("network", "b", "delay" if how == "end of input" else how)
    if how == "SIGINT":  # a run in the background ignores it, and so do its children
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    worker = cohort.start(child_environment, *(["--parent"] if how == "end of input" else []), code=code)
    if how == "end of input":
        cohort.wait_for("network", "b", worker)
        worker.stdin.close()
    assert worker.wait(SECONDS) == (130 if how == "SIGINT" else 143)
    jobs = cohort.jobs()
    assert jobs["a"].state == "done", "what was being written is finished"
    assert [(jobs[n].state, jobs[n].attempts, jobs[n].crashes) for n in "bc"] == [("queued", 0, 0)] * 2
    cohort.work()
    cohort.check_done("a", "b", "c")


# --- cut off


def test_a_worker_that_slept_through_its_lease(cohort, child_environment):
    """Its scans are another's by then; it records nothing, and goes on with what is left."""
    worker = cohort.start(child_environment, code=at_stage("network", "a", "SIGSTOP"))
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    with JobStore(cohort.store_path) as store:
        assert {job.name for job in store.reap(time.time() + 3600)} >= {"a"}
    cohort.work("other")
    before = cohort.jobs()
    while worker.poll() is None:
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    assert worker.returncode == 0
    assert '"lost"' in cohort.log("w1").read_text()
    assert cohort.jobs() == before
    cohort.check_done("a", "b", "c")


def test_two_workers_share_a_cohort(cohort, child_environment):
    cohort.add("d", "e", "f")
    workers = [cohort.start(child_environment, name=f"w{n}") for n in range(2)]
    assert [worker.wait(SECONDS) for worker in workers] == [0, 0]
    cohort.check_done(*"abcdef")
    assert all(job.attempts == 1 for job in cohort.jobs().values())


# --- the log


def test_the_log_names_nobody(cohort, child_environment):
    cohort.scans["b"].write_bytes(b"damaged")
    assert cohort.start(child_environment).wait(SECONDS) == 0
    text = cohort.log("w1").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert "T1w" not in text
    assert str(cohort.folder) not in text
    (failed,) = [e for e in events if e["event"] == "failed"]
    assert failed["scan"] == scan_hash("b")
    assert failed["exit_code"] == 3
    assert "error" not in failed


def test_a_store_that_is_missing(cohort, child_environment, tmp_path):
    cohort.store_path.unlink()
    worker = cohort.start(child_environment)
    assert worker.wait(SECONDS) == 7
    assert "jobs.sqlite is missing" in cohort.log("w1").read_text()


def test_a_second_attempt_replaces_what_the_first_one_left(cohort):
    cohort.work()
    first = {name: sha256_of(cohort.output(name)) for name in "abc"}
    with JobStore(cohort.store_path) as store:
        store.requeue([job.id for job in store.jobs()])
    cohort.output("b").write_bytes(b"somebody wrote over it")
    cohort.work()
    cohort.check_done("a", "b", "c")
    assert {name: sha256_of(cohort.output(name)) for name in "abc"} == first


def test_the_module_is_a_command(child_environment):
    command = [sys.executable, "-m", "medsr.service.worker", "--help"]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--lease" in done.stdout
