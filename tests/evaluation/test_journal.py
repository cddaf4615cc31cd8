"""What a killed study leaves, and which folders a study refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medsr.errors import ConfigError, InputError, JobError, PlanError
from medsr.evaluation.journal import NAME, open_journal
from medsr.evaluation.record import Exclusion, Outcome, VolumeFacts

STUDY = {"model": "a1b2", "protocols": ["inplane-x2"]}
VOLUME = VolumeFacts(
    name="a.nii", subject="A", modality="MR", phantom=False, shape=(8, 8, 8), spacing=(1, 1, 2.5), slice_axis=2,
    sha256="00",
)  # fmt: skip
OUTCOME = Outcome(volume="a.nii", protocol="inplane-x2", method="cubic", metrics={"psnr": 31.123456789012345})
EXCLUDED = Exclusion(volume="b.nii", protocol="inplane-x2", reason="too thick")


def begin(folder: Path, *parts, study=STUDY, **flags):
    flags = {"resume": False, "overwrite": False} | flags
    with open_journal(folder, study, "2026-01-01", **flags) as journal:
        for part in parts:
            journal.add(part)
        return journal


def test_what_was_added_is_known_again(tmp_path):
    begin(tmp_path / "new", VOLUME, OUTCOME, EXCLUDED)
    again = begin(tmp_path / "new", resume=True)
    assert again.volumes == {"a.nii": VOLUME}
    assert again.outcomes == {("a.nii", "inplane-x2", "cubic"): OUTCOME}
    assert again.excluded == {("b.nii", "inplane-x2"): EXCLUDED}
    assert again.created == "2026-01-01"


@pytest.mark.parametrize("cut", [1, 20])
def test_half_a_line_is_cut_away_and_written_anew(tmp_path, cut):
    begin(tmp_path, VOLUME, OUTCOME)
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = begin(tmp_path, OUTCOME, resume=True)
    assert again.volumes == {"a.nii": VOLUME}
    assert path.read_bytes() == whole


def test_a_study_that_is_there_is_neither_mixed_nor_lost(tmp_path):
    begin(tmp_path, OUTCOME)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(PlanError, match="holds a study already; go on with it by --resume"):
        begin(tmp_path)
    with pytest.raises(PlanError, match=r'they differ in: model \("a1b2" there, "c3" now\)'):
        begin(tmp_path, study=STUDY | {"model": "c3"}, resume=True)
    with pytest.raises(PlanError, match="differ in: seed"):
        begin(tmp_path, study=STUDY | {"seed": 1}, resume=True)
    with pytest.raises(ConfigError, match="give one of them"):
        begin(tmp_path, resume=True, overwrite=True)
    assert (tmp_path / NAME).read_bytes() == before


def test_overwriting_removes_the_old_study_alone(tmp_path):
    begin(tmp_path, OUTCOME)
    (tmp_path / "cases" / "inplane-x2").mkdir(parents=True)
    for name in ("metrics.json", "report.html", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert begin(tmp_path, study=STUDY | {"model": "c3"}, overwrite=True).outcomes == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", NAME]


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_folders_that_no_study_made_are_left_alone(tmp_path, flags):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "precious").write_text("x")
    with pytest.raises(PlanError, match="cases exists and is of no study"):
        begin(tmp_path, **flags)
    assert [p.name for p in tmp_path.rglob("*")] == ["cases", "precious"]


def test_a_damaged_journal_is_named(tmp_path):
    begin(tmp_path, VOLUME, OUTCOME)
    path = tmp_path / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"outcome": {"volume": 1}}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        begin(tmp_path, resume=True)
    path.write_bytes(b"hello\n")
    with pytest.raises(InputError, match="not the journal of a study"):
        begin(tmp_path, resume=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_a_line_that_finds_no_room_is_an_error_and_no_loss(tmp_path):
    import resource

    begin(tmp_path, VOLUME)
    path = tmp_path / NAME
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(JobError, match="run again with --resume"):
            begin(tmp_path, OUTCOME, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert begin(tmp_path, OUTCOME, resume=True).volumes == {"a.nii": VOLUME}
    assert path.read_bytes().startswith(before)


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_studies_do_not_share_a_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from medsr.evaluation.journal import open_journal\n"
        "with open_journal(Path(sys.argv[1]), {}, '', resume=False, overwrite=False):\n"
        "    print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "open\n"
    with pytest.raises(JobError, match="another study is being written"):
        begin(tmp_path, resume=True)
    other.kill()
    other.wait()
    begin(tmp_path, study={}, resume=True)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(JobError, match="choose another place with --out"):
        begin(tmp_path / "file" / "study")
