"""The tables of a job store, and how one of an earlier version becomes one of this."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from medsr.errors import JobError
from medsr.image.files import display_name

APPLICATION_ID = 0x6D736A62  # "msjb" in the header of the file: a list of jobs of medsr
# Statements from version to version. Only ever added to: what stands here has been run on somebody's disk.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE job (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            task TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'parked', 'skipped')),
            attempts INTEGER NOT NULL DEFAULT 0,
            crashes INTEGER NOT NULL DEFAULT 0,
            worker TEXT,
            lease_until REAL,
            error TEXT,
            exit_code INTEGER,
            outcome TEXT,
            created REAL NOT NULL,
            started REAL,
            finished REAL,
            CHECK ((state = 'running') = (worker IS NOT NULL AND lease_until IS NOT NULL))
        ) STRICT
        """,
        # The next job, and those of one state, are found in this index.
        "CREATE INDEX job_state ON job (state, attempts)",
        # How many are in each state: kept rather than counted, since a batch asks several times a second.
        "CREATE TABLE tally (state TEXT PRIMARY KEY, jobs INTEGER NOT NULL) STRICT",
        """
        INSERT INTO tally VALUES
            ('queued', 0), ('running', 0), ('done', 0), ('failed', 0), ('parked', 0), ('skipped', 0)
        """,
        """
        CREATE TRIGGER job_added AFTER INSERT ON job BEGIN
            UPDATE tally SET jobs = jobs + 1 WHERE state = new.state;
        END
        """,
        """
        CREATE TRIGGER job_changed AFTER UPDATE OF state ON job WHEN old.state <> new.state BEGIN
            UPDATE tally SET jobs = jobs - 1 WHERE state = old.state;
            UPDATE tally SET jobs = jobs + 1 WHERE state = new.state;
        END
        """,
        """
        CREATE TRIGGER job_removed AFTER DELETE ON job BEGIN
            UPDATE tally SET jobs = jobs - 1 WHERE state = old.state;
        END
        """,
    ),
)


def prepare_database(connection: sqlite3.Connection, path: Path) -> None:
    """Make an open file, new or of an earlier version, a job store of this version.

    Raises JobError for a store of a later version, a database of something else, and a place where SQLite has no
    write-ahead log; sqlite3.Error for what is no database or cannot be written.
    """
    _refuse_foreign(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JobError(f"{path.parent} has no working locks or shared memory; put --out on a local disk")
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[_version(connection) :]:  # asked again: another process may have been faster
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is changed in a file that may be somebody else's."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and application != APPLICATION_ID:
        raise JobError(f"{display_name(path)} is a database, but no list of jobs of medsr; move it away")
    if (version := _version(connection)) > len(MIGRATIONS):
        raise JobError(
            f"{display_name(path)} was written by a later medsr (version {version} of its tables, this one knows "
            f"{len(MIGRATIONS)}); use that one, or another --out"
        )
