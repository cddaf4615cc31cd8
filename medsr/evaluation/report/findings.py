"""What the results say: for each protocol and modality, a method against the best classical one on each volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsr.evaluation.record import METRICS, Outcome, ProtocolFacts, VolumeFacts
from medsr.evaluation.report.results import Method, Results
from medsr.evaluation.statistics import Summary, subject_means, summarise
from medsr.image.volume import Modality
from medsr.outputs import stem

MISSING = "\N{EN DASH}"  # where a table has no figure
FEW_SUBJECTS = 6  # below it an exact Wilcoxon test of two sides cannot reach p < 0.05: its least p is 2 / 2^n


@dataclass(frozen=True)
class Pair:
    """A method on one volume, and the classical method of the highest PSNR there (None: none was measured)."""

    volume: VolumeFacts
    outcome: Outcome
    rival: Outcome | None

    @property
    def gain(self) -> float:
        """PSNR over the rival's, in dB; NaN where either is missing."""
        return self.difference("psnr")

    def difference(self, metric: str) -> float:
        """A metric of the method minus the rival's; NaN where either is missing."""
        if self.rival is None:
            return math.nan
        return self.outcome.metrics.get(metric, math.nan) - self.rival.metrics.get(metric, math.nan)


@dataclass(frozen=True, eq=False)
class Finding:
    """One method under one protocol on the scans of one modality, phantoms left out.

    gain: of the PSNR in dB over the best classical method on each volume; None where there is no such method.
    """

    protocol: ProtocolFacts
    modality: Modality
    method: Method
    pairs: tuple[Pair, ...]
    gain: Summary | None

    @property
    def name(self) -> str:
        """Protocol and modality, as every figure must be named."""
        return f"{self.protocol.name}, {self.modality}"

    @property
    def subjects(self) -> int:
        """How many people were scanned."""
        return len({pair.volume.subject for pair in self.pairs})

    def mean(self, metric: str, *, rival: bool = False) -> float | None:
        """Mean over subjects, each being the mean over its volumes; None where no volume has the metric."""

        def value(pair: Pair) -> float:
            outcome = pair.rival if rival else pair.outcome
            return math.nan if outcome is None else outcome.metrics.get(metric, math.nan)

        return mean_over_subjects(self.pairs, value)

    @property
    def ssim(self) -> str:
        """The structural similarity that all volumes have: 3-D, or 2-D where some are too thin."""
        return "ssim_3d" if all("ssim_3d" in pair.outcome.metrics for pair in self.pairs) else "ssim_2d"


def findings(results: Results) -> list[Finding]:
    """All of them: protocols in order, MR before CT, the headline method of each study."""
    found = [
        finding(results, protocol, modality, method)
        for protocol in results.protocols
        for modality in ("MR", "CT")
        for method in results.headlines
    ]
    return [one for one in found if one is not None]


def finding(results: Results, protocol: ProtocolFacts, modality: str, method: Method) -> Finding | None:
    """One method under one protocol and modality; None where it has no volume."""
    pairs = pairs_of(results, protocol.name, method, modality)
    if not pairs:
        return None
    gains = [(pair.volume.subject, pair.gain) for pair in pairs if math.isfinite(pair.gain)]
    summary = summarise([gain for _, gain in gains], [subject for subject, _ in gains]) if gains else None
    return Finding(protocol, pairs[0].volume.modality, method, tuple(pairs), summary)


def pairs_of(
    results: Results, protocol: str, method: Method, modality: str | None = None, *, phantoms: bool = False
) -> list[Pair]:
    """A method's outcomes under a protocol, each beside its rival. modality: None for both; phantoms: with them."""
    pairs = []
    for volume in results.volumes_under(protocol, phantoms=phantoms):
        outcome = results.outcome(volume.name, protocol, method)
        if outcome is not None and modality in (None, volume.modality):
            pairs.append(Pair(volume, outcome, results.best_classical(volume.name, protocol, method.study)))
    return pairs


def mean_over_subjects(pairs: Sequence[Pair], value: Callable[[Pair], float]) -> float | None:
    """Mean over subjects of the mean over each one's volumes; volumes whose value is not finite do not count."""
    found = [(number, pair.volume.subject) for pair in pairs if math.isfinite(number := value(pair))]
    if not found:
        return None
    return float(subject_means([number for number, _ in found], [subject for _, subject in found]).mean())


def counted(pairs: Sequence[Pair]) -> str:
    """``11 volumes of 9 subjects``."""
    volumes, subjects = {pair.volume.name for pair in pairs}, {pair.volume.subject for pair in pairs}
    return f"{times(len(volumes), 'volume')} of {times(len(subjects), 'subject')}"


def times(count: int, noun: str) -> str:
    """``1 volume``, ``2 volumes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shown_name(volume: str) -> str:
    """A volume's name without the suffix that all have."""
    head, slash, name = volume.rpartition("/")
    return head + slash + stem(Path(name))


def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """A metric as a table shows it, with a true minus sign; a dash where it is missing."""
    return decimal(value, METRICS[metric].digits, signed=signed)


def decimal(value: float | None, digits: int, *, signed: bool = False) -> str:
    """A number with so many digits after its point; a dash where it is missing."""
    if value is None or not math.isfinite(value):
        return MISSING
    shown = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = shown.lstrip("+-")
    return shown.replace("-", "\N{MINUS SIGN}")
