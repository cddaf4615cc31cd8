"""Which reference volumes a study looks at: an index with subjects and splits, or the scans of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from medsr.errors import InputError
from medsr.image.acquired import Sharpness
from medsr.image.files import sha256_of
from medsr.image.volume import Modality
from medsr.index import SPLITS, read_index
from medsr.outputs import stem

INDEX = "INDEX.csv"
OPTIONAL = {"person": "", "modality": "", "native": "", "phantom": "no", "sha256": ""}
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".mgz", ".mgh")
_BIDS_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/.])")


@dataclass(frozen=True)
class Entry:
    """One reference volume. name: its path below the data folder, with slashes.

    split, modality: None where nothing says so. sharpness: of each axis, empty where nobody looked. sha256: of the
    file, as it is now.
    """

    path: Path
    name: str
    subject: str
    split: str | None = None
    modality: Modality | None = None
    sharpness: tuple[Sharpness, ...] = ()
    phantom: bool = False
    sha256: str = field(default="", repr=False)


def read_manifest(data: Path, split: str | None = None) -> tuple[Entry, ...]:
    """The volumes of one split, in the order of the index, or of a plain folder by name; only they are opened.

    data: a CSV of the columns file, subject and split (optional: person, modality, native, phantom, sha256; paths are
    relative to it), or a folder with such an INDEX.csv, or a folder inside one, or any folder of scans. There each
    file is a subject of its own unless its path says sub-XX as in BIDS. split: default test, or the only one there is.

    Raises InputError for a subject in two splits, a file that is missing or not the one that the index was made of, a
    split that is not there, and a folder without scans.
    """
    index = _index_of(data)
    entries = _indexed(data, index) if index is not None else _found(data)
    chosen = _of_split(entries, split, data if index is None else index, plain=index is None)
    _check_names(chosen)
    return tuple(_checked(entry) for entry in chosen)


def _index_of(data: Path) -> Path | None:
    """The index that speaks of ``data``: the file itself, the folder's, or that of a folder above which lists it."""
    if data.is_file():
        return data
    if not data.is_dir():
        raise InputError(f"{data} does not exist; give a folder of scans, or a CSV of file, subject, split")
    folder = data.resolve()
    for place in (folder, folder.parent):
        index = place / INDEX
        if index.is_file():
            inside = place == folder or any(_below(place / r["file"], folder) for r in _rows(index))
            return index if inside else None
    return None


def _rows(index: Path) -> list[dict[str, str]]:
    return read_index(index, OPTIONAL, InputError)


def _indexed(data: Path, index: Path) -> list[tuple[Entry, str]]:
    """Entries of the index below ``data``, each with the sha256 that the index states."""
    root = index.parent.resolve()
    below = data.resolve() if data.is_dir() else root
    found = []
    for row in _rows(index):
        path = root / row["file"]
        if below != root and not _below(path, below):
            continue  # a folder inside the indexed one was asked for
        entry = Entry(
            path=path,
            name=path.relative_to(below).as_posix() if _below(path, below) else path.name,
            subject=row["subject"],
            split=row["split"],
            modality=cast(Modality | None, row["modality"] or None),
            sharpness=cast(tuple[Sharpness, ...], tuple(row["native"].split("/"))) if row["native"] else (),
            phantom=row["phantom"] not in ("", "no"),
        )
        found.append((entry, row["sha256"].lower()))
    return found


def _found(folder: Path) -> list[tuple[Entry, str]]:
    """The scans below a folder, hidden files left out."""
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(SUFFIXES) and p.is_file())
    names = [(path, path.relative_to(folder).as_posix()) for path in paths]
    visible = [(p, n) for p, n in names if not any(part.startswith(".") for part in n.split("/"))]
    if not visible:
        raise InputError(f"no scan in {folder}: it holds no {INDEX} and no file that ends in {', '.join(SUFFIXES)}")
    return [(Entry(path, name, _subject(name)), "") for path, name in visible]


def _subject(name: str) -> str:
    bids = _BIDS_SUBJECT.search(name)
    return bids[1] if bids else name.removesuffix(Path(name).name) + stem(Path(name))


def _of_split(
    entries: Sequence[tuple[Entry, str]], split: str | None, source: Path, *, plain: bool
) -> list[tuple[Entry, str]]:
    if plain:
        if split is not None:
            raise InputError(f"{source} has no {INDEX}, so no split {split}; leave --split away, or write an index")
        return list(entries)
    there = sorted({e.split for e, _ in entries if e.split}, key=SPLITS.index)
    wanted = split or ("test" if "test" in there else there[0] if len(there) == 1 else None)
    if wanted is None:
        found = f"has the splits {' and '.join(there)}" if there else "lists no scan of that folder"
        raise InputError(f"{source} {found} and no test; choose one with --split")
    if wanted not in there:
        raise InputError(f"{source} has no row of the split {wanted}; it has: {', '.join(there) or 'none'}")
    return [(e, s) for e, s in entries if e.split == wanted]


def _check_names(entries: Iterable[tuple[Entry, str]]) -> None:
    seen: dict[str, Path] = {}
    for entry, _ in entries:
        if (other := seen.setdefault(entry.name, entry.path)) != entry.path:
            raise InputError(
                f"{other} and {entry.path} lie outside the folder of their index and have one name; rename one of them"
            )


def _checked(pair: tuple[Entry, str]) -> Entry:
    """The entry with the sha256 of its file, which must be the stated one where one is stated."""
    entry, stated = pair
    if not entry.path.is_file():
        raise InputError(f"{entry.name} is listed and is not there ({entry.path}); correct the path or take it out")
    found = sha256_of(entry.path)
    if stated and stated != found:
        raise InputError(
            f"{entry.name} has the sha256 {found[:12]}..., its index says {stated[:12]}...: it is another file than "
            "the one that was listed; fetch that one, or correct the index"
        )
    return replace(entry, sha256=found)


def _below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)
