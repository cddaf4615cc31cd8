"""The state of a training between two commands: state.pt in the folder of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medsr.errors import ConfigError
from medsr.image.files import atomic_write


@dataclass
class State:
    """Everything that a resumed run needs beside the data.

    stage, step, seconds: where it is, the last two within the stage. weights: of the parts trained so far. average:
    of the part under way. minutes, steps: spent on each part by finished stages.
    """

    stage: int
    step: int
    seconds: float
    weights: dict[str, dict[str, Tensor]]
    average: list[Tensor]
    optimiser: dict[str, Any] | None
    scale: tuple[float, ...]
    minutes: dict[str, float]
    steps: dict[str, int]

    def begin_next_stage(self) -> None:
        """Nothing of the finished stage is left but its weights and its count."""
        self.stage, self.step, self.seconds = self.stage + 1, 0, 0.0
        self.average, self.optimiser = [], None


def save_state(path: Path, state: State) -> None:
    """Replace the file, so that a killed run finds either the old or the new state. Raises JobError."""
    with atomic_write(path, overwrite=True) as stream:
        torch.save(vars(state), stream)


def load_state(path: Path) -> State:
    """The state of an interrupted run in its own folder (tensors and plain values only), on the CPU."""
    try:
        return State(**torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it to start again") from error
