"""INDEX.csv: which scans there are, whose they are, and which part of the data each belongs to."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from medsr.errors import MedsrError
from medsr.image.acquired import Sharpness

REQUIRED = ("file", "subject", "split")
SPLITS = ("train", "val", "test")


def read_index(path: Path, optional: Mapping[str, str], error: type[MedsrError]) -> list[dict[str, str]]:
    """Every row, with the columns of ``optional`` filled in by its values where the file has none.

    Each file is listed once, and each subject (and person, where there is such a column) is in one split: else a model
    would be judged on what it has seen. Raises ``error`` for what is not so, for a table that is not CSV in UTF-8 with
    the columns file, subject and split, and for cells of modality and native that mean nothing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream, skipinitialspace=True) if any(line)]
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise error(f"{path} cannot be read as CSV in UTF-8 ({fault}); save it as such") from fault
    header = lines[0] if lines else []
    if missing := [column for column in REQUIRED if column not in header]:
        raise error(f"{path} has no column {', '.join(missing)}; it needs file, subject, split, with commas between")
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise error(
                f"{path}, row {number}: {len(line)} cells under {len(header)} columns; put text with commas in quotes"
            )
    rows = [dict(optional) | dict(zip(header, line, strict=True)) for line in lines[1:]]
    _check_splits(path, rows, error)
    for row in rows:
        _check_cells(path, row, error)
    return rows


def _check_splits(path: Path, rows: Sequence[dict[str, str]], error: type[MedsrError]) -> None:
    place: dict[tuple[str, str], str] = {}
    for row in rows:
        if not row["file"] or not row["subject"]:
            raise error(f"{path}: a row lacks its file or its subject ({row['file'] or row['subject']}); fill it in")
        if row["split"] not in SPLITS:
            raise error(f"{path}: split {row['split']!r} of {row['file']}; write train, val or test")
        if ("file", row["file"]) in place:
            raise error(f"{path} lists {row['file']} twice; leave one row")
        place["file", row["file"]] = row["split"]
        for column in ("subject", "person"):
            name = row.get(column)
            if name and place.setdefault((column, name), row["split"]) != row["split"]:
                raise error(
                    f"{path}: {column} {name!r} is in {place[column, name]} and in {row['split']}; "
                    "put all scans of one person into one split"
                )


def _check_cells(path: Path, row: dict[str, str], error: type[MedsrError]) -> None:
    modality, native = row.get("modality", ""), row.get("native", "")
    if modality not in ("", "MR", "CT"):
        raise error(f"{path.name}: modality {modality!r} of {row['file']}; write MR or CT, or leave it empty")
    axes = native.split("/") if native else []
    if len(axes) not in (0, 3) or not set(axes) <= set(get_args(Sharpness)):
        raise error(
            f"{path.name}: native {native!r} of {row['file']}; write native, smooth or band-limited for each axis, "
            "such as native/native/smooth, or leave it empty"
        )
