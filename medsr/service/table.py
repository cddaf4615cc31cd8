"""A cohort as a table (.csv): one row a scan or folder, with options of its own."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from medsr.errors import ConfigError
from medsr.request import Request

PATH = "path"
_OF_THE_RUN = ("target", "device", "threads")  # fields of Request that are no wish about one scan
_FAULTS = 5  # rows that one message names
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


@dataclass(frozen=True)
class Row:
    """path: absolute or below the table's folder. name: how names of its scans begin. options: fields of Request."""

    path: Path
    name: PurePosixPath
    options: Mapping[str, Any]


def columns() -> list[str]:
    """The columns a table may have beside ``path``: the options of ``medsr upscale``."""
    return [field.name for field in fields(Request) if field.name not in _OF_THE_RUN]


def read_table(path: Path) -> list[Row]:
    """Every row of a CSV file in UTF-8 with a column ``path``, relative to the file's own folder.

    Other columns are options of ``medsr upscale`` (``scale``, ``assume-spacing`` or ``assume_spacing``); an empty
    cell leaves the option as the command says. Paths need not exist: that is a fault of one scan, not of the table.
    Raises ConfigError, which names all bad rows, or the first of very many.
    """
    lines = _lines(path)
    header = [cell.lower().lstrip("-").replace("-", "_") for cell in lines[0]] if lines else []
    _check_header(path, header)
    parsers = {name: _parser(name) for name in header if name != PATH}
    rows: list[Row] = []
    faults: list[str] = []
    places: dict[tuple[Path, str | None], int] = {}
    for number, cells in enumerate(lines[1:], 2):
        try:
            row = _row(path.parent, header, cells, parsers)
            if (first := places.setdefault((row.path, row.options.get("series")), number)) != number:
                raise ValueError(f"{row.name} is in line {first} already")
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            rows.append(row)
    if faults:
        more = f"; and {len(faults) - _FAULTS} more" if len(faults) > _FAULTS else ""
        raise ConfigError(f"{path.name}: {'; '.join(faults[:_FAULTS])}{more}")
    if not rows:
        raise ConfigError(f"{path.name} has no rows below its head; give one row a scan")
    return rows


def called(path: Path) -> str:
    """The last name of a path, also of ``.`` and ``a/..``; of a link its own name, not that of what it leads to."""
    return Path(os.path.normpath(path.absolute())).name


def _lines(path: Path) -> list[list[str]]:
    """Cells of the lines that are not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path.name} cannot be read as CSV in UTF-8 ({error}); save it as such") from error
    lines = [line for line in lines if any(line)]
    if lines:  # spreadsheets add columns without head or content
        while lines[0] and not lines[0][-1] and not any(line[-1] for line in lines if len(line) == len(lines[0])):
            width = len(lines[0])
            lines = [line[:-1] if len(line) == width else line for line in lines]
    return lines


def _check_header(path: Path, header: Sequence[str]) -> None:
    known = columns()
    unknown = [name or "(empty)" for name in header if name not in (PATH, *known)]
    if PATH not in header and any(mark in name for name in header for mark in ";\t"):
        raise ConfigError(f"{path.name}: its columns are parted by semicolons or tabs; save it as CSV with commas")
    if PATH not in header:
        raise ConfigError(f"{path.name} has no column {PATH!r}; its first line names the columns, with commas between")
    if unknown:
        raise ConfigError(f"{path.name}: unknown column {', '.join(unknown)}; columns are: path, {', '.join(known)}")
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise ConfigError(f"{path.name}: column {', '.join(twice)} is there twice; leave one")


def _row(folder: Path, header: Sequence[str], cells: Sequence[str], parsers: Mapping[str, Callable[[str], Any]]) -> Row:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under {len(header)} columns (text with commas belongs in quotes)")
    values = dict(zip(header, cells, strict=True))
    if not values[PATH]:
        raise ValueError("no path")
    if "\0" in values[PATH]:
        raise ValueError("a path with a NUL character")
    options: dict[str, Any] = {}
    for name, parse in parsers.items():
        if values[name]:
            try:
                options[name] = parse(values[name])
            except ValueError as error:
                raise ValueError(f"{name} {values[name]!r}: {error}") from error
    if "dicom_template" in options:
        options["dicom_template"] = (folder / options["dicom_template"]).absolute()
    if "model" in options and (folder / options["model"]).is_file():
        options["model"] = str((folder / options["model"]).absolute())
    path = Path(values[PATH])
    inside = not path.is_absolute() and ".." not in path.parts
    return Row((folder / path).absolute(), PurePosixPath(path if inside else called(folder / path)), options)


# --- cells -----------------------------------------------------------------------------------------------------------


def _parser(name: str) -> Callable[[str], Any]:
    """How a cell becomes a value of that field of Request; ValueError says what is expected."""
    if name == "volume":
        return _volume
    hint = get_type_hints(Request)[name]
    kind = next(k for k in get_args(hint) if k is not NoneType) if get_origin(hint) is UnionType else hint
    if get_origin(kind) is Literal:
        return _choice(get_args(kind))
    if get_origin(kind) is tuple:
        return _numbers
    return _PARSERS[kind]


def _choice(choices: Sequence[str]) -> Callable[[str], str]:
    def parse(cell: str) -> str:
        if cell.lower() not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return cell.lower()

    return parse


def _flag(cell: str) -> bool:
    if cell.lower() not in (*_YES, *_NO):
        raise ValueError("expected yes or no")
    return cell.lower() in _YES


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError("expected a number") from None


def _whole(cell: str) -> int:
    if not cell.isascii() or not cell.isdecimal():
        raise ValueError("expected a whole number from 0")
    return int(cell)


def _numbers(cell: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in cell.lower().split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise ValueError("expected one number, or three joined by x, such as 1x1x3.3")
    return numbers


def _volume(cell: str) -> int | str:
    return "all" if cell.lower() == "all" else _whole(cell)


_PARSERS: Mapping[type, Callable[[str], Any]] = {bool: _flag, int: _whole, float: _number, Path: Path, str: str}
