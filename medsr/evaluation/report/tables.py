"""The tables of a report, each named by its protocol."""

from __future__ import annotations

from collections.abc import Sequence

from medsr.evaluation.record import METRICS, ProtocolFacts
from medsr.evaluation.report.findings import (
    MISSING,
    Finding,
    Pair,
    counted,
    decimal,
    finding,
    number,
    pairs_of,
    shown_name,
)
from medsr.evaluation.report.results import Method, Results
from medsr.page.markup import Column, Html, breakable, details, join, table, tag

# Of a method under a protocol; a column that no volume has is left out.
_COLUMNS = (
    "psnr", "psnr_whole", "ssim_3d", "ssim_2d", "spectrum_error", "hfen", "between_slices", "between_slices_fine",
    "shift", "certificate", "spread_skill", "coverage_90", "mse_ratio", "evaluations", "seconds", "peak_memory_mb",
)  # fmt: skip
_CT_COLUMNS = ("mae", "bias_lung", "bias_fat", "bias_soft", "bias_bone", "bias_foreground")
_RIGHT = {"higher": "higher is better", "lower": "lower is better", "zero": "0 is right", "one": "1 is right"}


def key_table(found: Sequence[Finding], results: Results) -> Html:
    """The table of the first screen: protocol by modality, the method against the best classical one."""
    several = len(results.headlines) > 1
    columns = [
        Column("protocol", number=False),
        Column("scans", number=False),
        *([Column("method", number=False)] if several else []),
        Column("subjects", note="volumes in brackets; means are over subjects"),
        Column("best classical, dB", note="PSNR over the foreground of the best classical method on each volume"),
        Column("PSNR, dB" if several else f"{results.headlines[0].label}, dB", note="PSNR over the foreground"),
        Column("gain, dB", note="of the PSNR over the best classical method, mean over subjects"),
        Column("95 % interval", note="of the mean gain; bootstrap over subjects"),
        Column("SSIM", note="best classical, then the method; 3-D, or 2-D (*) where volumes are thinner than a window"),
        Column("wins", note="volumes on which the method has the higher PSNR"),
        Column("p", note="Wilcoxon signed-rank test over subjects, two-sided"),
    ]
    rows = [_key_row(one, several=several) for one in found]
    told = [n for n in range(len(columns)) if any(row[n] != MISSING for row in rows)]
    best = "Best classical: the method with the highest PSNR on each volume, told exactly what medsr is told."
    caption = (
        f"Foreground PSNR in dB and SSIM, means over subjects{results.phantoms_in_words}. "
        f"{best if any(one.gain for one in found) else ''}"
    )
    return table(caption, [columns[n] for n in told], [[row[n] for n in told] for row in rows])


def _key_row(one: Finding, *, several: bool) -> list[object]:
    gain, metric = one.gain, one.ssim
    star = "*" if metric == "ssim_2d" else ""
    ssim = [number(one.mean(metric, rival=True), metric), number(one.mean(metric), metric) + star]
    cells: list[object] = [tag("a", {"href": f"#{anchor(one.protocol)}"}, one.protocol.name), one.modality]
    cells += [one.method.label] if several else []
    cells += [f"{one.subjects} ({len(one.pairs)})", number(one.mean("psnr", rival=True), "psnr"),
              number(one.mean("psnr"), "psnr")]  # fmt: skip
    if gain is None:
        return [*cells, *[MISSING] * 2, ssim[1], *[MISSING] * 2]
    limits = MISSING if one.subjects < 2 else f"{_signed(gain.low)} to {_signed(gain.high)}"
    wins = f"{gain.wins} of {gain.n}"
    return [*cells, tag("b", {"class": "worse" if gain.mean < 0 else None}, _signed(gain.mean)), limits,
            join(ssim, " \N{RIGHTWARDS ARROW} "), wins, p_value(gain.p)]  # fmt: skip


def method_tables(results: Results, protocol: ProtocolFacts) -> list[Html]:
    """Every method with every metric, means over subjects: one table a modality, and one of CT's numbers."""
    made = []
    for modality in ("MR", "CT"):
        found = [one for m in results.methods if (one := finding(results, protocol, modality, m)) is not None]
        if not found:
            continue
        largest = max(found, key=lambda one: len(one.pairs))
        who = counted(largest.pairs) + results.phantoms_in_words
        made.append(_method_table(f"{protocol.name}, {modality}: every method, means over subjects ({who}).",
                                  found, _COLUMNS))  # fmt: skip
        if modality == "CT":
            title = f"{protocol.name}, CT: absolute error and bias by tissue, means over subjects ({who})."
            made.append(_method_table(title, found, _CT_COLUMNS))
    return made


def _method_table(caption: str, found: Sequence[Finding], wanted: Sequence[str]) -> Html:
    """A row a method, a column for each metric that any of them has; nothing where none has any."""
    means = [{metric: one.mean(metric) for metric in wanted} for one in found]
    metrics = [metric for metric in wanted if any(row[metric] is not None for row in means)]
    if not metrics:
        return Html("")
    rows = [
        [one.method.label + _incomplete(one, found), *(number(row[m], m) for m in metrics)]
        for one, row in zip(found, means, strict=True)
    ]
    return table(caption, [Column("method", number=False), *map(metric_column, metrics)], rows)


