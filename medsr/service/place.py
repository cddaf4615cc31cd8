"""Where a batch keeps its records in the folder of outputs, which part of a cohort it does, and that it is alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from medsr.errors import ConfigError, JobError, PlanError
from medsr.image.files import display_name

FOLDER = ".medsr-batch"
STORE = "jobs.sqlite"
_LOCK = "lock"


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``count``: a scan belongs to it by a hash of its name, whatever else is there."""

    index: int
    count: int

    def holds(self, name: str) -> bool:
        """True for a scan that this part does; for exactly one of all parts."""
        return int(hashlib.sha256(name.encode()).hexdigest(), 16) % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def part_of(text: str | None) -> Shard | None:
    """The part that ``--shard`` names; without it the one of a SLURM array; None: everything. Raises ConfigError."""
    return shard_of_array(os.environ) if text is None else shard_by_text(text)


def shard_by_text(text: str) -> Shard:
    """``2/8``. Raises ConfigError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"--shard {text!r} is not I/N, such as 2/8: part I, from 1, of N")
    return Shard(int(index), int(count))


def shard_of_array(environment: Mapping[str, str]) -> Shard | None:
    """The part that a task of a SLURM array does; None outside an array.

    Raises ConfigError for an array with gaps (``--array=1,5,7``), whose tasks cannot tell which of how many they are.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    try:
        task, least, most, count = (
            int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "MAX", "COUNT")
        )
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1")) or 1
    except (KeyError, ValueError) as error:
        raise ConfigError("the variables SLURM_ARRAY_TASK_* are incomplete; give --shard I/N") from error
    if (most - least) // step + 1 != count or (task - least) % step or not least <= task <= most:
        raise ConfigError(f"the SLURM array has gaps (tasks {least} to {most}, {count} of them); give --shard I/N")
    return Shard((task - least) // step + 1, count)


@dataclass(frozen=True)
class Place:
    """The folder of outputs and the part of the batch that writes there."""

    out: Path
    shard: Shard | None = None

    @property
    def folder(self) -> Path:
        """Of the records, hidden."""
        base = self.out / FOLDER
        return base if self.shard is None else base / f"shard-{self.shard.index}-of-{self.shard.count}"

    @property
    def store(self) -> Path:
        """The list of jobs."""
        return self.folder / STORE

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.out / "logs"

    @property
    def name(self) -> str:
        """What files of this part are called: ``batch`` or ``shard-2-of-8``."""
        return "batch" if self.shard is None else self.folder.name

    def make(self) -> None:
        """Make the folders. Raises JobError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise JobError(
                f"cannot write into {self.out}: {error.strerror}; choose another place with --out"
            ) from error

    @contextlib.contextmanager
    def log(self) -> Iterator[TextIO]:
        """The log of the batch itself, to add to. Raises JobError."""
        path = self.logs / f"{self.name}.jsonl"
        try:
            stream = path.open("a", encoding="utf-8")
        except OSError as error:
            raise JobError(f"cannot write {path}: {error.strerror}; choose another place with --out") from error
        with stream:
            yield stream

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While no other batch writes here: none at all, or of several parts no second one of this part.

        Raises PlanError when there is one. The lock ends with the process, however that ends.
        """
        with contextlib.ExitStack() as stack:
            if self.shard is not None:
                stack.enter_context(_locked(self.out / FOLDER / _LOCK, self.out, shared=True))
            stack.enter_context(_locked(self.folder / _LOCK, self.out, shared=False))
            yield

    @contextlib.contextmanager
    def joining(self) -> Iterator[None]:
        """While no other part reads or writes what the parts make together; waits for it."""
        with _open(self.out / FOLDER / "join", self.out) as stream:
            _flock(stream, shared=False, wait=True)
            yield

    def parts(self) -> list[Path]:
        """The record folders of all parts that have been here, that of an undivided batch first."""
        return [self.out / FOLDER, *sorted((self.out / FOLDER).glob("shard-*-of-*"))]


@contextlib.contextmanager
def _locked(path: Path, out: Path, *, shared: bool) -> Iterator[None]:
    with _open(path, out) as stream:
        try:
            _flock(stream, shared=shared, wait=False)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read(200).decode(errors="replace").strip()
            raise PlanError(
                f"another batch is writing into {display_name(out.resolve())}{f' ({holder})' if holder else ''}; wait "
                "for it or end it, or choose another --out. The same command goes on where it stopped"
            ) from error
        if not shared:
            stream.seek(0)
            stream.truncate()
            stream.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            stream.flush()
        yield


@contextlib.contextmanager
def _open(path: Path, out: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("a+b")
    except OSError as error:
        raise JobError(f"cannot write into {out}: {error.strerror}; choose another place with --out") from error
    with stream:
        yield stream


def _flock(stream: BinaryIO, *, shared: bool, wait: bool) -> None:
    if sys.platform != "win32":
        import fcntl

        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(stream, how if wait else how | fcntl.LOCK_NB)
