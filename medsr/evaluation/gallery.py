"""The crop of one task that the report's viewer shows, filled as its methods end and kept over an interruption."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.evaluation.casefile import Case, case_path, crop_of_case, read_case, write_case
from medsr.evaluation.methods import Task
from medsr.image.volume import Array

CLASSICAL = {"nearest": "scan", "cubic": "cubic"}  # methods under the names that they have in a case


class Gallery:
    """Pieces of a task's images, by the names of casefile.IMAGES. ``save`` writes what has come since the last time."""

    def __init__(self, task: Task, mask: NDArray[np.bool_], out: Path) -> None:
        self._path = case_path(out, task.protocol, task.entry.name)
        self._cut = crop_of_case(mask, task.slice_axis)
        reference = task.reference
        self._grid = (reference.geometry.spacing, task.slice_axis, reference.geometry.axis_codes)
        self._images: dict[str, Array] = {}
        self._changed = True
        if self._path.is_file():
            with contextlib.suppress(InputError):  # half a file cannot be; a foreign one is made anew
                self._images = dict(read_case(self._path).images)
        self._images["reference"] = reference.array[self._cut].copy()

    @property
    def lacks(self) -> set[str]:
        """Classical methods whose images are still wanted."""
        return {method for method, name in CLASSICAL.items() if name not in self._images}

    def show(self, name: str, image: Array) -> None:
        """Take the piece of one image (I, J, K); name: of casefile.IMAGES."""
        self._images[name] = image[self._cut].copy()
        self._changed = True

    def save(self) -> None:
        """To the disk, if anything has changed. Raises JobError."""
        if self._changed:
            write_case(Case(self._images, *self._grid), self._path)
            self._changed = False
