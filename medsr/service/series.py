"""The DICOM series of a cohort: found once, remembered without their headers, told apart when they are copies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medsr.image.dicom_read import Series


@dataclass(frozen=True)
class SeriesFound:
    """What ``find_series`` says of a series, without its headers, of which a hospital's archive has millions.

    folder: relative to what was searched. path: to search again for this series alone. places: a hash of where its
    slices lie, in this process.
    """

    uid: str
    part: int | None
    number: int | None
    path: Path
    folder: PurePosixPath
    text: str
    fault: str | None
    foreign: str | None
    no_image: bool
    places: int

    @property
    def identity(self) -> str:
        """What ``choose_series`` finds it by: UID, with the part where there are several."""
        return self.uid if self.part is None else f"{self.uid}/{self.part}"

    @property
    def name(self) -> PurePosixPath:
        """``folder/series-4-0c1d2e3f``: number and a hash of the UID; text of a file never becomes a file name."""
        number = "" if self.number is None else f"{self.number}-"
        return self.folder / f"series-{number}{hashlib.sha256(self.identity.encode()).hexdigest()[:8]}"

    def is_called(self, wanted: str) -> bool:
        """True when ``--series`` means this one."""
        label = self.uid if self.number is None else str(self.number)
        return wanted in {label, self.uid, self.identity, label if self.part is None else f"{label}/{self.part}"}


def relative(path: Path, top: Path) -> PurePosixPath:
    """The way from ``top`` down to ``path``, with "/"."""
    return PurePosixPath(path.relative_to(top).as_posix())


@dataclass(frozen=True)
class Spread:
    """Series of which several folders hold slices."""

    uids: frozenset[str]
    folders: frozenset[Path]

    @property
    def common(self) -> Path:
        """The deepest folder that holds them all."""
        return Path(os.path.commonpath(self.folders))


def spread_series(found: Mapping[Path, Sequence[SeriesFound]]) -> list[Spread]:
    """The series that folders share, none of which holds all slices. Those that hold the same places are copies.

    Series whose common folders lie in one another are one ``Spread``; else each is looked at where it is, however
    large the tree around it.
    """
    places: dict[str, dict[Path, set[int]]] = {}
    for folder, series in found.items():
        for one in series:
            places.setdefault(one.uid, {}).setdefault(folder, set()).add(one.places)
    spread: list[Spread] = []
    for uid, held in places.items():
        if len({frozenset(parts) for parts in held.values()}) > 1:
            new = Spread(frozenset({uid}), frozenset(held))
            near = [s for s in spread if s.common.is_relative_to(new.common) or new.common.is_relative_to(s.common)]
            spread = [s for s in spread if s not in near]
            parts = [new, *near]
            spread.append(
                Spread(frozenset().union(*(s.uids for s in parts)), frozenset().union(*(s.folders for s in parts)))
            )
    return sorted(spread, key=lambda s: s.common)


def series_in(path: Path) -> list[SeriesFound]:
    """What a folder, zip or file holds. Raises InputError when there is no DICOM file to be read."""
    from medsr.image.dicom_read import find_series

    found = find_series(path)
    # Of a series in parts, each part needs the files of all: alone it would be numbered otherwise.
    files: dict[tuple[str, str], set[Path]] = {}
    for series in found:
        files.setdefault((series.study, series.uid), set()).update(head.source.path for head in series.heads)
    return [_described(series, path, files[series.study, series.uid]) for series in found]


def _described(series: Series, searched: Path, files: set[Path]) -> SeriesFound:
    """files: of the whole series; of a zip, the zip itself."""
    where = next(iter(files)) if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
    folder = where.parent if where.is_file() else where
    return SeriesFound(
        uid=series.uid,
        part=series.part,
        number=series.number,
        path=where,
        folder=relative(folder, searched) if folder.is_relative_to(searched) else PurePosixPath(),
        text=str(series),
        fault=series.fault,
        foreign=series.foreign,
        no_image=series.no_image,
        places=hash(frozenset(tuple(np.round(f.position, 2).tolist()) for volume in series.volumes for f in volume)),
    )
