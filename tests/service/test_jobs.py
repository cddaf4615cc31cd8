"""The job store against a plain model of what it should hold, and with several processes at once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from medsr.errors import JobError
from medsr.service import jobs as jobs_module
from medsr.service import schema
from medsr.service.jobs import Added, Counts, Job, JobStore, NewJob

LEASE = 10.0
WORKERS = st.sampled_from(["w1", "w2", "w3"])
KEYS = st.text("abcdefgh", min_size=1, max_size=2)
FORK = multiprocessing.get_context("spawn")


def new(key: str) -> NewJob:
    return NewJob(key, f"name of {key}", {"key": key})


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "jobs.sqlite"


# --- one process


@dataclass
class Row:
    """What the model knows of a job; the rest of it follows."""

    id: int
    key: str
    state: str = "queued"
    attempts: int = 0
    crashes: int = 0
    worker: str | None = None
    lease: float | None = None
    exit_code: int | None = None
    outcome: object = None


class StoreAgainstModel(RuleBasedStateMachine):
    """Any sequence of calls leaves in the file what a list in memory would hold."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "jobs.sqlite")
        self.store = JobStore(self.path, create=True)
        self.rows: list[Row] = []
        self.seen: list[Job] = []  # every claim there ever was, also those that are no longer good
        self.highest = 0
        self.now = 1000.0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def row(self, number: int) -> Row | None:
        return next((r for r in self.rows if r.id == number), None)

    @rule(keys=st.lists(KEYS, max_size=4), state=st.sampled_from(["queued", "queued", "failed", "skipped"]))
    def add(self, keys, state):
        before = len(self.rows)
        for key in keys:
            if all(r.key != key for r in self.rows):
                number = max((r.id for r in self.rows), default=0) + 1
                self.rows.append(Row(number, key, state, exit_code=3 if state == "failed" else None))
        code = 3 if state == "failed" else None
        added = self.store.add([replace(new(k), state=state, exit_code=code) for k in keys], self.now)
        fresh = len(self.rows) - before
        assert added == Added(fresh, len(keys) - fresh)

    @rule(worker=WORKERS, ahead=st.booleans())
    def claim(self, worker, ahead):
        queue = sorted((r for r in self.rows if r.state == "queued"), key=lambda r: (r.attempts, r.id))
        others = {r.worker for r in self.rows if r.state == "running"} - {worker}
        if ahead:
            queue = [r for r in queue if not r.crashes] if len(queue) > len(others) else []
        job = self.store.claim(worker, self.now, LEASE, ahead=ahead)
        assert (job and job.id) == (queue[0].id if queue else None)
        if job is not None:
            row = queue[0]
            row.state, row.worker, row.lease, row.exit_code = "running", worker, self.now + LEASE, None
            row.attempts += 1
            self.seen.append(job)

    @rule(worker=WORKERS)
    def heartbeat(self, worker):
        held = self.store.heartbeat(worker, self.now, LEASE)
        mine = [r for r in self.rows if r.worker == worker]
        assert held == {r.id for r in mine}
        for row in mine:
            row.lease = self.now + LEASE

    @rule(data=st.data(), end=st.sampled_from(["finish", "fail", "again"]))
    def end(self, data, end):
        if not self.seen:
            return
        job = data.draw(st.sampled_from(self.seen))
        row = self.row(job.id)
        good = row is not None and row.state == "running" and row.worker == job.worker
        if end == "finish":
            assert self.store.finish(job, {"n": job.id}, self.now) is good
        else:
            assert self.store.fail(job, "why", 3, self.now, retry=end == "again") is good
        if good:
            row.worker = row.lease = None
            row.state = {"finish": "done", "fail": "failed", "again": "queued"}[end]
            row.outcome, row.exit_code = ({"n": job.id}, None) if end == "finish" else (None, 3)

    @rule(worker=WORKERS)
    def release(self, worker):
        mine = [r for r in self.rows if r.worker == worker]
        assert self.store.release(worker) == len(mine)
        for row in mine:
            row.state, row.worker, row.lease = "queued", None, None
            row.attempts -= 1

    def took(self, rows, taken):
        for row in rows:
            row.crashes += 1
            row.state, row.exit_code = ("parked", 7) if row.crashes >= 2 else ("queued", None)
            row.worker = row.lease = None
        assert sorted((j.id, j.state, j.crashes) for j in taken) == sorted((r.id, r.state, r.crashes) for r in rows)

    @rule(worker=WORKERS)
    def lost(self, worker):
        rows = [r for r in self.rows if r.worker == worker]
        self.took(rows, self.store.lost(worker, self.now))

    @rule(seconds=st.sampled_from([0.0, 4.0, LEASE, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        rows = [r for r in self.rows if r.lease is not None and r.lease <= self.now]
        self.took(rows, self.store.reap(self.now))

    @rule(data=st.data())
    def requeue(self, data):
        chosen = data.draw(st.lists(st.sampled_from(self.rows), unique_by=id)) if self.rows else []
        idle = [r for r in chosen if r.state != "running"]
        assert self.store.requeue([r.id for r in chosen]) == len(idle)
        for row in idle:
            self.rows[self.rows.index(row)] = Row(row.id, row.key)

    @rule(data=st.data())
    def forget(self, data):
        chosen = data.draw(st.lists(st.sampled_from(self.rows), unique_by=id, max_size=2)) if self.rows else []
        idle = [r for r in chosen if r.state != "running"]
        assert self.store.forget([r.id for r in chosen]) == len(idle)
        for row in idle:
            self.rows.remove(row)
            self.seen = [job for job in self.seen if job.id != row.id]  # SQLite may give the number to another

    @rule()
    def open_again(self):
        self.store.close()
        self.store = JobStore(self.path)

    @invariant()
    def the_file_holds_what_the_model_holds(self):
        if not hasattr(self, "store"):
            return
        found = [
            Row(j.id, j.key, j.state, j.attempts, j.crashes, j.worker, j.lease_until, j.exit_code, j.outcome)
            for j in self.store.jobs()
        ]
        assert found == self.rows
        assert self.store.counts() == Counts(**Counter(r.state for r in self.rows))
        assert [j.id for j in self.store.jobs(["done", "parked"])] == [
            r.id for r in self.rows if r.state in ("done", "parked")
        ]


StoreAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStoreAgainstModel = StoreAgainstModel.TestCase


def test_a_job_tells_its_story(path):
    with JobStore(path, create=True) as store:
        assert store.add([replace(new("a"), task={"path": "\udcff/é", "n": [1, None]})], now=100.0) == Added(1, 0)
        job = store.claim("w", 200.0, LEASE)
        assert (job.task, job.created, job.started, job.lease_until) == (
            {"path": "\udcff/é", "n": [1, None]},
            100,
            200,
            210,
        )
        assert store.fail(job, "bad", 3, 205.0, retry=True)
        again = store.job("a")
        assert (again.state, again.error, again.exit_code, again.finished) == ("queued", "bad", 3, None)
        assert store.finish(store.claim("w", 300.0, LEASE), {"files": {"x": "1"}}, 310.0)
        done = store.job("a")
        assert (done.attempts, done.error, done.exit_code, done.outcome, done.started, done.finished) == (
            2, None, None, {"files": {"x": "1"}}, 300, 310,
        )  # fmt: skip
        assert store.job("b") is None


def test_what_was_tried_before_comes_last(path):
    with JobStore(path, create=True) as store:
        store.add([new(k) for k in "abc"], 0.0)
        store.fail(store.claim("w", 1.0, LEASE), "disk", 7, 2.0, retry=True)
        assert [store.claim("w", 3.0, LEASE).key for _ in "abc"] == ["b", "c", "a"]


def test_the_last_jobs_are_left_for_workers_that_are_idle(path):
    """Two workers, three scans: the busy one takes one ahead only while the other has one left as well."""
    with JobStore(path, create=True) as store:
        store.add([new(k) for k in "abcd"], 0.0)
        assert store.claim("w1", 1.0, LEASE).key == "a"
        assert store.claim("w2", 1.0, LEASE).key == "b"
        assert store.claim("w1", 1.0, LEASE, ahead=True).key == "c"
        assert store.claim("w2", 1.0, LEASE, ahead=True) is None
        assert store.claim("w2", 1.0, LEASE).key == "d"


def test_the_guilty_one_is_parked_and_no_other(path):
    """A worker held three scans, of which one kills it: they are then taken alone."""
    with JobStore(path, create=True) as store:
        store.add([new(k) for k in "abc"], 0.0)
        held = [store.claim("w1", 1.0, LEASE, ahead=n > 0) for n in range(3)]
        assert [j.state for j in store.lost("w1", 2.0)] == ["queued"] * 3
        assert store.claim("w2", 3.0, LEASE, ahead=True) is None
        for _ in held:
            job = store.claim("w2", 3.0, LEASE)
            if job.key == "b":
                (dead,) = store.lost("w2", 4.0)
                assert (dead.state, dead.exit_code, dead.finished) == ("parked", 7, 4.0)
                assert "died without a word (deaths: 2)" in dead.error
                assert "medsr jobs retry" in dead.error
            else:
                assert store.finish(job, {}, 4.0)
        assert store.counts() == Counts(done=2, parked=1)


def test_all_or_none_are_added(path):
    def half():
        yield new("a")
        raise ValueError("the list broke off")

    with JobStore(path, create=True) as store:
        with pytest.raises(ValueError, match="broke off"):
            store.add(half(), 0.0)
        assert store.counts().total == 0
        assert store.add([new("a")], 0.0) == Added(1, 0)


def test_a_look_is_of_one_moment_and_stops_nobody(path):
    with JobStore(path, create=True) as store:
        store.add([new(str(n)) for n in range(500)], 0.0)
        look = store.jobs()
        first = next(look)
        while (job := store.claim("w", 1.0, LEASE)) is not None:
            store.finish(job, {}, 2.0)
        assert {first.state, *(job.state for job in look)} == {"queued"}
        assert store.counts() == Counts(done=500)


def test_threads_share_a_store(path):
    """As the threads of a worker do: none meets another in the midst of a transaction."""
    with JobStore(path, create=True) as store:
        store.add([new(str(n)) for n in range(120)], 0.0)
        ended: list[str] = []

        def work(name: str) -> None:
            while (job := store.claim(name, 1.0, LEASE)) is not None:
                store.heartbeat(name, 2.0, LEASE)
                assert store.finish(job, {}, 3.0)
                ended.append(job.key)

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(int, ended)) == list(range(120))


# --- several processes


def claim_all(path: str, name: str, results: str, together: int) -> None:
    """Once all processes are there, take jobs until there are none, and note every one."""
    with JobStore(Path(path), create=True) as store, Path(results, name).open("w") as noted:
        while len(list(Path(results).iterdir())) < together:
            time.sleep(0.001)
        while (job := store.claim(name, time.time(), 60.0)) is not None:
            noted.write(f"{job.key}\n")
            time.sleep(0.002)  # as long as this one has the file to itself, SQLite may keep the other waiting
            assert store.finish(job, {"by": name}, time.time())


def test_two_processes_never_share_a_job(path, tmp_path):
    keys = {str(n) for n in range(500)}
    with JobStore(path, create=True) as store:
        store.add(map(new, sorted(keys)), 0.0)
    noted = tmp_path / "noted"
    noted.mkdir()
    processes = [FORK.Process(target=claim_all, args=(str(path), f"w{n}", str(noted), 2)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    shares = [file.read_text().split() for file in noted.iterdir()]
    assert sorted(key for share in shares for key in share) == sorted(keys)
    with JobStore(path) as store:
        assert store.counts() == Counts(done=500)
        by = Counter(job.outcome["by"] for job in store.jobs())
    assert by == {file.name: len(file.read_text().split()) for file in noted.iterdir()}
    assert len(by) == 2, "one process did it all"


def test_processes_may_all_make_the_store(path, tmp_path):
    noted = tmp_path / "noted"
    noted.mkdir()
    processes = [FORK.Process(target=claim_all, args=(str(path), f"w{n}", str(noted), 4)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def die_in_a_transaction(path: str) -> None:
    store = JobStore(Path(path))

    def jobs():
        for n in range(20_000):
            yield new(f"more {n}")
        os.kill(os.getpid(), signal.SIGKILL)

    store.add(jobs(), 0.0)


def test_killed_while_writing(path):
    """kill -9 in the midst of a transaction, with pages of it on the disk: the next one finds none of it."""
    with JobStore(path, create=True) as store:
        store.add([new("a")], 0.0)
    process = FORK.Process(target=die_in_a_transaction, args=(str(path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with JobStore(path) as store:
        assert [job.key for job in store.jobs()] == ["a"]
        assert store.add([new("b")], 0.0) == Added(1, 0)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- files


def test_what_is_recorded_is_on_the_disk_and_claims_need_not_be(path):
    """Judged by the write-ahead log: SQLite calls fsync in a commit when synchronous is FULL (2), not at NORMAL (1)."""
    with JobStore(path, create=True) as store:
        levels = []

        def note(statement: str) -> None:
            if statement.startswith("COMMIT"):
                levels.append(level[-1])
            elif "synchronous" in statement:
                level.append(statement.split()[-1])

        level: list[str] = []
        store._connection.set_trace_callback(note)
        store.add([new("a"), new("b")], 0.0)
        job = store.claim("w", 1.0, LEASE)
        store.heartbeat("w", 1.0, LEASE)
        store.finish(job, {}, 1.0)
        store.fail(store.claim("w", 1.0, LEASE), "why", 3, 1.0)
        assert levels == ["FULL", "NORMAL", "NORMAL", "FULL", "NORMAL", "FULL"]


def test_no_store_where_one_is_expected(path):
    with pytest.raises(JobError, match=r"jobs\.sqlite is missing; name the --out of a batch"):
        JobStore(path)
    assert not path.exists()


def test_a_foreign_database_is_left_alone(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(JobError, match="no list of jobs of medsr; move it away"):
            JobStore(path, create=create)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at " * 200, b"\x89PNG\r\n"])
def test_a_foreign_file_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(JobError, match="damaged, or no list of jobs"):
        JobStore(path, create=True)
    assert path.read_bytes() == content


def test_a_later_version_is_refused(path):
    JobStore(path, create=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(JobError, match=r"later medsr \(version 2 of its tables, this one knows 1\)"):
        JobStore(path)


def test_an_earlier_version_is_brought_up_to_date(path, monkeypatch):
    with JobStore(path, create=True) as store:
        store.add([new("a")], 0.0)
    later = (*schema.MIGRATIONS, ("ALTER TABLE job ADD COLUMN note TEXT", "UPDATE job SET note = 'migrated'"))
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    JobStore(path).close()
    JobStore(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("SELECT key, note FROM job").fetchall() == [("a", "migrated")]


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    with JobStore(path, create=True) as store:
        store.add([new("a")], 0.0)
    later = (*schema.MIGRATIONS, ("ALTER TABLE job ADD COLUMN note TEXT", "UPDATE no_such_table SET note = 1"))
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    with pytest.raises(JobError, match="no such table"):
        JobStore(path)
    monkeypatch.undo()
    with JobStore(path) as store:
        assert store.claim("w", 0.0, LEASE).key == "a"


def test_migrations_are_only_ever_added():
    """What was once released is on people's disks: add a migration, and its digest here; never change one."""
    digests = [hashlib.sha256(json.dumps(statements).encode()).hexdigest()[:16] for statements in schema.MIGRATIONS]
    assert digests == ["a1425acabd5b7b74"]


def test_a_damaged_store_is_refused(path):
    with JobStore(path, create=True) as store:
        store.add([new(str(n)) for n in range(300)], 0.0)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with JobStore(path) as store, pytest.raises(JobError, match="damaged, or no list of jobs"):
        list(store.jobs())


def test_a_store_that_another_holds(path, monkeypatch):
    JobStore(path, create=True).close()
    monkeypatch.setattr(jobs_module, "BUSY_S", 0.05)
    with JobStore(path) as store, sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JobError, match=r"locked by another process for 0\.05 s"):
            store.add([new("a")], 0.0)
        other.execute("ROLLBACK")
        assert store.add([new("a")], 0.0) == Added(1, 0)
    other.close()


def test_a_full_disk_undoes_the_transaction(path):
    with JobStore(path, create=True) as store:
        store.add([new("a")], 0.0)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JobError, match="the disk is full; free some space"):
            store.add((new(f"more {n}") for n in range(2000)), 0.0)
        assert store.counts() == Counts(queued=1)


def test_the_next_job_is_found_by_the_index(path):
    """However many are done: no scan of the table, and no sorting."""
    with JobStore(path, create=True) as store:
        for next_job in (jobs_module._NEXT, jobs_module._NEXT_AHEAD):
            plan = store._connection.execute(f"EXPLAIN QUERY PLAN {next_job}", {"worker": "w"}).fetchall()
            steps = " / ".join(row[3] for row in plan)
            assert "USING INDEX job_state (state=?)" in steps or "USING COVERING INDEX job_state (state=?)" in steps
            assert "SCAN job" not in steps
            assert "TEMP B-TREE FOR ORDER BY" not in steps
