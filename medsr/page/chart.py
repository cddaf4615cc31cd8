"""Plots as SVG: axes, marks and legends, readable in light and dark, in print and without colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from medsr.page.markup import Attributes, Html, join, tag, text

Marker = Literal["circle", "square", "triangle", "diamond", "down", "plus", "cross"]
MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond", "down", "plus", "cross")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 3", "4 2")
COLOURS = 4  # --series-1 to --series-4 of style.css; 0 is grey

NARROW, WIDE = 6.3, 8.6  # of a character of the labels, in units of the drawing: small ones, and capitals
MARGIN_TOP, MARGIN_BOTTOM, MARGIN_RIGHT = 10.0, 44.0, 14.0
MAX_TICKS = 6

# Outlines around (0, 0), about as large as a circle of radius 1.
_OUTLINES: dict[Marker, str] = {
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "square": "M-.9-.9h1.8v1.8h-1.8z",
    "triangle": "M0-1.15L1.05.8h-2.1z",
    "diamond": "M0-1.25L1.25 0 0 1.25-1.25 0z",
    "down": "M0 1.15L1.05-.8h-2.1z",
    "plus": "M-1.2 0h2.4M0-1.2v2.4",
    "cross": "M-.9-.9l1.8 1.8M-.9.9l1.8-1.8",
}


@dataclass(frozen=True)
class Look:
    """How a series is told from others: colour (0: grey), marker and dash, so that colour alone never decides."""

    colour: int = 0
    marker: Marker = "circle"
    dash: int = 0


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``, linear or logarithmic (limits above 0)."""

    label: str
    low: float
    high: float
    log: bool = False

    @staticmethod
    def around(
        label: str, values: Iterable[float], *, include: Sequence[float] = (), log: bool = False, margin: float = 0.06
    ) -> Axis:
        """An axis that holds all finite ``values`` (for ``log``: those above 0) and ``include``, with a margin."""
        found = [v for v in (*values, *include) if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(found), max(found)
        if log:
            spread = max(high / low, 1.2) ** margin
            return Axis(label, low / spread, high * spread, log=True)
        size = max(abs(low), abs(high))
        spread = max((high - low) * margin, size * (1e-6 if high > low else margin)) or 1.0
        return Axis(label, low - spread, high + spread)

    def share(self, value: float) -> float:
        """Where a value lies: 0 at ``low``, 1 at ``high``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """A few round numbers within the limits."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def _linear_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / MAX_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 3), (1, 2, 5)):
        ticks = [m * 10.0**d for d in decades for m in parts if low <= m * 10.0**d <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / MAX_TICKS)]
    return ticks if len(ticks) > 1 else _linear_ticks(low, high)


