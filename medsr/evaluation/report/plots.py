"""The plots of a report, for one protocol each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medsr.evaluation.record import METRICS, Curve, ProtocolFacts, VolumeFacts
from medsr.evaluation.report.findings import Pair, pairs_of, shown_name
from medsr.evaluation.report.results import Method, Results
from medsr.page.chart import COLOURS, MARKERS, Axis, Chart, Look, Marker
from medsr.page.markup import Html

_MR: Marker = "circle"
_CT: Marker = "square"
TISSUES = ("bias_lung", "bias_fat", "bias_soft", "bias_bone", "bias_foreground")


def looks(results: Results) -> dict[Method, Look]:
    """How each method is drawn: what the study is about in colour, classical methods grey, no two alike."""
    colours = [m for m in results.rivals if m in results.headlines]
    colours += [m for m in results.rivals if m not in results.headlines]
    found = {m: Look(n % COLOURS + 1, MARKERS[n % len(MARKERS)], n // COLOURS) for n, m in enumerate(colours)}
    return found | {m: Look(0, MARKERS[-1 - n % len(MARKERS)], n + 1) for n, m in enumerate(results.classical)}


def distribution(results: Results, protocol: ProtocolFacts) -> Html:
    """PSNR of every method, a dot for each volume, the median as a bar; MR and CT apart, whose ranges differ."""
    rows = [(m, modality) for modality in ("MR", "CT") for m in results.methods
            if pairs_of(results, protocol.name, m, modality)]  # fmt: skip
    if not rows:
        return Html("")
    look = looks(results)
    both = len({modality for _, modality in rows}) > 1
    values = [_psnr(p) for m, modality in rows for p in pairs_of(results, protocol.name, m, modality)]
    names = [f"{m.label}, {modality}" if both else m.label for m, modality in rows]
    chart = Chart.of_rows(f"{protocol.name}: PSNR by method", Axis.around("PSNR, dB", values), names)
    for row, (method, modality) in enumerate(rows):
        scored = [(p, _psnr(p)) for p in pairs_of(results, protocol.name, method, modality) if math.isfinite(_psnr(p))]
        if len(scored) > 1:
            chart.median_of([value for _, value in scored], row, names[row])
        for pair, value in scored:
            chart.dot(value, row, look[method], f"{shown_name(pair.volume.name)}: {value:.2f} dB")
    return chart.svg(f"{protocol.name}: PSNR of the foreground, one dot a volume, the bar at the median.")


def gain_by_subject(results: Results, protocol: ProtocolFacts, methods: Sequence[Method]) -> Html:
    """Gain in PSNR over the best classical method, subject by subject, the least first."""
    look = looks(results)
    by_subject: dict[str, list[tuple[Method, Pair]]] = {}
    for method in methods:
        for pair in pairs_of(results, protocol.name, method):
            if math.isfinite(pair.gain):
                by_subject.setdefault(pair.volume.subject, []).append((method, pair))
    if not by_subject:
        return Html("")
    order = sorted(by_subject, key=lambda s: sum(p.gain for _, p in by_subject[s]) / len(by_subject[s]))
    gains = [p.gain for found in by_subject.values() for _, p in found]
    axis = Axis.around("gain in PSNR, dB", gains, include=[0.0])
    chart = Chart.of_rows(f"{protocol.name}: gain by subject", axis, order)
    chart.rule(x=0.0, note="no difference")
    for row, subject in enumerate(order):
        for method, pair in by_subject[subject]:
            over = f" over {pair.rival.method}" if pair.rival else ""
            note = f"{shown_name(pair.volume.name)}: {pair.gain:+.2f} dB, {method.label}{over}"
            chart.dot(pair.gain, row, _by_modality(look[method], pair.volume, methods), note)
    _key(chart, results, protocol, methods)
    return chart.svg(f"{protocol.name}: gain over the best classical method on each volume, by subject.")


def gain_by_spacing(results: Results, protocol: ProtocolFacts, methods: Sequence[Method]) -> Html:
    """Gain against the spacing of the reference along the axes that were made coarser."""
    look = looks(results)
    pairs = [(m, p) for m in methods for p in pairs_of(results, protocol.name, m)]
    points = [(m, p, _spacing(p.volume, protocol)) for m, p in pairs if math.isfinite(p.gain)]
    if len({round(s, 3) for _, _, s in points}) < 2:
        return Html("")
    where = "in plane" if protocol.axes == "in-plane" else "between slices"
    x = Axis.around(f"spacing of the reference {where}, mm", [s for _, _, s in points])
    chart = Chart(
        f"{protocol.name}: gain against spacing",
        x,
        Axis.around("gain in PSNR, dB", [p.gain for _, p, _ in points], include=[0.0]),
    )
    chart.rule(y=0.0, note="no difference")
    for method, pair, spacing in points:
        note = f"{shown_name(pair.volume.name)}: {pair.gain:+.2f} dB at {spacing:.3g} mm"
        chart.dot(spacing, pair.gain, _by_modality(look[method], pair.volume, methods), note)
    _key(chart, results, protocol, methods)
    return chart.svg(f"{protocol.name}: gain against the reference's spacing {where}.")


def spectra(results: Results, protocol: ProtocolFacts) -> Html:
    """Radial power over the reference's, mean over volumes, for medsr, what was brought along, cubic and the best."""
    look = looks(results)
    curves = [(m, mean) for m in _few(results, protocol) if (mean := _mean_curve(results, protocol, m)) is not None]
    if not curves:
        return Html("")
    x = Axis.around(
        "frequency, cycles per voxel of the reference", [f for _, c in curves for f in c.frequency], margin=0.0
    )
    power = Axis.around("power over the reference's, dB", [d for _, c in curves for d in c.decibels], include=[0.0])
    chart = Chart(f"{protocol.name}: spectra", x, Axis(power.label, max(power.low, -40.0), power.high))
    chart.rule(y=0.0, note="the reference")
    nyquist = 0.5 / protocol.factor
    if x.low < nyquist < x.high:
        chart.rule(x=nyquist, note="the scan's Nyquist frequency")
    for method, curve in curves:
        points = [(f, max(d, -40.0)) for f, d in zip(curve.frequency, curve.decibels, strict=True)]
        chart.line(points, look[method], method.label)
        chart.key(method.label, look[method], line=True)
    return chart.svg(
        f"{protocol.name}: power spectrum over that of the reference, mean over volumes; 0 dB is right. "
        f"Beyond {nyquist:.3g} (the upright line) the scan held nothing."
    )


