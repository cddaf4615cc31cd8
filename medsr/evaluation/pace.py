"""How much of a study is done, by voxels and by what each method costs, for progress with the time left."""

from __future__ import annotations

from medsr.evaluation.record import MethodFacts
from medsr.evaluation.request import StudyRequest
from medsr.plan import evaluations_of_a_sample
from medsr.request import Request
from medsr.run import Progress

MEAN_COST = 3.0  # of the network's mean, in units of a classical method with its comparison; a sample's evaluation: 1


class Pace:
    """Counts work, in voxels times ``cost``, and reports the share of all that is done, whatever the stage."""

    def __init__(self, work: float, report: Progress | None) -> None:
        self._work, self._report = max(work, 1.0), report
        self._done, self._until, self._stage = 0.0, 0.0, "starting"

    def begin(self, stage: str, work: float) -> None:
        """A part that is ``work`` in all."""
        self._stage, self._until = stage, self._done + work
        self._say(0.0)

    def step(self, work: float) -> None:
        """So much of the part is done."""
        self._done += work
        self._say(0.0)

    def end(self) -> None:
        """The part is over, done or failed."""
        self._done = self._until

    def within(self, work: float) -> Progress:
        """Progress of a piece that is ``work`` in all: by the share of its network, which takes nearly all its time."""

        def report(stage: str, share: float) -> None:
            if stage == "network":
                self._say(work * share)

        return report

    def _say(self, more: float) -> None:
        if self._report is not None:
            self._report(self._stage, min(1.0, (self._done + more) / self._work))


def cost(method: MethodFacts, request: StudyRequest) -> float:
    """Of a method for one voxel, relative to a classical one."""
    if method.kind != "medsr":
        return 1.0
    drawn = evaluations_of_a_sample(Request(steps=request.steps, sampler=request.sampler)) if method.texture else 0
    return 1.0 + MEAN_COST + drawn