@dataclass
class Chart:
    """A plot that grows by marks; ``svg`` gives it with its axes. Places are in the units of the two axes.

    title: what it shows, for those who do not see it. rows: names along y instead of numbers, the first on top; a
    row's y is its index.
    """

    title: str
    x: Axis
    y: Axis
    rows: Sequence[str] = ()
    width: float = 460.0
    height: float = 300.0
    marks: list[Html] = field(default_factory=list)
    legend: list[Html] = field(default_factory=list)

    @staticmethod
    def of_rows(title: str, x: Axis, rows: Sequence[str], row_height: float = 24.0) -> Chart:
        """A plot with one row for each name."""
        height = MARGIN_TOP + MARGIN_BOTTOM + row_height * len(rows)
        return Chart(title, x, Axis("", len(rows) - 0.5, -0.5), rows, height=height)

    @property
    def left(self) -> float:
        """Where the drawing begins: right of the labels of y."""
        if self.rows:
            return min(14 + max(map(_length, self.rows)), 0.45 * self.width)
        return 30 + max((_length(_label(t)) for t in self.y.ticks()), default=NARROW)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the drawing, from values."""
        right, bottom = self.width - MARGIN_RIGHT, self.height - MARGIN_BOTTOM
        return self.left + self.x.share(x) * (right - self.left), bottom - self.y.share(y) * (bottom - MARGIN_TOP)

    def dot(self, x: float, y: float, look: Look, note: str, *, hollow: bool = False, size: float = 4.2) -> None:
        """One marker. note: what it stands for, shown on hovering."""
        px, py = self.at(x, y)
        shape: Attributes = {
            "d": _OUTLINES[look.marker],
            "class": f"mark c{look.colour}" + (" hollow" if hollow else ""),
        }
        place = f"translate({px:.1f} {py:.1f}) scale({size:g})"
        self.marks.append(tag("path", {**shape, "transform": place}, tag("title", None, note)))

    def line(self, points: Sequence[tuple[float, float]], look: Look, note: str, *, thin: bool = False) -> None:
        """Straight pieces through ``points``."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*p) for p in points))
        attributes: Attributes = {
            "points": places,
            "class": f"curve c{look.colour}" + (" thin" if thin else ""),
            "stroke-dasharray": DASHES[look.dash % len(DASHES)] or None,
        }
        self.marks.append(tag("polyline", attributes, tag("title", None, note)))

    def rule(self, *, x: float | None = None, y: float | None = None, note: str = "") -> None:
        """A thin line across the drawing at one value."""
        if x is not None:
            (x1, y1), (x2, y2) = self.at(x, self.y.low), self.at(x, self.y.high)
        else:
            level = 0.0 if y is None else y
            (x1, y1), (x2, y2) = self.at(self.x.low, level), self.at(self.x.high, level)
        line: Attributes = {"x1": round(x1, 1), "y1": round(y1, 1), "x2": round(x2, 1), "y2": round(y2, 1),
                            "class": "rule"}  # fmt: skip
        self.marks.append(tag("line", line, tag("title", None, note)))

    def median_of(self, values: Sequence[float], row: float, note: str) -> None:
        """A short upright line at the median of a row's values."""
        ordered = sorted(values)
        middle = len(ordered) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        x, y = self.at(median, row)
        x, top, bottom = round(x, 1), round(y - 9, 1), round(y + 9, 1)
        line: Attributes = {"x1": x, "x2": x, "y1": top, "y2": bottom, "class": "median"}
        self.marks.append(tag("line", line, tag("title", None, f"{note}: median {median:.4g}")))

    def key(self, name: str, look: Look, *, line: bool = False, hollow: bool = False) -> None:
        """An entry of the legend."""
        dash = DASHES[look.dash % len(DASHES)] or None
        if line:
            sample = tag("polyline", {"points": "1,7 25,7", "class": f"curve c{look.colour}", "stroke-dasharray": dash})
        else:
            sample = _mark(look, 13, 7, 4.4, hollow=hollow)
        picture = tag("svg", {"viewBox": "0 0 26 14", "width": 26, "height": 14, "aria-hidden": "true"}, sample)
        self.legend.append(tag("span", None, picture, " ", name))

    def svg(self, caption: object) -> Html:
        """The plot as a figure with ``caption`` and legend."""
        box: Attributes = {"viewBox": f"0 0 {self.width:g} {self.height:g}", "role": "img", "class": "chart"}
        parts = [tag("title", None, self.title), *self._x_axis(), *self._y_axis(), *self.marks]
        legend = tag("div", {"class": "legend"}, *self.legend) if self.legend else ""
        return tag("figure", None, tag("svg", box, *parts), legend, tag("figcaption", None, caption))

    def _x_axis(self) -> list[Html]:
        bottom = self.height - MARGIN_BOTTOM
        parts = []
        for tick in self.x.ticks():
            x = round(self.at(tick, self.y.low)[0], 1)
            parts.append(tag("line", {"x1": x, "x2": x, "y1": MARGIN_TOP, "y2": bottom, "class": "grid"}))
            parts.append(tag("text", {"x": x, "y": bottom + 16, "class": "middle"}, _label(tick)))
        middle = (self.left + self.width - MARGIN_RIGHT) / 2
        parts.append(tag("text", {"x": round(middle, 1), "y": self.height - 8, "class": "middle"}, self.x.label))
        return parts

    def _y_axis(self) -> list[Html]:
        left, right = round(self.left, 1), self.width - MARGIN_RIGHT
        names = list(enumerate(self.rows)) if self.rows else [(t, _label(t)) for t in self.y.ticks()]
        parts = []
        for value, name in names:
            y = round(self.at(self.x.low, value)[1], 1)
            parts.append(tag("line", {"x1": left, "x2": right, "y1": y, "y2": y, "class": "grid"}))
            shown = _shortened(name, left - 10)
            note = tag("title", None, name) if shown != name else ""
            parts.append(tag("text", {"x": left - 6, "y": y + 4, "class": "end"}, shown, note))
        if self.y.label:
            middle = (MARGIN_TOP + self.height - MARGIN_BOTTOM) / 2
            turn = {"transform": f"translate(13 {middle:.1f}) rotate(-90)", "class": "middle"}
            parts.append(tag("text", turn, self.y.label))
        return parts


def _mark(look: Look, x: float, y: float, size: float, *note: Html, hollow: bool) -> Html:
    """A marker at a place of the drawing."""
    attributes = {
        "d": _OUTLINES[look.marker],
        "class": f"mark c{look.colour}" + (" hollow" if hollow else ""),
        "transform": f"translate({x:.1f} {y:.1f}) scale({size:g})",
    }
    return tag("path", attributes, *note)


def charts(figures: Iterable[Html]) -> Html:
    """Figures beside one another, as many as the page has room for."""
    shown = [figure for figure in figures if figure]
    return tag("div", {"class": "charts"}, join(shown)) if shown else text("")


def _label(value: float) -> str:
    """A number of an axis, with a true minus sign."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _length(name: str) -> float:
    """About how long a label is in the drawing."""
    return sum(WIDE if c.isupper() or c in "mw%" or not c.isascii() else NARROW for c in name)


def _shortened(name: str, room: float) -> str:
    """A name cut in its middle: volumes of a study often begin and end alike, so both ends are kept."""
    kept = len(name)
    while kept > 2 and _length(name) > room:
        kept -= 1
        head = kept // 2
        shown = f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - (kept - head) :]}"
        if _length(shown) <= room:
            return shown
    return name if kept == len(name) else shown