def reliability(results: Results, protocol: ProtocolFacts) -> Html:
    """The error that was made against the error that was stated, one line a volume."""
    look = looks(results)
    found = [(m, p) for m in results.rivals for p in pairs_of(results, protocol.name, m) if p.outcome.reliability]
    lines = [(m, p.volume, _relative(p)) for m, p in found]
    lines = [(m, v, points) for m, v, points in lines if len(points) > 1]
    if not lines:
        return Html("")
    values = [number for _, _, points in lines for point in points for number in point]
    x = Axis.around("stated deviation, over its RMS in the volume", values, log=True)
    y = Axis.around("RMS error, in the same unit", values, log=True)
    chart = Chart(f"{protocol.name}: stated and true error", x, y)
    chart.line([(x.low, y.low), (x.high, y.high)], Look(0, dash=1), "as stated")
    drawn: set[Method] = set()
    for method, volume, points in lines:
        own = _by_modality(look[method], volume, [method])
        chart.line(points, own, f"{shown_name(volume.name)}, {method.label}", thin=True)
        for point in points:
            chart.dot(*point, own, f"{shown_name(volume.name)}: stated {point[0]:.2f}, was {point[1]:.2f}", size=2.2)
        drawn.add(method)
    for method in [m for m in results.rivals if m in drawn]:
        chart.key(method.label, look[method])
    chart.key("as stated", Look(0, dash=1), line=True)
    return chart.svg(
        f"{protocol.name}: RMS error of foreground voxels by their stated deviation. On the dashed line the deviation "
        "is true; above it, too small."
    )


def cost(results: Results, protocol: ProtocolFacts) -> Html:
    """Seconds against voxels of the reference."""
    look = looks(results)
    points = [(m, p.volume, math.prod(p.volume.shape), p.outcome.metrics["seconds"]) for m in _few(results, protocol)
              for p in pairs_of(results, protocol.name, m)
              if p.outcome.metrics.get("seconds", 0) > 0]  # fmt: skip
    if not points:
        return Html("")
    x = Axis.around("voxels of the output, millions", [n / 1e6 for *_, n, _ in points], log=True)
    chart = Chart(f"{protocol.name}: time", x, Axis.around("time, s", [s for *_, s in points], log=True))
    for method, volume, n, seconds in points:
        chart.dot(
            n / 1e6,
            seconds,
            look[method],
            f"{shown_name(volume.name)}, {method.label}: {seconds:.2g} s for {n:,} voxels",
        )
    for method in dict.fromkeys(m for m, *_ in points):
        chart.key(method.label, look[method])
    return chart.svg(f"{protocol.name}: time for a volume on the machine of the study.")