def _incomplete(one: Finding, found: Sequence[Finding]) -> str:
    """A note on a method that was not measured on every volume, whose mean is that of others."""
    most = max(len(other.pairs) for other in found)
    return "" if len(one.pairs) == most else f" ({len(one.pairs)} of {most} volumes)"


def volume_table(results: Results, protocol: ProtocolFacts, method: Method) -> Html:
    """Every volume of a protocol: the best classical method and ``method``."""
    pairs = pairs_of(results, protocol.name, method, phantoms=True)
    columns = [
        Column("volume", number=False), Column("subject", number=False), Column("", number=False),
        Column("voxel, mm", note="of the reference, along i, j, k"), Column("cubic, dB"),
        Column("best classical, dB"), Column("", number=False), Column(f"{method.label}, dB"), Column("gain, dB"),
        Column("SSIM", note="best classical, then the method; 3-D, or 2-D (*) of volumes thinner than a window"),
        Column("ceiling, dB", note="PSNR that the reference's own noise allows: an estimate"),
    ]  # fmt: skip
    rows = [_volume_row(results, protocol, pair, method) for pair in pairs]
    caption = f"{protocol.name}: every volume, PSNR of the foreground and SSIM. Phantoms are in no mean."
    return table(caption, columns, rows)


def _volume_row(results: Results, protocol: ProtocolFacts, pair: Pair, method: Method) -> list[object]:
    volume, rival = pair.volume, pair.rival
    cubic = next((m for m in results.classical if m.facts.name == "cubic"), None)
    plain = None if cubic is None else results.outcome(volume.name, protocol.name, cubic)
    thin = "ssim_3d" not in pair.outcome.metrics
    metric = "ssim_2d" if thin else "ssim_3d"
    ssim = f"{_of(rival, metric)} \N{RIGHTWARDS ARROW} {_of(pair.outcome, metric)}{'*' * thin}"
    ceiling = results.studies[method.study].noise_ceiling.get(volume.name)
    gain = tag("b", {"class": "worse" if pair.gain < 0 else None}, _signed(pair.gain))
    kind = f"{volume.modality}, phantom" if volume.phantom else volume.modality
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing)
    best = rival.method if rival else MISSING
    return [_name(volume.name), volume.subject, kind, spacing, _of(plain, "psnr"), _of(rival, "psnr"), best,
            _of(pair.outcome, "psnr"), gain, ssim, decimal(ceiling, 1)]  # fmt: skip


def every_psnr(results: Results, protocol: ProtocolFacts) -> Html:
    """PSNR of every method on every volume, folded away."""
    methods = [m for m in results.methods if pairs_of(results, protocol.name, m, phantoms=True)]
    rows = [
        [_name(volume.name), *(_of(results.outcome(volume.name, protocol.name, m), "psnr") for m in methods)]
        for volume in results.volumes_under(protocol.name, phantoms=True)
    ]
    columns = [Column("volume", number=False), *(Column(m.label) for m in methods)]
    caption = f"{protocol.name}: PSNR of the foreground in dB. All other figures are in metrics.csv."
    return details("Every method on every volume", table(caption, columns, rows))


def bias_table(results: Results, protocol: ProtocolFacts, methods: Sequence[Method]) -> Html:
    """Mean error of CT numbers by tissue, every volume; nothing where there is no CT."""
    tissues = ("bias_lung", "bias_fat", "bias_soft", "bias_bone", "bias_foreground")
    pairs = [(p, m) for m in methods for p in pairs_of(results, protocol.name, m, "CT", phantoms=True)]
    rows: list[list[object]] = []
    for pair, method in sorted(pairs, key=lambda found: found[0].volume.name):
        if any(t in pair.outcome.metrics for t in tissues):
            rows.append([_name(pair.volume.name), method.label, *(_of(pair.outcome, t) for t in tissues)])
    if not rows:
        return Html("")
    columns = [Column("volume", number=False), Column("method", number=False)]
    columns += [Column(METRICS[t].label.removeprefix("bias of ") + ", HU") for t in tissues]
    caption = (
        f"{protocol.name}, CT: mean of prediction \N{MINUS SIGN} reference by tissue, 0 is right. A dash: fewer "
        "than 1,000 voxels of that tissue."
    )
    return details("Bias of CT numbers on every volume", table(caption, columns, rows))


def metric_column(metric: str) -> Column:
    """Head of a column of one metric, with its unit and which way is good."""
    facts = METRICS[metric]
    unit = "HU" if metric == "mae" else facts.unit  # only CT's is shown: MR has units of its own in every scan
    return Column(f"{facts.label}, {unit}" if unit else facts.label, note=_RIGHT[facts.better])


def anchor(protocol: ProtocolFacts) -> str:
    """Name of a protocol's section in the address: letters and digits of its name."""
    return "protocol-" + "".join(c if c.isascii() and c.isalnum() else "-" for c in protocol.name)


def p_value(p: float | None) -> str:
    """A p-value to two digits."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _of(outcome: object, metric: str) -> str:
    metrics = getattr(outcome, "metrics", {})
    return number(metrics.get(metric), metric)


def _name(volume: str) -> Html:
    """A volume's name that may break after its slashes and underscores, and nowhere else."""
    return breakable(shown_name(volume))


def _signed(value: float) -> str:
    return decimal(value, 2, signed=True)
