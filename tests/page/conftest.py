"""An exhibit whose every voxel is known."""

from __future__ import annotations

import numpy as np
import pytest

from medsr.page.viewer import Exhibit, Picture

SHAPE = (20, 24, 12)


@pytest.fixture
def exhibit() -> Exhibit:
    """MR in display order: smooth images that differ, one bright voxel in each corner region, thick slices."""
    i, j, k = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in SHAPE], indexing="ij")
    reference = 100 + 10 * i + 5 * j + 20 * k
    cubic = reference + 30 * np.sin(i)
    medsr = reference + 10 * np.cos(j)
    pictures = (
        Picture("scan", "scan, nearest", np.repeat(reference[::2], 2, 0)),
        Picture("cubic", "cubic", cubic),
        Picture("medsr", "medsr", medsr),
        Picture("reference", "reference", reference),
        Picture("std", "stated deviation", 5 + k, "std"),
        Picture("detail", "detail", medsr - cubic, "signed"),
    )
    return Exhibit(pictures, (1.0, 1.0, 3.0), "LPS", "MR", "cubic", "medsr")
