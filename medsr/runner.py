"""What the passes of one run share: the model, how it is run over the slices of a plane, and the sidecar's counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medsr.diffusion.model import Model
from medsr.diffusion.slices import Plane, batches, stacked, tissue_slices, unstacked, with_neighbours
from medsr.image.volume import Modality


@dataclass
class Runner:
    """What every pass of one run shares: the model, how to run it, and the counts for the sidecar."""

    model: Model
    modality: Modality
    autocast: torch.dtype | None
    shrink: int
    report: Callable[[str, float], None]
    timings: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0
    noise: float = math.nan
    _done: float = 0.0
    _work: float = 1.0

    def plan_work(self, passes: int) -> None:
        """How many passes the run will make, for the share in progress reports."""
        self._work = max(1, passes)

    def advance(self, share: float) -> None:
        """A share of one pass is done."""
        self._done += share
        self.report("network", min(1.0, self._done / self._work))

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time inside the block to ``stage``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class Told:
    """What the networks are told of one plane: conditions (1, F) and the residual's scale (1,)."""

    plane: Plane
    conditions: Tensor
    scale: Tensor

    def on(self, device: torch.device) -> Told:
        """The same on another device."""
        return replace(self, conditions=self.conditions.to(device), scale=self.scale.to(device))


def over_slices(
    volumes: list[Tensor], plane: Plane, air: list[float], runner: Runner, run: Callable[..., Tensor], share: float
) -> list[Tensor]:
    """``run(*batches of slices)`` over the tissue slices of ``volumes[0]``; one volume per value in ``air``.

    air: what an output is in slices that hold nothing but air, which need no network.
    """
    device = runner.model.device
    slices = [stacked(v, plane) for v in volumes]
    found = tissue_slices(slices[0])
    out = [torch.full(slices[0].shape, value) for value in air]
    groups = list(batches(found, slices[0][0].numel(), device, runner.shrink))
    for group in groups:
        context = runner.model.card.context
        inputs = [with_neighbours(slices[0], group, context), *(s[group][:, None] for s in slices[1:])]
        result = run(*(t.to(device) for t in inputs)).float().cpu()
        for channel, target in enumerate(out):
            target[group] = result[:, channel]
        runner.advance(share / len(groups))
    if not groups:
        runner.advance(share)
    return [unstacked(t, plane) for t in out]
