"""From a study to a page in Markdown: one table a protocol, means over subjects, phantoms apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsr.evaluation.record import Outcome, Study, VolumeFacts
from medsr.evaluation.statistics import Summary, summarise

CUBIC, CONSISTENT, NETWORK = "cubic", "cubic + consistency", "medsr"
TISSUES = ("lung", "fat", "soft", "bone", "foreground")


@dataclass(frozen=True)
class Line:
    """One volume under one protocol. best: the classical method of the highest PSNR there."""

    volume: VolumeFacts
    outcomes: dict[str, Outcome]
    best: str

    def figure(self, method: str, metric: str) -> float | None:
        """None where it was not measured."""
        outcome = self.outcomes.get(method)
        return outcome.metrics.get(metric) if outcome else None

    def gain(self, over: str, metric: str = "psnr") -> float | None:
        """Of medsr over a method."""
        own, other = self.figure(NETWORK, metric), self.figure(over, metric)
        return None if own is None or other is None else own - other


def lines_of(study: Study, protocol: str) -> list[Line]:
    """Every volume of a protocol, MR first."""
    classical = {m.name for m in study.methods if m.kind == "classical"}
    lines = []
    for volume in study.volumes:
        own = {o.method: o for o in study.outcomes if (o.volume, o.protocol) == (volume.name, protocol)}
        rivals = [name for name, o in own.items() if name in classical and "psnr" in o.metrics]
        if rivals:
            lines.append(Line(volume, own, max(rivals, key=lambda m, own=own: own[m].metrics["psnr"])))
    return sorted(lines, key=lambda line: (line.volume.modality == "CT", line.volume.name))


def page(study: Study) -> str:
    """The whole page."""
    weights = study.model.sha256[:12] if study.model else "none"
    parts = [
        f"# Accuracy on {study.split}",
        f"Made by `{study.command}` on {study.created[:10]}, weights `{weights}`. Foreground PSNR in dB (SSIM in "
        "brackets: 3-D, with an asterisk 2-D for volumes thinner than its window). Classical methods are told exactly "
        f"what medsr is told. Best: of {', '.join(m.name for m in study.methods if m.kind == 'classical')}, the one "
        "with the highest PSNR on that volume.",
        summary_table(study),
    ]
    for protocol in study.protocols:
        lines = lines_of(study, protocol.name)
        people, phantoms = ([x for x in lines if x.volume.phantom is flag] for flag in (False, True))
        parts += [f"## {protocol.name}", protocol.text[0].upper() + protocol.text[1:], _volumes(people), _means(people)]
        if phantoms:
            parts.append("Phantoms:\n\n" + _volumes(phantoms))
        parts += [_bias(people), _left_out(study, protocol.name)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary_table(study: Study) -> str:
    """One line a protocol and modality: means over subjects, phantoms left out."""
    head = ["protocol", "", "subjects", "best classical, dB", "medsr, dB", "gain, dB (95 % interval)", "closer on"]
    head += ["gain in SSIM"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for protocol in study.protocols:
        for modality in ("MR", "CT"):
            lines = _people(lines_of(study, protocol.name), modality)
            if not lines:
                continue
            gain, ssim = _over(lines, _best_gain("psnr")), _over(lines, _best_gain("ssim_3d"))
            best, own = (_over(lines, _figure(who, "psnr")) for who in ("best", NETWORK))
            if gain is None or best is None or own is None:
                continue
            interval = f"{gain.low:+.2f} to {gain.high:+.2f}" if gain.subjects > 1 else "one subject"
            cells = [protocol.name, modality, str(gain.subjects), f"{best.mean:.2f}", f"{own.mean:.2f}"]
            cells += [f"{gain.mean:+.2f} ({interval})", f"{gain.wins} of {gain.n}", f"{ssim.mean:+.4f}" if ssim else ""]
            rows.append(f"| {' | '.join(cells)} |")
    weights = f"`{study.model.sha256[:12]}`" if study.model else "none"
    note = (
        f"Foreground PSNR of the posterior mean on the {study.split} scans (phantoms left out), weights {weights}, "
        f"{study.created[:10]}; means over subjects. Gain: over the best classical method on each volume."
    )
    return "\n".join([*rows, "", note])


Value = Callable[[Line], float | None]


def _best_gain(metric: str) -> Value:
    return lambda line: line.gain(line.best, metric)


def _figure(who: str, metric: str) -> Value:
    return lambda line: line.figure(line.best if who == "best" else who, metric)


def _people(lines: Sequence[Line], modality: str) -> list[Line]:
    return [x for x in lines if x.volume.modality == modality and not x.volume.phantom and NETWORK in x.outcomes]


def _over(lines: Sequence[Line], value: Value) -> Summary | None:
    """Over the volumes that have the value."""
    found = [(v, line.volume.subject) for line in lines if (v := value(line)) is not None]
    return summarise([v for v, _ in found], [s for _, s in found]) if found else None


def _volumes(lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    head = ["volume", "", CUBIC, CONSISTENT, "best", NETWORK, "over cubic", "over cubic + consistency", "over best"]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for line in lines:
        cells = [_short(line), line.volume.modality, _cell(line, CUBIC), _cell(line, CONSISTENT)]
        cells += [f"{_cell(line, line.best)} {line.best}", _cell(line, NETWORK)]
        cells += [_signed(line.gain(over)) for over in (CUBIC, CONSISTENT, line.best)]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def _means(lines: Sequence[Line]) -> str:
    """A subject's volumes are averaged first; wins and the least gain are over volumes."""
    head = ["", "subjects", "volumes", "over cubic", "over cubic + consistency", "over best: mean", "median", "least"]
    head += ["wins", "p", "3-D SSIM over best"]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for modality in ("MR", "CT"):
        chosen = _people(lines, modality)
        best = _over(chosen, _best_gain("psnr"))
        if best is None:
            continue
        over = [_over(chosen, lambda line, m=method: line.gain(m)) for method in (CUBIC, CONSISTENT)]
        ssim = _over(chosen, _best_gain("ssim_3d"))
        least = min(g for line in chosen if (g := line.gain(line.best)) is not None)
        cells = [modality, str(best.subjects), str(best.n), *(_signed(o.mean if o else None) for o in over)]
        cells += [_signed(best.mean), _signed(best.median), _signed(least), f"{best.wins} of {best.n}", f"{best.p:.2g}"]
        out.append(f"| {' | '.join([*cells, f'{ssim.mean:+.4f}' if ssim else ''])} |")
    return "\n".join(out) if len(out) > 2 else ""


