"""What lies in a folder: scans, archives and folders of DICOM; our own files and hidden ones are passed over."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medsr.image.dicom_files import Source, is_dicom, looks_headless
from medsr.image.nifti import MARK

SCANS = (".nii", ".nii.gz", ".mgz", ".mgh", ".hdr", ".hdr.gz")
_OTHERS = (".json", ".csv", ".tsv", ".txt", ".md", ".html", ".bval", ".bvec", ".img", ".img.gz", ".png")  # never DICOM
_DESCRIPTION = 540  # bytes, within which both versions of NIfTI have their description


@dataclass(frozen=True)
class Tree:
    """scans: NIfTI and MGH files. archives: zips. dicom: folders that hold DICOM files; what lies below each belongs to
    it. closed: folders that may not be read.

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
    A folder that holds DICOM files is one place to look for series, with all below it; folders of folders (patients,
    studies) are not, since they may hold millions of files.
    """
    scans: list[Path] = []
    archives: list[Path] = []
    dicom: list[Path] = []
    closed: list[Path] = []
    seen = {os.path.realpath(folder)}
    pending = [(folder, False)]  # and whether a folder above it is in ``dicom``
    while pending:
        top, covered = pending.pop()
        level = _level(top, leave_out, seen, closed)
        others = []
        for path in level.files:  # some may be links to nothing, or pipes: as scans they are refused later
            name = path.name.lower()
            if name.endswith(SCANS):
                scans.append(path)
            elif name.endswith(".zip"):
                archives.append(path)
            elif not name.endswith(_OTHERS):
                others.append(path)
        if not covered and any(_may_be_dicom(path) for path in others):
            dicom.append(top)
            covered = True
        pending += [(path, covered) for path in level.folders]
        pending += [(path, False) for path in level.links]
    scans = [path for path in scans if not made_by_medsr(path)]
    return Tree(tuple(sorted(scans)), tuple(sorted(archives)), tuple(sorted(dicom)), tuple(sorted(closed)))


def is_hidden(path: Path, below: Path) -> bool:
    """True when a name on the way from ``below`` to ``path`` begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def made_by_medsr(path: Path) -> bool:
    """True for a NIfTI file whose description says that medsr upscaled it: it is no input of a cohort."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            start = stream.read(_DESCRIPTION)
            if start[:2] == b"\x1f\x8b":
                stream.seek(0)
                with gzip.GzipFile(fileobj=stream) as inflated:
                    start = inflated.read(_DESCRIPTION)
    except (OSError, EOFError, zlib.error):
        return False  # what is wrong with it is said when it is planned
    return f"medsr: {MARK}".encode() in start


def packed_scans(path: Path) -> int:
    """How many NIfTI and MGH files lie in a zip, from which only DICOM is read; 0 for what is no zip."""
    try:
        if not path.is_file():
            return 0
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name).name.lower() for name in archive.namelist()]
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return 0  # what is wrong with it is said when DICOM is looked for
    return sum(name.endswith(SCANS) and not name.startswith(".") for name in names)


@dataclass
class _Level:
    """What lies in one folder. links: to folders."""

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


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
        if _is_folder(entry):
            real = os.path.realpath(path)
            if real not in seen and real != str(leave_out):
                seen.add(real)
                (level.links if entry.is_symlink() else level.folders).append(path)
        else:
            level.files.append(path)
    return level


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a closed folder
        return False


def _may_be_dicom(path: Path) -> bool:
    """True for DICOM, and for what seems DICOM without its preamble, which is refused and not passed over."""
    source = Source(path, path.name)
    try:
        return path.is_file() and (is_dicom(source) or looks_headless(source))
    except OSError:
        return False
