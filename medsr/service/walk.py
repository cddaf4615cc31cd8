"""What lies in a folder: scans, archives and folders of DICOM; our own files and hidden ones are passed over."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medsr.image.nifti import MARK

SCANS = (".nii", ".nii.gz", ".mgz", ".mgh", ".hdr", ".hdr.gz")
_OTHERS = (".json", ".csv", ".tsv", ".txt", ".md", ".html", ".bval", ".bvec", ".img", ".img.gz", ".png")  # never DICOM
_PREAMBLE = 132  # bytes: 128 for anybody, then DICM
_DESCRIPTION = 540  # bytes, within which both versions of NIfTI have their description


@dataclass(frozen=True)
class Tree:
    """scans: NIfTI and MGH files. archives: zips. dicom: folders, below each of which there are DICOM files.
    closed: folders that may not be read.

    Paths begin with the folder that was walked; all are sorted.
    """

    scans: tuple[Path, ...]
    archives: tuple[Path, ...]
    dicom: tuple[Path, ...]
    closed: tuple[Path, ...] = ()


def walk(folder: Path, *, leave_out: Path) -> Tree:
    """Look through ``folder`` and everything below it.

    Links to folders are followed, each folder once, so that a loop of links ends. Passed over are names that begin
    with a dot (files in the making of medsr among them), the folder ``leave_out``, and images that medsr itself made.
    """
    scans: list[Path] = []
    archives: list[Path] = []
    dicom: list[Path] = []
    closed: list[Path] = []
    for root in _roots(folder, leave_out, closed):
        holds_dicom = False
        for path in root.files:
            name = path.name.lower()
            if name.endswith(SCANS):
                if not made_by_medsr(path):
                    scans.append(path)
            elif name.endswith(".zip"):
                archives.append(path)
            elif not holds_dicom and not name.endswith(_OTHERS):
                holds_dicom = _begins_as_dicom(path)
        if holds_dicom:
            dicom.append(root.folder)
    return Tree(tuple(sorted(scans)), tuple(sorted(archives)), tuple(sorted(dicom)), tuple(sorted(closed)))


def is_hidden(path: Path, below: Path) -> bool:
    """True when a name on the way from ``below`` to ``path`` begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def made_by_medsr(path: Path) -> bool:
    """True for a NIfTI file whose description says that medsr upscaled it: it is no input of a cohort."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_DESCRIPTION)
            if start[:2] == b"\x1f\x8b":
                stream.seek(0)
                with gzip.GzipFile(fileobj=stream) as inflated:
                    start = inflated.read(_DESCRIPTION)
    except (OSError, EOFError, zlib.error):
        return False  # what is wrong with it is said when it is planned
    return f"medsr: {MARK}".encode() in start


@dataclass(frozen=True)
class _Root:
    """A folder that ``find_series`` can look through in one go: without links, and not too large to be one study."""

    folder: Path
    files: tuple[Path, ...]


@dataclass
class _Level:
    """What lies in one folder. links: to folders."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


def _roots(folder: Path, leave_out: Path, closed: list[Path]) -> Iterator[_Root]:
    """The folder and what must be looked at apart from it: folders behind links, and, where the folder itself holds
    nothing but folders (patients, studies), each of these."""
    seen = {os.path.realpath(folder)}
    pending = [folder]
    while pending:
        top = pending.pop()
        level = _level(top, leave_out, seen, closed)
        pending += level.links
        if not level.files:
            pending += level.folders
            continue
        files, below = level.files, level.folders
        while below:
            deeper = _level(below.pop(), leave_out, seen, closed)
            files += deeper.files
            below += deeper.folders
            pending += deeper.links
        yield _Root(top, tuple(files))


def _level(folder: Path, leave_out: Path, seen: set[str], closed: list[Path]) -> _Level:
    """One folder, without the folders that were ``seen``, which is added to, as is ``closed``."""
    level = _Level()
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        closed.append(folder)
        return level
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            real = os.path.realpath(path)
            if real not in seen and real != str(leave_out):
                seen.add(real)
                (level.links if entry.is_symlink() else level.folders).append(path)
        elif entry.is_file() or entry.is_symlink():  # a link to nothing is a scan that is missing, and said to be so
            level.files.append(path)
    return level


def _begins_as_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE)[128:] == b"DICM"
    except OSError:
        return False