def _bias(lines: Sequence[Line]) -> str:
    """Mean error of CT numbers in HU, of medsr and of cubic interpolation."""
    chosen = [x for x in lines if x.figure(NETWORK, "bias_foreground") is not None]
    if not chosen:
        return ""
    out = ["Mean error in HU of medsr (in brackets: of cubic); empty where a tissue has too few voxels:", ""]
    out += [f"| volume | {' | '.join(TISSUES)} |", "|---" * (len(TISSUES) + 1) + "|"]
    for line in chosen:
        pairs = [(line.figure(NETWORK, f"bias_{t}"), line.figure(CUBIC, f"bias_{t}")) for t in TISSUES]
        cells = ["" if a is None else f"{a:.3f}" + ("" if b is None else f" ({b:.3f})") for a, b in pairs]
        out.append(f"| {_short(line)} | {' | '.join(cells)} |")
    return "\n".join(out)


def _left_out(study: Study, protocol: str) -> str:
    reasons = [f"{Path(e.volume).name}: {e.reason}" for e in study.excluded if e.protocol == protocol]
    return f"Left out: {'; '.join(reasons)}." if reasons else ""


def _short(line: Line) -> str:
    return Path(line.volume.name).name.removesuffix(".nii.gz")


def _cell(line: Line, method: str) -> str:
    psnr, ssim, flat = (line.figure(method, m) for m in ("psnr", "ssim_3d", "ssim_2d"))
    if psnr is None:
        return ""
    return f"{psnr:.2f}" + (f" ({ssim:.3f})" if ssim is not None else f" ({flat:.3f}*)" if flat is not None else "")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
