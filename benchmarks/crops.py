"""Pieces of the reference volumes in $MEDSR_DATA, degraded in memory as a protocol says: what studies in memory run on.

The index is the one that ``medsr evaluate`` reads; phantoms are left out, and volumes that a protocol does not admit.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medsr.crops import Crop, degraded, middle
from medsr.evaluation.manifest import Entry, read_manifest
from medsr.image.nifti import inspect, read
from medsr.protocols import protocol
from medsr.training.setup import data_root

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True)
class Size:
    """In plane: ``side`` x ``side`` voxels of ``slices`` slices. Along slices: ``columns`` x ``columns`` of all."""

    side: int
    slices: int
    columns: int


def admitted(split: str, protocols: Sequence[str], files: Collection[str] = ()) -> Iterator[tuple[Entry, str]]:
    """Volumes of people and the protocols that admit them. files: names to which it is limited, if any."""
    for entry in read_manifest(data_root(), split):
        header = inspect(entry.path)
        modality = entry.modality or header.modality
        if entry.phantom or modality is None or (files and entry.path.name not in files):
            continue
        for name in protocols:
            if protocol(name).unfit(header.geometry, modality, header.slice_axis, entry.sharpness) is None:
                yield entry, name


def crop(entry: Entry, name: str, size: Size) -> Crop:
    """The middle of a volume under a protocol, whole along the slice axis where that is made coarser."""
    header = inspect(entry.path)
    volume = read(entry.path, modality=entry.modality, header=header)
    along = header.slice_axis
    through = protocol(name).axes == "slice"
    most = [size.columns if through else size.side] * 3
    most[along] = volume.array.shape[along] if through else size.slices
    return degraded(middle(volume, most), name, entry.path, along)


def log_look(weights: str, command: str) -> None:
    """A look at the test split is a line of docs/results/log.csv."""
    path = RESULTS / "log.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if is_new:
            writer.writerow(["date", "weights", "command"])
        writer.writerow([datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), weights, command])
