"""Several studies: their models on the volumes that all of them have, and the change since the last."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medsr.evaluation.record import ProtocolFacts, VolumeFacts
from medsr.evaluation.report.findings import MISSING, decimal, number
from medsr.evaluation.report.results import Method, Results
from medsr.evaluation.report.tables import p_value
from medsr.evaluation.statistics import Summary, summarise
from medsr.page.markup import Column, Html, bullets, details, paragraph, table
from medsr.page.shell import section


@dataclass(frozen=True)
class Common:
    """One protocol and modality on the volumes that every headline method has. change: of the newest in PSNR, dB."""

    protocol: ProtocolFacts
    modality: str
    volumes: tuple[VolumeFacts, ...]
    psnr: dict[Method, float | None]
    change: Summary | None


def comparison(results: Results) -> Html:
    """The section; nothing for a single study."""
    if len(results.studies) < 2:
        return Html("")
    methods = results.headlines
    rows = [c for p in results.protocols for modality in ("MR", "CT") if (c := _common(results, p, modality))]
    newest, before = _last_two(results)
    columns = [
        Column("protocol", number=False), Column("scans", number=False),
        Column("subjects", note="volumes in brackets, those that every column has"),
        *(Column(f"{m.label}, dB", note="foreground PSNR, mean over subjects") for m in methods),
        Column("change, dB", note=f"{newest.label} against {before.label}, mean over subjects"),
        Column("95 % interval", note="bootstrap over subjects"), Column("better on"),
        Column("p", note="Wilcoxon signed-rank test over subjects, two-sided"),
    ]  # fmt: skip
    apart_from = results.phantoms_in_words
    caption = f"Foreground PSNR on the same volumes{apart_from}; studies from left to right as they were made."
    shown = table(caption, columns, [_row(c, methods) for c in rows]) if rows else paragraph("No volume is common.")
    lead = f"Change since the last study: {newest.label} against {before.label}."
    apart = _apart(results)
    left_out = details(f"Not common to all studies ({len(apart)})", bullets(apart)) if apart else ""
    return section("Models side by side", "models", paragraph(lead), shown, left_out)


def _last_two(results: Results) -> tuple[Method, Method]:
    """The first headline method of the newest study, and of the newest before it that has one."""
    first = {m.study: m for m in reversed(results.headlines)}
    order = sorted(first)
    return first[order[-1]], first[order[-2] if len(order) > 1 else order[-1]]


def _common(results: Results, protocol: ProtocolFacts, modality: str) -> Common | None:
    scored = []
    for volume in results.volumes_under(protocol.name):
        values = {m: _psnr(results, volume, protocol, m) for m in results.headlines}
        if volume.modality == modality and all(math.isfinite(v) for v in values.values()):
            scored.append((volume, values))
    if not scored:
        return None
    newest, before = _last_two(results)
    subjects = [volume.subject for volume, _ in scored]
    changes = [values[newest] - values[before] for _, values in scored]
    change = summarise(changes, subjects) if newest != before else None
    means = {m: summarise([values[m] for _, values in scored], subjects).mean for m in results.headlines}
    return Common(protocol, modality, tuple(v for v, _ in scored), dict(means), change)


def _row(common: Common, methods: tuple[Method, ...]) -> list[object]:
    subjects = len({v.subject for v in common.volumes})
    cells: list[object] = [common.protocol.name, common.modality, f"{subjects} ({len(common.volumes)})"]
    cells += [number(common.psnr[m], "psnr") for m in methods]
    change = common.change
    if change is None:
        return [*cells, *[MISSING] * 4]
    limits = f"{decimal(change.low, 2, signed=True)} to {decimal(change.high, 2, signed=True)}"
    return [*cells, decimal(change.mean, 2, signed=True), limits if subjects > 1 else MISSING,
            f"{change.wins} of {change.n}", p_value(change.p)]  # fmt: skip


def _apart(results: Results) -> list[str]:
    """What some study lacks: protocols as a whole, and volumes under protocols that all have."""
    found = []
    for protocol in results.protocols:
        having = [n for n, study in enumerate(results.studies) if protocol.name in {p.name for p in study.protocols}]
        if len(having) < len(results.studies):
            found.append(f"{protocol.name}: only in {', '.join(results.labels[n] for n in having)}")
            continue
        for volume in results.volumes_under(protocol.name, phantoms=True):
            seen = [m.label for m in results.headlines if math.isfinite(_psnr(results, volume, protocol, m))]
            if len(seen) < len(results.headlines):
                found.append(f"{volume.name} under {protocol.name}: only {', '.join(seen) or 'classical methods'}")
    return found


def _psnr(results: Results, volume: VolumeFacts, protocol: ProtocolFacts, method: Method) -> float:
    outcome = results.outcome(volume.name, protocol.name, method)
    return math.nan if outcome is None else outcome.metrics.get("psnr", math.nan)