def bias(results: Results, protocol: ProtocolFacts) -> Html:
    """Mean error of CT numbers by tissue, one dot a volume."""
    look = looks(results)
    methods = _few(results, protocol)
    points = [(m, p.volume, row, p.outcome.metrics[t]) for row, t in enumerate(TISSUES) for m in methods
              for p in pairs_of(results, protocol.name, m, "CT") if t in p.outcome.metrics]  # fmt: skip
    if not points:
        return Html("")
    rows = [METRICS[t].label.removeprefix("bias of ").removeprefix("the ") for t in TISSUES]
    axis = Axis.around("mean error, HU", [value for *_, value in points], include=[0.0])
    chart = Chart.of_rows(f"{protocol.name}: bias of CT numbers", axis, rows, row_height=44.0)
    chart.rule(x=0.0, note="no bias")
    shown = list(dict.fromkeys(m for m, *_ in points))
    for method, volume, row, value in points:
        # Methods beside one another within a row, or dots near 0 would hide one another.
        place = row + 0.6 * (shown.index(method) / max(len(shown) - 1, 1) - 0.5)
        chart.dot(value, place, look[method], f"{shown_name(volume.name)}, {method.label}: {value:+.2f} HU", size=3.4)
    for method in shown:
        chart.key(method.label, look[method])
    return chart.svg(f"{protocol.name}, CT: mean error by tissue, one dot a volume; 0 is right.")


# --- parts -----------------------------------------------------------------------------------------------------------


def _psnr(pair: Pair) -> float:
    return pair.outcome.metrics.get("psnr", math.nan)


def _spacing(volume: VolumeFacts, protocol: ProtocolFacts) -> float:
    """Spacing of the reference along the axes that the protocol makes coarser, geometric mean, in mm."""
    if protocol.axes == "slice":
        return volume.spacing[volume.slice_axis]
    plane = [s for axis, s in enumerate(volume.spacing) if axis != volume.slice_axis]
    return math.sqrt(plane[0] * plane[1])


def _few(results: Results, protocol: ProtocolFacts) -> list[Method]:
    """Every method that is no classical one, cubic, and the classical one with the highest mean PSNR."""
    means = {}
    for method in results.classical:
        values = [_psnr(p) for p in pairs_of(results, protocol.name, method) if math.isfinite(_psnr(p))]
        if values:
            means[method] = sum(values) / len(values)
    wanted = {max(means, key=lambda m: means[m])} if means else set()
    wanted |= {m for m in results.classical if m.facts.name == "cubic"}
    return [*results.rivals, *(m for m in results.classical if m in wanted)]


def _mean_curve(results: Results, protocol: ProtocolFacts, method: Method) -> Curve | None:
    """Mean in dB over volumes, on the frequencies that all of them have."""
    curves = [p.outcome.spectrum for p in pairs_of(results, protocol.name, method)]
    known = [c for c in curves if c is not None and len(c.frequency) > 1]
    if not known:
        return None
    low, high = max(c.frequency[0] for c in known), min(c.frequency[-1] for c in known)
    if not low < high:
        return None
    grid = np.linspace(low, high, 64)
    mean = np.mean([np.interp(grid, c.frequency, c.decibels) for c in known], axis=0)
    return Curve(frequency=tuple(grid.tolist()), decibels=tuple(mean.tolist()))


def _relative(pair: Pair) -> list[tuple[float, float]]:
    """Stated deviation and error of each bin, over the volume's RMS of the stated: MR scans have units of their own."""
    bins = pair.outcome.reliability
    if bins is None or not any(bins.voxels):
        return []
    stated, voxels = np.array(bins.stated), np.array(bins.voxels)
    unit = math.sqrt(float(np.sum(voxels * stated**2) / np.sum(voxels)))
    if unit == 0:
        return []
    return [(s / unit, e / unit) for s, e in zip(bins.stated, bins.error, strict=True) if s > 0 and e > 0]


def _by_modality(look: Look, volume: VolumeFacts, methods: Sequence[Method]) -> Look:
    """Where one method is drawn, its marker tells MR (circle) from CT (square)."""
    if len(methods) > 1:
        return look
    return Look(look.colour, _CT if volume.modality == "CT" else _MR, look.dash)


def _key(chart: Chart, results: Results, protocol: ProtocolFacts, methods: Sequence[Method]) -> None:
    look = looks(results)
    if len(methods) > 1:
        for method in methods:
            chart.key(method.label, look[method])
    else:
        volumes = results.volumes_under(protocol.name)
        for modality in sorted({v.modality for v in volumes}, reverse=True):
            chart.key(modality, Look(look[methods[0]].colour, _CT if modality == "CT" else _MR))
