"""Studies are put together by what they measured, and not at all where one name means two things."""

from __future__ import annotations

import pytest

from medsr.errors import InputError
from medsr.evaluation.report.results import read_results


def test_oldest_first_and_named_by_what_differs(make, saved):
    volumes = (make.volume("a"), make.volume("b"))
    gains = {"a": 1.0, "b": 2.0}
    old = saved(make.study(gains, volumes, version="1", created="2026-01-01T00:00:00Z"), "old")
    new = saved(make.study(gains, volumes, version="2", created="2026-02-01T00:00:00Z"), "new")
    results = read_results([new, old])
    assert results.folders == (old, new)
    assert results.labels == ("medsr-base 1", "medsr-base 2")
    assert [m.label for m in results.headlines] == ["medsr (medsr-base 1)", "medsr (medsr-base 2)"]
    assert [m.label for m in results.classical] == ["cubic", "linear MMSE"]


def test_one_model_on_other_days_is_told_apart_by_its_folder(make, saved):
    volumes = (make.volume("a"),)
    first = saved(make.study({"a": 1.0}, volumes), "first")
    second = saved(make.study({"a": 1.1}, volumes, created="2026-02-01T00:00:00Z"), "second")
    assert read_results([first, second]).labels == ("first", "second")


def test_the_headline_is_the_least_texture(make, saved):
    results = read_results([saved(make.study({"a": 1.0}, (make.volume("a"),)))])
    assert [m.facts.name for m in results.headlines] == ["medsr"]
    assert [m.label for m in results.rivals] == ["medsr", "medsr, texture 1"]


def test_other_references_under_one_name_are_refused(make, saved):
    volume = make.volume("scan.nii.gz")
    first = saved(make.study({"scan.nii.gz": 1.0}, (volume,)), "first")
    other = volume.model_copy(update={"sha256": "0" * 64})
    second = saved(make.study({"scan.nii.gz": 1.0}, (other,), version="2"), "second")
    with pytest.raises(InputError, match=r"'scan\.nii\.gz' is another file in .*first.*second.*sha256"):
        read_results([first, second])


def test_other_degradations_under_one_name_are_refused(make, saved):
    volume = make.volume("a")
    first = saved(make.study({"a": 1.0}, (volume,)), "first")
    changed = make.inplane.model_copy(update={"text": "Coarser, and noisy."})
    second = saved(make.study({"a": 1.0}, (volume,), (changed,), version="2"), "second")
    with pytest.raises(InputError, match="'inplane-x2' is not the same degradation"):
        read_results([first, second])


def test_a_study_given_twice_is_refused(make, saved):
    folder = saved(make.study({"a": 1.0}, (make.volume("a"),)))
    with pytest.raises(InputError, match="same study"):
        read_results([folder, folder / "metrics.json"])


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no study"):
        read_results([tmp_path])
    (tmp_path / "metrics.json").write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match="schema"):
        read_results([tmp_path])


def test_an_outcome_of_what_is_not_described_is_refused(make, saved):
    study = make.study({"a": 1.0}, (make.volume("a"),))
    folder = saved(study, cases=())
    stray = study.outcomes[0].model_copy(update={"volume": "b"})
    broken = study.model_copy(update={"outcomes": (*study.outcomes, stray)})
    (folder / "metrics.json").write_text(broken.model_dump_json())
    with pytest.raises(InputError, match="'b', which it does not describe"):
        read_results([folder])


def test_phantoms_stand_apart_unless_there_is_nothing_else(make, saved):
    volumes = (make.volume("p", phantom=True), make.volume("z", modality="CT"), make.volume("y"))
    results = read_results([saved(make.study(dict.fromkeys("pyz", 1.0), volumes))])
    assert [v.name for v in results.volumes_under("inplane-x2")] == ["y", "z"]
    assert [v.name for v in results.volumes_under("inplane-x2", phantoms=True)] == ["y", "z", "p"]
    alone = read_results([saved(make.study({"p": 1.0}, volumes[:1]), "alone")])
    assert [v.name for v in alone.volumes_under("inplane-x2")] == ["p"]
