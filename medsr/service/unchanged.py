"""That a scan, its template and the model are still what was planned, from planning until its result is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsr.errors import InputError, PlanError
from medsr.image.dicom_files import Source
from medsr.image.files import display_name
from medsr.run import Prepared
from medsr.service.identity import files_of, hash_of
from medsr.service.tasks import Task


@dataclass(frozen=True)
class Stamp:
    """What the file system says of one file; for a member of a zip, of the zip."""

    path: Path
    size: int
    modified_ns: int
    inode: int


@dataclass(frozen=True, eq=False)
class Origin:
    """The files that a scan was read from, the template of its tags among them. stamps: as they were at that time."""

    path: Path
    files: tuple[Source, ...]
    stamps: frozenset[Stamp]

    def check(self) -> None:
        """Refuse files that changed under the work: tags, further volumes and directions are read as it goes on.

        Far cheaper than hashes, and blind only to who changes a file and sets its time back. Raises InputError.
        """
        try:
            same = stamps_of(self.files) == self.stamps
        except OSError:
            same = False
        if not same:
            raise _changed(self.path, "it was read")


def origin_of(task: Task, prepared: Prepared) -> Origin:
    """Where a scan came from, once it is read, by the hashes of all its files.

    Raises InputError for files, and PlanError for a model, that are not those that were planned: the results would
    stand under the key of other work.
    """
    if prepared.plan.model_sha256 != task.plan["model_sha256"]:
        raise PlanError(f"model {prepared.plan.model} has changed since the batch was planned; run the batch again")
    scan = files_of(prepared.header, task.request)
    template: tuple[Source, ...] = ()
    if task.request.dicom_template is not None and prepared.tags is not None:
        template = files_of(prepared.tags, task.request)
    try:
        stamps = stamps_of((*scan, *template))
    except OSError as error:
        raise _changed(task.path, "the batch was planned") from error
    # Of one file, reading it has told the hash.
    read = prepared.first.volume.provenance.sha256 if len(scan) == 1 else hash_of(scan)
    if read != task.input_sha256:
        raise _changed(task.path, "the batch was planned")
    if template and hash_of(template) != task.template_sha256:
        raise _changed(task.request.dicom_template or task.path, "the batch was planned")
    return Origin(task.path, (*scan, *template), stamps)


def stamps_of(files: Sequence[Source]) -> frozenset[Stamp]:
    """Equal to those of before unless a file was written to or replaced. Raises OSError for one that is gone."""
    found = {path: path.stat() for path in dict.fromkeys(file.path for file in files)}
    return frozenset(Stamp(path, s.st_size, s.st_mtime_ns, s.st_ino) for path, s in found.items())


def _changed(path: Path, since: str) -> InputError:
    return InputError(f"{display_name(path)} has changed since {since}; run the batch again")
