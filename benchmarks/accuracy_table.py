"""From the rows of accuracy.py to a page: one table a protocol, means over subjects, phantoms apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Protocol as Structure

CUBIC, CONSISTENT, NETWORK = "cubic", "cubic + consistency", "medsr"


class Measured(Structure):
    """The columns of a row that the page reads."""

    @property
    def file(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def phantom(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def psnr(self) -> str: ...
    @property
    def ssim_3d(self) -> str: ...
    @property
    def ssim_2d(self) -> str: ...
    @property
    def lung(self) -> str: ...
    @property
    def fat(self) -> str: ...
    @property
    def soft(self) -> str: ...
    @property
    def bone(self) -> str: ...
    @property
    def whole(self) -> str: ...


@dataclass(frozen=True)
class Line:
    """One volume under one protocol: foreground PSNR (dB) and SSIM (3-D, or 2-D for thin volumes) by method."""

    file: str
    subject: str
    modality: str
    phantom: bool
    psnr: dict[str, float]
    ssim: dict[str, float]

    @property
    def best(self) -> str:
        """The best classical method."""
        return max((m for m in self.psnr if m != NETWORK), key=lambda m: self.psnr[m])

    def gain(self, over: str) -> float | None:
        """dB of medsr over a method; None before medsr has run."""
        return self.psnr[NETWORK] - self.psnr[over] if NETWORK in self.psnr else None


def table(rows: Sequence[Measured], split: str, weights: str, command: str) -> str:
    """The page in Markdown. weights: which medsr rows count; the rows of other weights are left out."""
    counted = [r for r in rows if r.weights in ("", weights)]
    names = list(dict.fromkeys(r.protocol for r in counted))
    parts = [
        f"# Accuracy on {split}",
        f"Made by `{command}`, weights `{weights or 'none'}`. Foreground PSNR in dB (SSIM in brackets: 3-D, with an "
        "asterisk 2-D for volumes thinner than its window). Classical methods are told exactly what medsr is told. "
        "Best: the best of cubic, zero-fill, cubic + consistency and linear MMSE.",
    ]
    for name in names:
        lines = [line for line in _lines(r for r in counted if r.protocol == name) if CUBIC in line.psnr]
        parts.append(f"## {name}")
        parts.append(_volumes([line for line in lines if not line.phantom]))
        parts.append(_means([line for line in lines if not line.phantom]))
        phantoms = [line for line in lines if line.phantom]
        if phantoms:
            parts.append("Phantoms:\n\n" + _volumes(phantoms))
        parts.append(_bias([r for r in counted if r.protocol == name and r.phantom == "no"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _bias(rows: Sequence[Measured]) -> str:
    """Mean error of CT numbers in HU, of medsr and of cubic interpolation."""
    tissues = ("lung", "fat", "soft", "bone", "whole")
    chosen = {(r.file, r.method): r for r in rows if r.whole and r.method in (CUBIC, NETWORK)}
    names = sorted({file for file, method in chosen if method == NETWORK})
    if not names:
        return ""
    out = [
        "Mean error in HU of medsr (in brackets: of cubic); empty where a tissue has too few voxels:",
        "",
        f"| volume | {' | '.join(tissues)} |",
        "|---|" + "---|" * len(tissues),
    ]
    for file in names:
        cells = [
            f"{getattr(chosen[file, NETWORK], t)} ({getattr(chosen[file, CUBIC], t)})"
            if getattr(chosen[file, NETWORK], t)
            else ""
            for t in tissues
        ]
        out.append(f"| {file.removesuffix('.nii.gz')} | {' | '.join(cells)} |")
    return "\n".join(out)


def _lines(rows: Iterable[Measured]) -> list[Line]:
    lines: dict[str, Line] = {}
    for r in rows:
        line = lines.setdefault(r.file, Line(r.file, r.subject, r.modality, r.phantom == "yes", {}, {}))
        line.psnr[r.method] = float(r.psnr)
        ssim = r.ssim_3d or r.ssim_2d
        if ssim:
            # a negative sign marks the 2-D value; SSIM of an image worth listing is positive
            line.ssim[r.method] = float(ssim) if r.ssim_3d else -float(ssim)
    return sorted(lines.values(), key=lambda line: (line.modality, line.file))


def _cell(line: Line, method: str) -> str:
    if method not in line.psnr:
        return ""
    ssim = line.ssim.get(method)
    return f"{line.psnr[method]:.2f}" + ("" if ssim is None else f" ({abs(ssim):.3f}{'*' if ssim < 0 else ''})")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _volumes(lines: list[Line]) -> str:
    if not lines:
        return ""
    head = (
        "| volume | | cubic | cubic + consistency | best | medsr | over cubic | over cubic + consistency | over best |"
    )
    out = [head, "|---|---|---|---|---|---|---|---|---|"]
    for line in lines:
        gains = [_signed(line.gain(m)) for m in (CUBIC, CONSISTENT, line.best)]
        cells = [line.file.removesuffix(".nii.gz"), line.modality, _cell(line, CUBIC), _cell(line, CONSISTENT)]
        cells += [f"{_cell(line, line.best)} {line.best}", _cell(line, NETWORK), *gains]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _means(lines: list[Line]) -> str:
    """Mean and median over subjects, a subject's volumes averaged first; wins counted over volumes."""
    columns = [
        "",
        "subjects",
        "volumes",
        "over cubic",
        "over cubic + consistency",
        "over best: mean",
        "median",
        "least",
    ]
    columns += ["wins", "3-D SSIM over best"]
    out = [f"| {' | '.join(columns)} |", "|---|" + "---|" * (len(columns) - 1)]
    for modality in ("MR", "CT"):
        chosen = [line for line in lines if line.modality == modality and NETWORK in line.psnr]
        if not chosen:
            continue
        subjects = sorted({line.subject for line in chosen})
        over_best = [_mean_of(chosen, s, lambda line: line.psnr[NETWORK] - line.psnr[line.best]) for s in subjects]
        firsts = [
            fmean(_mean_of(chosen, s, lambda line, m=over: line.psnr[NETWORK] - line.psnr[m]) for s in subjects)
            for over in (CUBIC, CONSISTENT)
        ]
        gains = [line.psnr[NETWORK] - line.psnr[line.best] for line in chosen]
        out.append(
            f"| {modality} | {len(subjects)} | {len(chosen)} | {firsts[0]:+.2f} | {firsts[1]:+.2f} | "
            f"{fmean(over_best):+.2f} | {median(over_best):+.2f} | {min(gains):+.2f} | "
            f"{sum(g > 0 for g in gains)} of {len(gains)} | {_ssim_gain(chosen)} |"
        )
    return "\n".join(out) if len(out) > 2 else ""


def _ssim_gain(lines: list[Line]) -> str:
    """Mean over subjects of the gain in 3-D SSIM over the method with the best PSNR, of volumes that have one."""
    thick = [line for line in lines if line.ssim.get(NETWORK, -1) > 0]
    subjects = sorted({line.subject for line in thick})
    if not subjects:
        return ""
    return f"{fmean(_mean_of(thick, s, lambda line: line.ssim[NETWORK] - line.ssim[line.best]) for s in subjects):+.4f}"


def _mean_of(lines: list[Line], subject: str, value: Callable[[Line], float]) -> float:
    return fmean(value(line) for line in lines if line.subject == subject)
