"""The durable list of what is to be done to which scan: SQLite, shared by the processes and threads of one batch.

The file must lie on a local disk, or on a network file system with working locks and shared memory: SQLite's
write-ahead log needs both. Times are seconds since 1970 and come in as arguments, so that leases can be tested.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medsr.errors import JobError
from medsr.image.files import display_name
from medsr.machine import available_disk
from medsr.service.records import Added as Added
from medsr.service.records import Counts as Counts
from medsr.service.records import Entry as Entry
from medsr.service.records import Job as Job
from medsr.service.records import NewJob as NewJob
from medsr.service.records import State as State
from medsr.service.schema import prepare_database

CRASH_LIMIT = 2  # deaths of a process that worked on a job, after which the job is parked
BUSY_S = 60.0  # for which a writer waits for the others
_ROOM = 1 << 20  # bytes of a disk below which a fault of SQLite is laid to the lack of them
WAL_BYTES = 64 << 20  # to which the log is cut back once its pages are in the database

_COLUMNS = (
    "id, key, name, task, state, attempts, crashes, worker, lease_until, error, exit_code, outcome, created, started, "
    "finished"
)
_ENTRIES = """
    SELECT id, key, name, state, worker, error, exit_code, json_extract(task, '$.output'),
           json_extract(task, '$.input_sha256'), json_extract(task, '$.template_sha256'),
           json_extract(outcome, '$.files')
    FROM job ORDER BY id"""
# Those tried before come last: a scan that kills its worker, or a full disk, then holds up as few others as can be.
# One that was there when a worker died is never taken ahead: alone in its worker, it is known to be the cause or not.
_NEXT = "SELECT id FROM job WHERE state = 'queued' ORDER BY attempts, id LIMIT 1"
_NEXT_AHEAD = """
    SELECT id FROM job WHERE state = 'queued' AND crashes = 0
    AND (SELECT jobs FROM tally WHERE state = 'queued')
      > (SELECT count(DISTINCT worker) FROM job WHERE state = 'running' AND worker <> :worker)
    ORDER BY attempts, id LIMIT 1"""
_CLAIM = """
    UPDATE job SET state = 'running', worker = :worker, lease_until = :lease_until, started = :now,
                   attempts = attempts + 1, error = NULL, exit_code = NULL
    WHERE id = ({next}) RETURNING {columns}"""
_HELD = "state = 'running' AND worker = :worker"
_TAKE = """
    UPDATE job SET crashes = crashes + 1, worker = NULL, lease_until = NULL,
                   state = iif(crashes + 1 >= :limit, 'parked', 'queued'),
                   error = iif(crashes + 1 >= :limit, printf(:error, crashes + 1), NULL),
                   exit_code = iif(crashes + 1 >= :limit, :code, NULL),
                   finished = iif(crashes + 1 >= :limit, :now, NULL)
    WHERE {which} RETURNING {columns}"""
_DIED = (
    "the process that worked on it died without a word (deaths: %d); look at its log and at the memory, then queue it "
    "again with: medsr jobs retry"
)


class JobStore:
    """The jobs in one file; a context manager, for threads and processes alike.

    queued -> running (a worker has it, for as long as it renews its lease) -> done or failed. A job whose lease ended,
    or whose worker is known to be dead, goes back to the queue, and is parked when that happens too often. ``skipped``
    is for what is only listed. What ``finish`` and ``fail`` recorded is on the disk when they return; a claim that a
    power cut took back is only queued again. Every method raises JobError when the file cannot be read or written.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open a store. create: make it where there is none; else that is a JobError, as is a file that is none."""
        self.path = path
        self._lock = threading.Lock()
        if not create and not path.is_file():
            raise JobError(f"there are no jobs in {path.parent}: {path.name} is missing; name the --out of a batch")
        with self._faults():
            self._connection = self._connect()
            try:
                prepare_database(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        with self._lock, self._faults():
            self._connection.close()

    # --- filling it

    def add(self, jobs: Iterable[NewJob], now: float) -> Added:
        """Add jobs, all or none. Those whose key is known are left as they are."""
        given = 0

        def rows() -> Iterator[tuple[Any, ...]]:
            nonlocal given
            for job in jobs:
                given += 1
                finished = None if job.state == "queued" else now
                task = json.dumps(job.task)
                yield job.key, job.name, task, job.state, job.error, job.exit_code, now, finished

        with self._writing(durable=True) as database:
            new = database.executemany(
                "INSERT INTO job (key, name, task, state, error, exit_code, created, finished) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                rows(),
            ).rowcount
        return Added(new, given - new)

    def requeue(self, ids: Iterable[int]) -> int:
        """Queue jobs again as if they had never been begun, but for those that run. Returns how many."""
        return self._change(
            "UPDATE job SET state = 'queued', attempts = 0, crashes = 0, worker = NULL, lease_until = NULL, "
            "error = NULL, exit_code = NULL, outcome = NULL, started = NULL, finished = NULL "
            "WHERE id = ? AND state <> 'running'",
            ids,
        )

    def forget(self, ids: Iterable[int]) -> int:
        """Remove jobs from the list, but for those that run. Returns how many."""
        return self._change("DELETE FROM job WHERE id = ? AND state <> 'running'", ids)

    # --- a worker's side

    def claim(self, worker: str, now: float, lease_s: float, *, ahead: bool = False) -> Job | None:
        """Take the next job for ``worker``, a name that no other process has; None when there is none to take.

        ahead: the worker is busy, and only wants to begin reading. It is then given none that another worker could
        begin at once, and none that was there when a worker died.
        """
        sql = _CLAIM.format(next=_NEXT_AHEAD if ahead else _NEXT, columns=_COLUMNS)
        with self._writing() as database:
            rows = database.execute(sql, {"worker": worker, "now": now, "lease_until": now + lease_s}).fetchall()
        return _job(rows[0]) if rows else None

    def heartbeat(self, worker: str, now: float, lease_s: float) -> frozenset[int]:
        """Renew the leases of ``worker``. Returns the ids of the jobs it has: any other was taken from it."""
        with self._writing() as database:
            rows = database.execute(
                f"UPDATE job SET lease_until = :lease_until WHERE {_HELD} RETURNING id",
                {"worker": worker, "lease_until": now + lease_s},
            ).fetchall()
        return frozenset(number for (number,) in rows)

    def finish(self, job: Job, outcome: Mapping[str, Any], now: float) -> bool:
        """Record that a claimed job is done; False, and nothing changed, when its worker has lost it."""
        return self._end(job, {"state": "done", "outcome": json.dumps(outcome), "finished": now})

    def fail(self, job: Job, error: str, exit_code: int, now: float, *, retry: bool = False) -> bool:
        """Record why a claimed job failed, for good or (``retry``) to be queued again; False as for ``finish``."""
        state, finished = ("queued", None) if retry else ("failed", now)
        return self._end(job, {"state": state, "error": error, "exit_code": exit_code, "finished": finished})

    def release(self, worker: str) -> int:
        """Give back what ``worker`` has, as if it had not begun: it ends in good order. Returns how many."""
        with self._writing() as database:
            return database.execute(
                "UPDATE job SET state = 'queued', worker = NULL, lease_until = NULL, started = NULL, "
                f"attempts = attempts - 1 WHERE {_HELD}",
                {"worker": worker},
            ).rowcount

    # --- when workers die

    def reap(self, now: float, *, crash_limit: int = CRASH_LIMIT) -> list[Job]:
        """Take jobs from workers whose lease has ended; they are queued again, or parked at the ``crash_limit``."""
        return self._take("state = 'running' AND lease_until <= :now", {"now": now}, crash_limit)

    def lost(self, worker: str, now: float, *, crash_limit: int = CRASH_LIMIT) -> list[Job]:
        """As ``reap``, for one worker that is known to be dead."""
        return self._take(_HELD, {"worker": worker, "now": now}, crash_limit)

    # --- looking at it

    def job(self, key: str) -> Job | None:
        """The job of a key."""
        with self._lock, self._faults():
            row = self._connection.execute(f"SELECT {_COLUMNS} FROM job WHERE key = ?", (key,)).fetchone()
        return None if row is None else _job(row)

    def jobs(self, states: Sequence[State] = ()) -> Iterator[Job]:
        """The jobs, in the order in which they were added, as they stand now. states: only those in one of them."""
        chosen = f"WHERE id IN (SELECT id FROM job WHERE state IN ({', '.join('?' * len(states))}))" if states else ""
        # A connection of its own: one moment's view, however long it is looked at and whatever is written meanwhile.
        with self._faults(), contextlib.closing(self._connect()) as reader:
            for row in reader.execute(f"SELECT {_COLUMNS} FROM job {chosen} ORDER BY id", tuple(states)):
                yield _job(row)

    def sample(self, state: State, most: int) -> list[Job]:
        """No more than ``most`` of the jobs in a state, spread evenly over all."""
        with self._lock, self._faults():
            rows = self._connection.execute("SELECT id FROM job WHERE state = ? ORDER BY id", (state,)).fetchall()
            step = max(1, -(-len(rows) // most))
            one = f"SELECT {_COLUMNS} FROM job WHERE id = ?"
            return [_job(self._connection.execute(one, row).fetchone()) for row in rows[::step]]

    def entries(self) -> Iterator[Entry]:
        """All jobs as ``jobs``, without what takes room: of very many of them a memory holds that much."""
        with self._faults(), contextlib.closing(self._connect()) as reader:
            for row in reader.execute(_ENTRIES):
                yield _entry(*row)

    def counts(self) -> Counts:
        """How many jobs are in each state."""
        with self._lock, self._faults():
            return Counts(**dict(self._connection.execute("SELECT state, jobs FROM tally").fetchall()))

    # --- inside

    def _connect(self) -> sqlite3.Connection:
        # isolation_level None: a transaction begins and ends where this class says so.
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        return connection

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction. durable: it is on the disk at the end; else a power cut may undo it, whole, and no more."""
        with self._lock, self._faults():
            database = self._connection
            database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JobError(_in_words(error, self.path)) from error

    def _change(self, sql: str, ids: Iterable[int]) -> int:
        with self._writing(durable=True) as database:
            return database.executemany(sql, [(number,) for number in ids]).rowcount

    def _end(self, job: Job, values: dict[str, Any]) -> bool:
        changed = ", ".join(f"{name} = :{name}" for name in values)
        with self._writing(durable=True) as database:
            ended = database.execute(
                f"UPDATE job SET {changed}, worker = NULL, lease_until = NULL WHERE id = :id AND {_HELD}",
                {**values, "id": job.id, "worker": job.worker},
            )
            return ended.rowcount == 1

    def _take(self, which: str, values: dict[str, Any], crash_limit: int) -> list[Job]:
        with self._writing(durable=True) as database:
            rows = database.execute(
                _TAKE.format(which=which, columns=_COLUMNS),
                values | {"limit": crash_limit, "code": JobError.exit_code, "error": _DIED},
            ).fetchall()
        return [_job(row) for row in rows]


def _job(row: tuple[Any, ...]) -> Job:
    number, key, name, task, state, attempts, crashes, worker, lease, error, code, outcome, *times = row
    known = None if outcome is None else json.loads(outcome)
    return Job(number, key, name, json.loads(task), state, attempts, crashes, worker, lease, error, code, known, *times)


def _entry(*row: Any) -> Entry:
    *plain, files = row
    return Entry(*plain, json.loads(files or "{}"))  # type: ignore[call-arg]  # as many as _ENTRIES says


def _in_words(error: sqlite3.Error, path: Path) -> str:
    """What a fault of SQLite means, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the rest its details
    name = display_name(path)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"{name} is damaged, or no list of jobs ({error}); move it away and run the batch again"
    if code == sqlite3.SQLITE_BUSY:
        return f"{name} was locked by another process for {BUSY_S:g} s; end that one, or run again later"
    # A log that cannot grow is said to be an "I/O error".
    free = available_disk(path.parent) if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) else None
    if code == sqlite3.SQLITE_FULL or (free is not None and free < _ROOM):
        return f"cannot write {name}: the disk is full; free some space and run again"
    return f"cannot use {name} ({error}); it must be readable and writable, on a disk with working locks"
