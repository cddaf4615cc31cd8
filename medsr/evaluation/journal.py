"""``outcomes.jsonl``: what a study has measured so far, safe on the disk, so that a killed study can go on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medsr.errors import ConfigError, InputError, JobError, PlanError
from medsr.evaluation.record import Exclusion, Outcome, VolumeFacts

NAME = "outcomes.jsonl"
_FILES, _FOLDERS = ("metrics.json", "metrics.csv", "report.html"), ("cases", "volumes")  # what else a study leaves


class Ceiling(BaseModel):
    """The PSNR in dB that the noise of a reference allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    volume: str
    psnr: float


class Journal:
    """What is known of a study: ``volumes`` by name, ``outcomes`` by (volume, protocol, method), ``excluded`` by
    (volume, protocol), ``ceilings`` by volume in dB. A line that was added is on the disk when ``add`` returns.

    created: when the study began, ISO 8601.
    """

    def __init__(self, stream: FileIO, created: str) -> None:
        self._stream = stream
        self.created = created
        self.volumes: dict[str, VolumeFacts] = {}
        self.outcomes: dict[tuple[str, str, str], Outcome] = {}
        self.excluded: dict[tuple[str, str], Exclusion] = {}
        self.ceilings: dict[str, float] = {}

    def add(self, part: VolumeFacts | Outcome | Exclusion | Ceiling) -> None:
        """One more line, for good. Raises JobError when it cannot be written."""
        kind = next(name for name, model in _KINDS.items() if isinstance(part, model))
        _append(self._stream, {kind: part.model_dump(mode="json")})
        self.know(part)

    def know(self, part: BaseModel) -> None:
        """Take in what a line says."""
        if isinstance(part, VolumeFacts):
            self.volumes[part.name] = part
        elif isinstance(part, Outcome):
            self.outcomes[part.volume, part.protocol, part.method] = part
        elif isinstance(part, Exclusion):
            self.excluded[part.volume, part.protocol] = part
        elif isinstance(part, Ceiling):
            self.ceilings[part.volume] = part.psnr


_KINDS: dict[str, type[BaseModel]] = {
    "volume": VolumeFacts, "outcome": Outcome, "excluded": Exclusion, "ceiling": Ceiling
}  # fmt: skip


@contextlib.contextmanager
def open_journal(
    folder: Path, identity: dict[str, Any], created: str, *, resume: bool, overwrite: bool
) -> Iterator[Journal]:
    """The journal of the study ``identity`` in ``folder``, which is made where it is missing.

    identity: JSON values, equal for studies whose outcomes may be mixed. resume: go on with a study that is there.
    overwrite: remove it. Raises ConfigError for both at once, PlanError for a study that is there and was not to be,
    or is another one, JobError when another process writes there or nothing can be written.
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with a study and --overwrite removes it; give one of them")
    path = folder / NAME
    with _locked(path) as stream:
        lines = _lines(stream)
        if overwrite:
            _remove_study(folder, stream, known=bool(lines))
            lines = []
        if not lines:
            _refuse_leftovers(folder)
            _append(stream, {"study": identity, "created": created})
            yield Journal(stream, created)
            return
        if not resume:
            raise PlanError(f"{folder} holds a study already; go on with it by --resume, or replace it by --overwrite")
        yield _continued(path, stream, lines, json.loads(json.dumps(identity)))


def _continued(path: Path, stream: FileIO, lines: list[bytes], identity: dict[str, Any]) -> Journal:
    try:
        head = json.loads(lines[0])
        held, created = head["study"], head["created"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the journal of a study; choose another --out, or --overwrite it") from error
    for key in dict.fromkeys((*identity, *held)):
        if held.get(key) != identity.get(key):
            both = _in_words(held.get(key), identity.get(key))
            raise PlanError(
                f"{path.parent} holds another study; they differ in: {key}{both}; choose another --out, or replace it "
                "by --overwrite"
            )
    journal = Journal(stream, created)
    for number, line in enumerate(lines[1:], 2):
        try:
            ((kind, value),) = json.loads(line).items()
            journal.know(_KINDS[kind].model_validate_json(json.dumps(value)))
        except (ValueError, KeyError, ValidationError) as error:
            raise InputError(f"{path}, line {number} is damaged; begin anew with --overwrite") from error
    return journal


def _in_words(held: Any, wanted: Any) -> str:
    """Both values where they are short enough for a message."""
    texts = [json.dumps(v) for v in (held, wanted)]
    return f" ({texts[0]} there, {texts[1]} now)" if max(map(len, texts)) < 60 else ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """The file, open to read and append, while no other process has it so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b", buffering=0)  # what failed to be written must not be tried again on closing
    except OSError as error:
        raise JobError(f"cannot write into {path.parent}: {error.strerror}; choose another place with --out") from error
    with stream:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                busy = f"another study is being written into {path.parent}; wait, or choose another --out"
                raise JobError(busy) from error
        yield stream


def _lines(stream: FileIO) -> list[bytes]:
    """The whole lines; half of one that a killed process left is cut away."""
    stream.seek(0)
    content = stream.read()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        stream.truncate(len(whole))
    return whole.splitlines()


def _append(stream: FileIO, value: dict[str, Any]) -> None:
    try:
        rest = json.dumps(value, allow_nan=False).encode() + b"\n"
        while rest:
            rest = rest[stream.write(rest) :]
        os.fsync(stream.fileno())
    except OSError as error:
        raise JobError(f"cannot write {NAME}: {error.strerror}; free some space and run again with --resume") from error


def _refuse_leftovers(folder: Path) -> None:
    for name in (*_FILES, *_FOLDERS):
        if (folder / name).exists():
            (folder / NAME).unlink()  # it was made just now, and is empty
            raise PlanError(f"{folder / name} exists and is of no study that could go on; choose another --out")


def _remove_study(folder: Path, stream: FileIO, *, known: bool) -> None:
    """known: a journal says that the folders, too, are a study's; without one they may be anybody's."""
    stream.truncate(0)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name in _FOLDERS if known else ():
        shutil.rmtree(folder / name, ignore_errors=True)
