"""A scan in memory: voxels, where they are, what they measure and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medsr.image.geometry import Geometry

Modality = Literal["MR", "CT"]
GivenModality = Literal["auto", "mr", "ct"]  # as a user says it
Array = NDArray[np.float32]


def given_modality(word: GivenModality) -> Modality | None:
    """What a user says that a scan is; None where it is to be found out."""
    said: dict[GivenModality, Modality | None] = {"auto": None, "mr": "MR", "ct": "CT"}
    return said[word]


@dataclass(frozen=True)
class Provenance:
    """Where voxels came from (file name, sha256 of the file) and, in order, what was done to them (JSON values)."""

    source: str = ""
    sha256: str = ""
    steps: tuple[dict[str, Any], ...] = ()

    def then(self, step: str, **details: Any) -> Provenance:
        """The same history with one more step."""
        return replace(self, steps=(*self.steps, {"step": step, **details}))

    def to_json(self) -> dict[str, Any]:
        """The history as JSON values."""
        return {"source": self.source, "sha256": self.sha256, "steps": list(self.steps)}


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D scan.

    array: (I, J, K) float32, in HU for CT and in the scan's own units for MR. Raises ValueError when array and
    geometry disagree.
    """

    array: Array
    geometry: Geometry
    modality: Modality
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"array {self.array.shape} does not fit the geometry {self.geometry.shape}")
        if self.array.dtype != np.float32:
            object.__setattr__(self, "array", self.array.astype(np.float32))
