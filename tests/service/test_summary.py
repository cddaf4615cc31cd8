"""The page of a batch: right numbers, nothing loaded, nothing that a file's name could smuggle in."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.errors import JobError
from medsr.service.manifest import Row, read_manifest
from medsr.service.summary import busy_seconds, in_words, summary_page
from tests.service.cohorts import make_cohort, run_here


def row(**values: Any) -> Row:
    plain: dict[str, Any] = {
        "name": "a", "state": "done", "output": "a_sr.nii.gz", "input_sha256": "0", "files": {}, "plan": None,
        "modality": "MR",
        "residual": 0.01, "seconds": {"read": 1.0}, "attempts": 1, "crashes": 0, "worker": "w", "warnings": (),
        "error": None, "exit_code": 0, "key": "k", "created": 0.0, "started": 0.0, "finished": 1.0,
    }  # fmt: skip
    return Row(**plain | values)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_busy_time_counts_every_second_once(spans: list[tuple[int, int]]) -> None:
    seconds = {second for start, length in spans for second in range(start, start + length)}
    assert busy_seconds([float(s) for s, _ in spans], [float(s + n) for s, n in spans]) == len(seconds)


def test_counts_in_words() -> None:
    rows = [row(), row(state="failed"), row(state="skipped"), row(state="parked"), row(state="queued")]
    assert in_words(Counter(row.state for row in rows)) == "5 scans: 1 done, 1 failed, 1 parked, 1 left out, 1 waiting"
    assert in_words(Counter(row.state for row in rows[:1])) == "1 scan: 1 done"


def test_failures_are_counted_by_reason_whatever_the_scan() -> None:
    bad = [row(name=f"sub/{n}.nii", state="failed", error=f"{n}.nii is truncated", exit_code=3) for n in range(3)]
    page = summary_page([*bad, row(name="x.nii", state="failed", error="x.nii is empty", exit_code=3)], [])
    cells = re.sub(r"<[^>]+>", "|", page)
    assert re.search(r"\|3\|+3\|+the scan is truncated\|", cells)
    assert re.search(r"\|1\|+3\|+the scan is empty\|", cells)
    assert "No result: 4 of 4." in page


def test_names_cannot_become_markup() -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    page = summary_page([row(name=evil, state="failed", error=evil, exit_code=3)], [])
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_page_of_a_batch_loads_nothing_and_shows_pairs(tmp_path: Path, tiny_model: Path) -> None:
    run_here(make_cohort(tmp_path / "in", 2), tmp_path / "out", tiny_model)
    page = (tmp_path / "out/summary.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4
    assert set(re.findall(r'src="([^:]+):', page)) == {"data"}
    assert not re.search(r'(?:href|src)="(?!#|data:)', page)
    assert "default-src 'none'" in html.unescape(page)
    assert "AI SR, not acquired" in page
    assert "Research use only" in page


def test_scan_that_is_gone_is_said_to_be(tmp_path: Path, tiny_model: Path) -> None:
    make_cohort(tmp_path / "in", 2)
    out = tmp_path / "out"
    run_here(tmp_path / "in", out, tiny_model)
    (tmp_path / "in/sub-0/t1_T1w.nii.gz").unlink()
    run_here(tmp_path / "in", out, tiny_model)
    page = (out / "summary.html").read_text(encoding="utf-8")
    assert "Cannot be shown: t1_T1w.nii.gz does not exist" in page
    assert page.count("<figure>") == 2


def test_page_in_a_browser(tmp_path: Path, tiny_model: Path, browser: Any) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.nii.gz").write_bytes(b"no scan")
    run_here(make_cohort(tmp_path / "in", 2), tmp_path / "out", tiny_model)
    for dark in (False, True):
        browser.open(tmp_path / "out/summary.html", dark=dark)
        assert browser.errors() == []
        assert [url for url in browser.requests() if not url.startswith("file:")] == []


def test_damaged_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"name": "a"}\n')
    with pytest.raises(JobError, match="damaged"):
        list(read_manifest(path))
