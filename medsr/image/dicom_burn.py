"""A visible mark in the corner of every slice, drawn from letters of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medsr.errors import PlanError
from medsr.image.dicom_store import Samples

TEXTS = ("AI SR, NOT ACQUIRED", "AI SR")  # the first that fits
_WIDEST = 0.6  # of the slice's width that the mark may take
_PER_STEP = 384  # columns for which letters are drawn once as large again
_LETTERS = {
    "A": (".#.", "#.#", "###", "#.#", "#.#"),
    "C": (".##", "#..", "#..", "#..", ".##"),
    "D": ("##.", "#.#", "#.#", "#.#", "##."),
    "E": ("###", "#..", "##.", "#..", "###"),
    "I": ("#", "#", "#", "#", "#"),
    "N": ("#..#", "##.#", "#.##", "#..#", "#..#"),
    "O": (".#.", "#.#", "#.#", "#.#", ".#."),
    "Q": (".##.", "#..#", "#..#", "#.##", ".###"),
    "R": ("##.", "#.#", "##.", "#.#", "#.#"),
    "S": (".##", "#..", ".#.", "..#", "##."),
    "T": ("###", ".#.", ".#.", ".#.", ".#."),
    "U": ("#.#", "#.#", "#.#", "#.#", "###"),
    ",": (".", ".", ".", "#", "#"),
    " ": ("..", "..", "..", "..", ".."),
}


def burn_in(volumes: Sequence[Samples]) -> None:
    """Draw the mark into the upper left corner of every slice: letters as bright as the series gets, on its darkest.

    volumes: (K, rows, columns) each, changed in place. Raises PlanError when it does not fit.
    """
    mark = mark_for(volumes[0].shape[1], volumes[0].shape[2])
    low, high = min(v.min() for v in volumes), max(v.max() for v in volumes)
    for samples in volumes:
        samples[:, 1 : 1 + mark.shape[0], 1 : 1 + mark.shape[1]] = np.where(mark, high, low)


def mark_for(rows: int, columns: int) -> NDArray[np.bool_]:
    """The largest mark for a slice: (height, width), True where it is bright, with a dark rim of one dot.

    Raises PlanError when none fits.
    """
    for text in TEXTS:
        drawn = np.pad(_drawn(text), 1)
        room = _WIDEST * columns if text is TEXTS[0] else columns - 2
        factor = max(1, min(1 + columns // _PER_STEP, int(room // drawn.shape[1])))
        mark = drawn.repeat(factor, axis=0).repeat(factor, axis=1)
        if mark.shape[1] <= room and mark.shape[0] <= rows - 2:
            return mark
    raise PlanError(f"--burn-in: slices of {columns} x {rows} pixels have no room for a mark; leave it out")


def _drawn(text: str) -> NDArray[np.bool_]:
    rows = [".".join(_LETTERS[letter][row] for letter in text) for row in range(5)]
    return np.array([[dot == "#" for dot in row] for row in rows])
