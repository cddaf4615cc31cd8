"""From the rows of dial.py to a page of tables and a picture; means are over subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol as Structure

FIGURES = {
    "psnr": "PSNR, dB against the mean's",
    "ssim_2d": "SSIM against the mean's",
    "spectrum_error": "spectrum error, dB",
    "hfen": "high-frequency error norm",
}
DRAWN = ("dpmpp2m", "heun", "euler", "ancestral")  # one colour each


class Measured(Structure):
    """The columns of a row that the page reads."""

    @property
    def subject(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def solver(self) -> str: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def texture(self) -> float: ...
    @property
    def mse_ratio(self) -> float: ...
    @property
    def spread_skill(self) -> float: ...
    @property
    def coverage(self) -> float: ...
    @property
    def between(self) -> float: ...
    @property
    def between_fine(self) -> float: ...
    @property
    def psnr(self) -> float: ...
    @property
    def ssim_2d(self) -> float: ...
    @property
    def spectrum_error(self) -> float: ...
    @property
    def hfen(self) -> float: ...


def mean_over_subjects(rows: Iterable[Measured], value: Callable[[Measured], float]) -> float:
    """Each subject counts once in each protocol, however many volumes it has."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        groups[row.subject, row.protocol].append(value(row))
    return fmean(fmean(group) for group in groups.values())


def page(rows: Sequence[Measured], split: str, command: str) -> str:
    """The page in Markdown."""
    weights = rows[0].weights if rows else "none"
    solvers = list(dict.fromkeys(row.solver for row in rows))
    lines = [
        f"# Texture and samplers ({split})",
        "",
        f"Made by `{command}`, weights `{weights}`, on pieces of the {split} scans; means over subjects and protocols.",
        "A sample of the posterior has twice the mean's squared error, a spread as large as the mean's error, a",
        "spectrum error near 0, and differences between neighbouring slices with the reference's power (1; fine: above",
        "the scan's Nyquist frequency). Coverage is that of the stated 90 % interval.",
        "",
        f"![Texture against fidelity](../images/dial-{split}.svg)",
        "",
        "## Samplers",
        "",
        *_table("sampler", [(_name(s), [row for row in rows if row.solver == s]) for s in solvers]),
    ]
    for solver in solvers:
        cells = sorted({(row.protocol, row.modality) for row in rows})
        own = [row for row in rows if row.solver == solver]
        groups = [(f"{p}, {m}", [row for row in own if (row.protocol, row.modality) == (p, m)]) for p, m in cells]
        lines += ["", f"## {_name(solver)}", "", *_table("protocol", groups)]
    return "\n".join(lines) + "\n"


def _name(solver: str) -> str:
    name, steps = solver.split(":")
    return f"{name}, {steps} steps"


def _table(head: str, groups: Sequence[tuple[str, Sequence[Measured]]]) -> list[str]:
    """One line for each group of rows; spectrum errors are those of the sample and of the mean."""
    columns: dict[str, Callable[[Measured], float]] = {
        "evaluations": lambda r: r.evaluations,
        "MSE ratio": lambda r: r.mse_ratio,
        "spread / error": lambda r: r.spread_skill,
        "spectrum error": lambda r: r.spectrum_error,
        "between slices": lambda r: r.between,
        "fine": lambda r: r.between_fine,
        "coverage": lambda r: r.coverage,
    }
    lines = [f"| {head} | {' | '.join(columns)} | mean's spectrum error |", "|---|" + "---|" * (len(columns) + 1)]
    for name, rows in groups:
        sample, mean = ([row for row in rows if row.texture == t] for t in (1, 0))
        if rows:
            cells = [f"{mean_over_subjects(sample, value):.2f}" for value in columns.values()]
            cells.append(f"{mean_over_subjects(mean, columns['spectrum error']):.2f}")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Four figures against texture, each line a solver."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "medsr", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), sharex=True, layout="constrained")
    for axis, (name, label) in zip(axes.flat, FIGURES.items(), strict=True):
        for solver in dict.fromkeys(row.solver for row in rows):
            own = [row for row in rows if row.solver == solver]
            textures = sorted({row.texture for row in own})

            def value(texture: float, own: Sequence[Measured] = own, name: str = name) -> float:
                return mean_over_subjects((r for r in own if r.texture == texture), lambda r: float(getattr(r, name)))

            base = value(0.0) if "against" in label else 0.0
            sampler = solver.split(":")[0]
            others = [s for s in dict.fromkeys(r.solver for r in rows) if s.startswith(f"{sampler}:")]
            axis.plot(
                textures,
                [value(t) - base for t in textures],
                color=f"C{DRAWN.index(sampler)}",
                alpha=(1 + others.index(solver)) / len(others),
                marker=".",
                label=_name(solver),
            )
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("--texture")
    axes[0, 0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
