"""Axes put values where they belong, and marks and labels stay inside the drawing."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medsr.page.chart import MARKERS, Axis, Chart, Look, _length, _shortened

POSITIVE = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8)


@given(values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=8))
def test_a_linear_axis_holds_its_values_and_a_few_round_ticks(values):
    axis = Axis.around("x", values)
    assert all(0 <= axis.share(v) <= 1 for v in values)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(axis.low - 1e-6 * abs(axis.low) <= t <= axis.high + 1e-6 * abs(axis.high) for t in ticks)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}


@given(values=POSITIVE, ratio=st.floats(1.5, 4))
def test_a_logarithmic_axis_gives_equal_ratios_equal_lengths(values, ratio):
    axis = Axis.around("x", values, log=True)
    assert axis.share(axis.low) == pytest.approx(0, abs=1e-9)
    assert axis.share(axis.high) == pytest.approx(1)
    first = axis.share(values[0] * ratio) - axis.share(values[0])
    second = axis.share(values[-1] * ratio) - axis.share(values[-1])
    assert first == pytest.approx(second)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 8
    assert all(axis.low * (1 - 1e-9) <= t <= axis.high * (1 + 1e-9) for t in ticks)


@given(points=st.lists(st.tuples(st.floats(-50, 50), st.floats(0.1, 500)), min_size=2, max_size=10))
def test_marks_lie_in_the_drawing(points):
    x, y = zip(*points, strict=True)
    assume(max(x) > min(x))
    chart = Chart("title", Axis.around("x", x), Axis.around("y", y, log=True))
    for number, point in enumerate(points):
        chart.dot(*point, Look(1, MARKERS[number % len(MARKERS)]), f"<{number}>")
    drawn = ElementTree.fromstring(chart.svg("caption"))
    places = [p.get("transform") for p in drawn.iter("path") if "mark" in (p.get("class") or "")]
    assert len(places) == len(points)
    for place in places:
        px, py = map(float, re.findall(r"-?[\d.]+", str(place))[:2])
        assert 0 <= px <= chart.width
        assert 0 <= py <= chart.height
    assert drawn.find("svg").get("role") == "img"
    assert drawn.find("svg/title").text == "title"


def test_the_median_is_the_middle():
    chart = Chart.of_rows("t", Axis("x", 0, 10), ["a"])
    chart.median_of([9, 1, 2, 3], 0, "a")
    line = ElementTree.fromstring(chart.marks[0])
    assert float(line.get("x1")) == pytest.approx(chart.at(2.5, 0)[0], abs=0.06)
    assert "2.5" in line.find("title").text


def test_rows_run_from_top_to_bottom():
    chart = Chart.of_rows("t", Axis("x", 0, 1), ["first", "second", "third"])
    heights = [chart.at(0, row)[1] for row in range(3)]
    assert heights == sorted(heights)
    assert heights[1] - heights[0] == pytest.approx(24)


@given(
    name=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60), room=st.floats(40, 300)
)
def test_a_name_that_is_cut_keeps_both_ends_and_fits(name, room):
    shown = _shortened(name, room)
    assert _length(shown) <= room
    assert shown[0] == name[0]
    assert shown[-1] == name[-1]
    if _length(name) <= room:
        assert shown == name
