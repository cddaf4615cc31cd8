"""Small training volumes in normalised units."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medsr.training.draws import Source


def tissue(shape, seed=0) -> np.ndarray:
    """A body with blobs of tissue and a fine texture, band-limited to what the grid can hold; 0 to about 1."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), -1)
    image = 0.5 * (np.square(grid / 0.85).sum(-1) < 1)
    for _ in range(30):
        centre = rng.uniform(-0.6, 0.6, 3)
        image += rng.uniform(-0.15, 0.2) * (np.square((grid - centre) / rng.uniform(0.1, 0.35)).sum(-1) < 1)
    image *= 1 + 0.2 * ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    return ndimage.gaussian_filter(np.clip(image, 0, None), 0.7).astype(np.float32)


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """One MR and one CT volume of near-isotropic voxels."""
    sharp = ("native", "native", "native")
    return [
        Source(tissue((96, 80, 40)), (1.0, 1.0, 1.2), sharp, 2, "MR", "head", 0.6),
        Source(tissue((88, 100, 36), 1), (0.8, 0.8, 1.0), sharp, 2, "CT", "trunk", 0.4),
    ]
