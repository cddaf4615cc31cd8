"""What a study is to find out, what its tasks share, and what is still missing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsr import __version__
from medsr.card import ModelCard
from medsr.evaluation.journal import Journal
from medsr.evaluation.methods import file_of
from medsr.evaluation.pace import Pace, cost
from medsr.evaluation.record import MethodFacts
from medsr.evaluation.request import StudyRequest
from medsr.evaluation.survey import Candidate, Survey
from medsr.protocols import Protocol

if TYPE_CHECKING:
    from medsr.diffusion.model import Model

Missing = dict[str, tuple[MethodFacts, ...]]  # by protocol, the methods without an outcome


@dataclass(frozen=True, eq=False)
class Design:
    """What is compared, on what, under which rules; known before a voxel is read."""

    request: StudyRequest
    rules: Mapping[str, Protocol]
    methods: tuple[MethodFacts, ...]
    card: ModelCard
    survey: Survey

    def identity(self) -> dict[str, Any]:
        """JSON values that are equal where outcomes may stand in one table."""
        request = self.request
        return {
            "medsr": __version__,
            "model": self.card.sha256,
            "protocols": {name: rule.model_dump(mode="json") for name, rule in self.rules.items()},
            "methods": [method.name for method in self.methods],
            "sampler": [request.sampler, request.steps, request.seed],
            "device": request.device,
            "keep-volumes": request.keep_volumes,
            "volumes": {c.entry.name: [c.entry.subject, c.entry.sha256] for c in self.survey.candidates},
        }

    def missing(self, candidate: Candidate, journal: Journal) -> Missing:
        """What no outcome tells of one volume yet. Of other tools only what their folders hold."""
        name, folders = candidate.entry.name, dict(self.request.compare)
        found = {
            protocol: tuple(
                m
                for m in self.methods
                if (name, protocol, m.name) not in journal.outcomes
                and (m.kind != "other" or file_of(folders[m.name], protocol, name) is not None)
            )
            for protocol in candidate.protocols
            if (name, protocol) not in journal.excluded
        }
        return {protocol: left for protocol, left in found.items() if left}

    def work(self, candidate: Candidate, left: Sequence[MethodFacts]) -> float:
        """What methods cost on one volume under one protocol, in units of ``Pace``."""
        i, j, k = candidate.header.geometry.shape
        return i * j * k * sum(cost(method, self.request) for method in left)


@dataclass(frozen=True, eq=False)
class Bench:
    """model: loaded once. journal: what is known. out: the study's folder; work: one for files that nobody keeps."""

    design: Design
    model: Model
    journal: Journal
    out: Path
    work: Path
    pace: Pace

    @property
    def request(self) -> StudyRequest:
        """The design's."""
        return self.design.request
