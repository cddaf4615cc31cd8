"""The answer in words: who is closer to the reference, by how much, on how many, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from medsr.evaluation.record import Study
from medsr.evaluation.report.findings import FEW_SUBJECTS, Finding, counted, decimal, shown_name, times
from medsr.evaluation.report.results import Results


def answer(found: Sequence[Finding], results: Results) -> str:
    """One sentence, or two, for the top of the page. found: of one study's headline method, or of several."""
    if not found:
        return "No volume took part under any protocol, so nothing was measured."
    judged = [one for one in found if one.gain is not None]
    if not judged:
        return _without_rival(found)
    last = [one for one in judged if one.method.study == len(results.studies) - 1] or judged
    newest = [one for one in last if one.method == last[0].method]
    return _one_row(newest[0]) if len(newest) == 1 else _many_rows(newest)


def cautions(found: Sequence[Finding], results: Results) -> list[str]:
    """What a reader must know before quoting the answer."""
    notes = []
    few = [one for one in found if one.subjects < FEW_SUBJECTS]
    if few:
        least = min(one.subjects for one in few)
        rows = "The only row" if len(found) == 1 else "Every row" if len(few) == len(found) else times(len(few), "row")
        one = len(found) == 1 or len(few) in (1, len(found))
        notes.append(
            f"{rows} of the table {'rests' if one else 'rest'} on fewer than "
            f"{FEW_SUBJECTS} subjects (the least: {least}): examples, and no proof. So few allow no p below 0.05, and "
            "an interval of them is rough."
        )
    warned = [(o.volume, o.protocol, o.method, text) for study in results.studies for o in study.outcomes
              for text in o.warnings]  # fmt: skip
    if warned:
        volumes = {volume for volume, *_ in warned}
        notes.append(
            f"{times(len(warned), 'warning')} on {times(len(volumes), 'volume')}, among them: {warned[0][3]} "
            f"({warned[0][2]} on {shown_name(warned[0][0])} under {warned[0][1]}). All are listed with their protocol."
        )
    excluded = sum(len(study.excluded) for study in results.studies)
    if excluded:
        was = "was" if excluded == 1 else "were"
        notes.append(f"{times(excluded, 'pair')} of volume and protocol {was} not admitted; Left out says why.")
    if results.only_phantoms:
        notes.append("Every volume is a phantom. Figures of phantoms say little of people.")
    if any(study.split == "val" for study in results.studies):
        notes.append("Figures of the validation split, on which choices are made, flatter the method.")
    return notes


def origin(study: Study) -> str:
    """Where a study's figures come from, in one line."""
    model = f"model {study.model.name} {study.model.version}, " if study.model else ""
    split = f"split {study.split}, " if study.split else ""
    return f"{model}{split}{study.created[:10]}"


def _one_row(one: Finding) -> str:
    """The sentence for one protocol and modality."""
    gain = one.gain
    if gain is None:
        return _without_rival([one])
    size = decimal(abs(gain.mean), 2)
    name, best = one.method.label, "the best classical method"
    start = f"On {counted(one.pairs)} under {one.name}, "
    side = "higher" if gain.mean > 0 else "lower"
    if one.subjects < 2:
        return (
            f"{start}the PSNR of {name} is {size} dB {side} than that of {best}; one subject tells nothing of others."
        )
    wins = f"it is the closer one on {gain.wins} of {gain.n}"
    if gain.low <= 0 <= gain.high:
        mean, span = decimal(gain.mean, 2, signed=True), _span(gain.low, gain.high, signed=True)
        return (
            f"{start}no difference between {name} and {best} can be told: the PSNR differs by {mean} dB in the mean "
            f"(95 % interval {span} dB); {wins}."
        )
    closer = "closer to" if gain.low > 0 else "further from"
    span = _span(*sorted((abs(gain.low), abs(gain.high))), signed=False)
    return (
        f"{start}{name} is {closer} the reference than {best}: its PSNR is {size} dB {side} "
        f"(95 % interval {span} dB), and {wins}."
    )


def _many_rows(found: Sequence[Finding]) -> str:
    """The sentence for several protocols or modalities, which are never averaged."""
    gains = [(one.gain, one) for one in found if one.gain is not None]
    (least, first), (most, last) = min(gains, key=lambda g: g[0].mean), max(gains, key=lambda g: g[0].mean)
    protocols = times(len({one.protocol.name for one in found}), "protocol")
    start = (
        f"On {counted([pair for one in found for pair in one.pairs])} under {protocols}, {found[0].method.label} is "
    )
    wins = f"in {sum(g.wins for g, _ in gains)} of {sum(g.n for g, _ in gains)} comparisons"
    spread = (
        f"the mean gain in PSNR runs from {decimal(least.mean, 2, signed=True)} dB ({first.name}) to "
        f"{decimal(most.mean, 2, signed=True)} dB ({last.name})"
    )
    better = [one for gain, one in gains if gain.low > 0]
    worse = [one for gain, one in gains if gain.high < 0]
    best, rows = (
        "the reference than the best classical method in",
        f"{len(gains)} combinations of protocol and modality",
    )
    if len(better) == len(gains):
        return f"{start}closer to {best} all {rows}, and {wins}; {spread}."
    if len(worse) == len(gains):
        return f"{start}further from {best} all {rows}, and the closer one {wins}; {spread}."
    parts = [f"{start}closer to {best} {len(better)} of {rows}"]
    if worse:
        parts.append(f"further from it in {len(worse)} ({'; '.join(one.name for one in worse)})")
    undecided = len(gains) - len(better) - len(worse)
    if undecided:
        parts.append(f"and in {undecided} no difference can be told")
    return f"{', '.join(parts)}; it is the closer one {wins}, and {spread}."


def _without_rival(found: Sequence[Finding]) -> str:
    """What can be said where no classical method was measured: figures, and no judgement."""
    parts = []
    for one in found:
        mean = one.mean("psnr")
        shown = "has no finite PSNR" if mean is None else f"reaches a PSNR of {decimal(mean, 2)} dB"
        parts.append(f"{one.method.label} {shown} ({one.name})")
    volumes = counted([pair for one in found for pair in one.pairs])
    return (
        f"On {volumes}, {'; '.join(parts)}. No classical method was measured beside it, so these figures alone "
        "do not tell whether that is good."
    )


def _span(low: float, high: float, *, signed: bool) -> str:
    return f"{decimal(low, 2, signed=signed)} to {decimal(high, 2, signed=signed)}"
