"""What a batch says: every scan on a line, and never more lines than a terminal holds."""

from __future__ import annotations

import json
from pathlib import Path

from medsr.request import Request
from medsr.service.batch import BatchRequest, Ended, Trouble, plan_batch
from medsr.service.batch_text import ended_json, ended_text, plan_json, plan_table, trouble_lines
from tests.service.cohorts import make_cohort, make_scan


def test_plan_for_people_and_programs(tmp_path: Path, tiny_model: Path) -> None:
    make_cohort(tmp_path / "in", 2)
    make_scan(tmp_path / "in" / ("d" * 60) / "t1_T1w.nii.gz")
    (tmp_path / "in/bad.nii.gz").write_bytes(b"no scan")
    planning = plan_batch([tmp_path / "in"], Request(model=str(tiny_model)), BatchRequest(tmp_path / "out"))
    lines = plan_table(planning).splitlines()
    assert len(lines) == 6
    assert "sub-0/t1_T1w.nii.gz" in lines[1]
    assert "10 x 9 x 5 -> 20 x 18 x 5" in lines[1]
    assert lines[3].startswith("bad.nii.gz  refused (3): ")
    assert lines[4].startswith("3 to do, 1 refused, 0 left out; about 1 min")
    assert lines[5].startswith("disk: the results need up to 3.0 MB, ")
    values = json.loads(json.dumps(plan_json(planning)))
    assert [scan["plan"]["target"]["shape"] for scan in values["scans"]] == [[20, 18, 5]] * 3
    assert [(row["name"], row["exit_code"]) for row in values["left_out"]] == [("bad.nii.gz", 3)]


def test_end_in_words() -> None:
    trouble = tuple(Trouble(f"{n}.nii", f"{n}.nii is empty" if n % 2 else "the device was lost", 3) for n in range(30))
    ended = Ended(done=5, before=2, left_out=1, waiting=3, trouble=trouble)
    assert ended_text(ended, Path("out")).splitlines()[0] == (
        "5 done (2 of them before), 30 failed, 3 not begun, 1 left out"
    )
    lines = trouble_lines(ended)
    assert lines[:2] == ["0.nii: the device was lost", "1.nii is empty"]
    assert (len(lines), lines[-1].startswith("10 more scans")) == (21, True)
    assert len(ended_json(ended)["failed"]) == 30


def test_clean_end_is_short() -> None:
    ended = Ended(done=2, before=0, left_out=0, waiting=0, trouble=())
    assert ended_text(ended, Path("out")).splitlines()[0] == "2 done"
    assert trouble_lines(ended) == []
