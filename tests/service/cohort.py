"""A small cohort of phantoms, planned and queued, as the tests of workers need it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from medsr.image.files import sha256_of
from medsr.request import Request
from medsr.run import plan_file, upscale_file
from medsr.service.jobs import Job, JobStore, NewJob
from medsr.service.log import EventLog, scan_hash
from medsr.service.pipeline import Rules
from medsr.service.tasks import Task
from medsr.service.worker import run_worker
from tests.test_run import phantom, save

SHAPE = (16, 14, 8)


@dataclass
class Cohort:
    """scans: by name. The outputs go to ``out``, in a folder of each scan's own."""

    folder: Path
    request: Request
    scans: dict[str, Path] = field(default_factory=dict)

    @property
    def store_path(self) -> Path:
        return self.folder / "jobs.sqlite"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def output(self, name: str) -> Path:
        return self.out / name / "scan_sr.nii.gz"

    def add(self, *names: str, request: Request | None = None) -> None:
        """Write and queue scans."""
        request = request or self.request
        jobs = []
        for name in names:
            self.scans[name] = save(self.folder / f"{name}_T1w.nii.gz", phantom(SHAPE, seed=len(self.scans)))
            plan = plan_file(self.scans[name], None, request).plan
            output = self.output(name).relative_to(self.out).as_posix()
            task = Task(self.scans[name], output, request, plan.to_json(), sha256_of(self.scans[name]))
            jobs.append(NewJob(f"key of {name}", name, task.to_json()))
        self.out.mkdir(exist_ok=True)
        with JobStore(self.store_path, create=True) as store:
            store.add(jobs, time.time())

    def work(self, name: str = "here", *, retries: int = 0, stop: threading.Event | None = None) -> list[dict]:
        """Run a worker in this process; gives its events."""
        lines = io.StringIO()
        log = EventLog(lines, name, names=True)
        with JobStore(self.store_path) as store:
            try:
                run_worker(store, self.out, Rules(name, retries=retries), log, stop or threading.Event())
            finally:
                events = [json.loads(line) for line in lines.getvalue().splitlines()]
        return events

    def start(self, environment: dict[str, str], *options: str, name: str = "w1", code: str = "") -> subprocess.Popen:
        """Start a worker as a batch does, with its log in <name>.log. code: run in it before."""
        run = f"{code}\nfrom medsr.service.worker import main; main()"
        command = [sys.executable, "-c", run, str(self.store_path), str(self.out), "--worker", name, *options]
        with self.log(name).open("wb") as stream:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=stream, env=environment)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def wait_for(self, event: str, name: str, worker: subprocess.Popen) -> None:
        """Until the log of the worker w1 has an event of a scan."""
        while not any(
            f'"{event}"' in line and scan_hash(name) in line for line in self.log("w1").read_text().splitlines()
        ):
            assert worker.poll() is None, self.log("w1").read_text()
            time.sleep(0.02)

    def jobs(self) -> dict[str, Job]:
        """By name."""
        with JobStore(self.store_path) as store:
            return {job.name: job for job in store.jobs()}

    def undisturbed(self, name: str) -> str:
        """Hash of what ``medsr upscale`` makes of a scan."""
        output = self.folder / f"{name}_alone_sr.nii.gz"
        if not output.exists():
            upscale_file(self.scans[name], output, self.request)
        return sha256_of(output)

    def check_done(self, *names: str) -> None:
        """These are done, their files are as recorded, and the voxels those of an undisturbed run; nothing else lies
        about."""
        jobs = self.jobs()
        expected = set()
        for name in names:
            assert jobs[name].state == "done", jobs[name]
            files = jobs[name].outcome["files"]
            assert {self.out / path for path in files} == {
                self.output(name),
                self.output(name).with_name("scan_sr.json"),
            }
            for path, digest in files.items():
                assert hashlib.sha256((self.out / path).read_bytes()).hexdigest() == digest
                expected.add(self.out / path)
            assert sha256_of(self.output(name)) == self.undisturbed(name)
        assert {path for path in self.out.rglob("*") if path.is_file()} == expected
