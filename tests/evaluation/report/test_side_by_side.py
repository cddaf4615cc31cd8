"""Models are compared on the volumes that all of them have, and the others are named."""

from __future__ import annotations

import re

import pytest

from medsr.evaluation.report.page import report
from medsr.evaluation.report.results import read_results
from medsr.evaluation.report.side_by_side import comparison


@pytest.fixture
def two(make, saved):
    """A first model on a, b and c under two protocols; a second one on b, c and d under one of them."""
    a, b, c, d = (make.volume(name) for name in "abcd")
    first = make.study({"a": 9.0, "b": 1.0, "c": 2.0}, (a, b, c), (make.inplane, make.slice))
    second = make.study({"b": 1.5, "c": 3.5, "d": 9.0}, (b, c, d), version="2", created="2026-02-01T00:00:00Z")
    return read_results([saved(first, "first"), saved(second, "second")])


def test_change_on_common_volumes_alone(two):
    shown = comparison(two)
    rows = re.findall(r"<tr>(.*?)</tr>", shown)
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", rows[1])]
    assert cells[:6] == ["inplane-x2", "MR", "2 (2)", "31.50", "32.50", "+1.00"]
    assert cells[7] == "2 of 2"
    assert len(rows) == 2, "slice-x4 was measured once, so there is nothing to compare"


def test_what_is_not_common_is_listed(two):
    shown = re.sub("<[^>]+>", "|", comparison(two))
    assert "a under inplane-x2: only medsr (medsr-base 1)" in shown
    assert "d under inplane-x2: only medsr (medsr-base 2)" in shown
    assert "slice-x4: only in medsr-base 1" in shown


def test_each_model_keeps_its_own_row(two):
    text = re.sub("<[^>]+>", " ", report(two))
    assert "medsr (medsr-base 1)" in text
    assert "medsr (medsr-base 2)" in text
    assert "medsr (medsr-base 2) is closer to the reference" in text, "the sentence is about the newest"


def test_one_study_has_no_such_section(make, saved):
    assert comparison(read_results([saved(make.study({"a": 1.0}, (make.volume("a"),)))])) == ""
