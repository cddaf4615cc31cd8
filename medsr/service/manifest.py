"""What became of every scan of a batch: ``manifest.jsonl`` and ``summary.csv``, made from the list of jobs alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medsr.errors import JobError
from medsr.image.files import atomic_write, display_name
from medsr.service.jobs import Job, JobStore
from medsr.service.place import Place

MANIFEST, TABLE = "manifest.jsonl", "summary.csv"
_COLUMNS = (
    "name", "state", "exit_code", "error", "output", "modality", "seconds", "residual", "attempts", "crashes",
    "input_sha256", "finished",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One scan. state: as in the list of jobs. output: relative to the folder of outputs; None for what was never
    planned. files: SHA-256 by path. modality: as the voxels told; before them, as planned. seconds: by stage.
    created, started, finished: seconds since 1970.
    """

    name: str
    state: str
    output: str | None
    input_sha256: str | None
    files: Mapping[str, str]
    plan: Mapping[str, Any] | None
    modality: str | None
    residual: float | None
    seconds: Mapping[str, float]
    attempts: int
    crashes: int
    worker: str | None
    warnings: tuple[str, ...]
    error: str | None
    exit_code: int | None
    key: str
    created: float
    started: float | None
    finished: float | None

    @classmethod
    def of(cls, job: Job) -> Row:
        """From the list of jobs."""
        outcome = job.outcome or {}
        return cls(
            name=job.name,
            state=job.state,
            output=job.task.get("output"),
            input_sha256=job.task.get("input_sha256"),
            files=outcome.get("files", {}),
            plan=job.task.get("plan"),
            modality=outcome.get("modality") or (job.task.get("plan") or {}).get("modality"),
            residual=outcome.get("residual"),
            seconds=outcome.get("seconds", {}),
            attempts=job.attempts,
            crashes=job.crashes,
            worker=outcome.get("worker"),
            warnings=tuple(outcome.get("warnings", ())),
            error=job.error,
            exit_code=0 if job.state == "done" else job.exit_code,
            key=job.key,
            created=job.created,
            started=job.started,
            finished=job.finished,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """From a line of the manifest."""
        given: dict[str, Any] = {name: value for name, value in values.items() if name in _FIELDS}
        return cls(**given | {"warnings": tuple(given["warnings"])})

    def to_json(self) -> dict[str, Any]:
        """A line of the manifest, as JSON values."""
        return dict(vars(self))

    @property
    def total_seconds(self) -> float | None:
        """All stages together; None where it was not done."""
        return sum(self.seconds.values()) if self.seconds else None


_FIELDS = frozenset(field.name for field in fields(Row))


def write_manifest(place: Place, store: JobStore) -> None:
    """Write this part's rows, and the manifest and table of all parts that have been here; row by row, never all.

    All files appear whole or stay as they were. Raises JobError when they cannot be written.
    """
    with atomic_write(place.folder / MANIFEST, overwrite=True) as stream:
        for job in store.jobs():
            stream.write(json.dumps(Row.of(job).to_json(), default=str).encode() + b"\n")
    with place.joining(), atomic_write(place.out / TABLE, overwrite=True) as table:
        table.write(_line(_COLUMNS))
        with atomic_write(place.out / MANIFEST, overwrite=True) as stream:
            for part in place.parts():
                for text, row in _lines(part / MANIFEST):
                    stream.write(text)
                    table.write(_line(_cells(row)))


def read_manifest(path: Path) -> Iterator[Row]:
    """The rows of a manifest. Raises JobError for what is none."""
    return (row for _, row in _lines(path))


def _lines(path: Path) -> Iterator[tuple[bytes, Row]]:
    """Each line with what it says; nothing where there is no manifest yet."""
    try:
        with path.open("rb") as stream:
            for text in stream:
                yield text, Row.from_json(json.loads(text))
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise JobError(f"{display_name(path)} is damaged ({error!r}); remove it and run the batch again") from error


def _cells(row: Row) -> Iterator[object]:
    values = row.to_json() | {
        "seconds": None if row.total_seconds is None else f"{row.total_seconds:.2f}",
        "residual": None if row.residual is None else f"{row.residual:.4g}",
    }
    return (values[column] for column in _COLUMNS)


def _line(values: Iterable[object]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(map(_cell, values))
    return stream.getvalue().encode()


def _cell(value: object) -> str:
    """Text for a spreadsheet, which must not take a file's name for a formula."""
    text = "" if value is None else str(value).encode(errors="backslashreplace").decode()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
