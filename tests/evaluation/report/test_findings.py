"""Gains are taken volume by volume over the best classical method, and averaged subject by subject."""

from __future__ import annotations

import math

import pytest

from medsr.evaluation.report.findings import decimal, findings, number, shown_name
from medsr.evaluation.report.results import read_results


def test_the_rival_is_the_best_on_each_volume(make, saved):
    volumes = (make.volume("a"), make.volume("b"))
    study = make.study({"a": 1.0, "b": 2.0}, volumes)
    better = [
        o.model_copy(update={"metrics": o.metrics | {"psnr": 31.5}}) if (o.volume, o.method) == ("b", "cubic") else o
        for o in study.outcomes
    ]
    (found,) = findings(read_results([saved(study.model_copy(update={"outcomes": tuple(better)}))]))
    assert {p.volume.name: p.rival.method for p in found.pairs} == {"a": "linear MMSE", "b": "cubic"}
    assert [p.gain for p in found.pairs] == pytest.approx([1.0, 0.5])
    assert found.mean("psnr", rival=True) == pytest.approx((30 + 31.5) / 2)


def test_scans_of_one_subject_count_as_one(make, saved):
    volumes = (make.volume("a1", "A"), make.volume("a2", "A"), make.volume("a3", "A"), make.volume("b", "B"))
    gains = {"a1": 0.0, "a2": 1.0, "a3": 2.0, "b": 3.0}
    (found,) = findings(read_results([saved(make.study(gains, volumes))]))
    assert found.subjects == 2
    assert found.gain.mean == pytest.approx(2.0)
    assert found.gain.wins == 3
    assert found.mean("psnr") == pytest.approx(32.0)


def test_modalities_and_protocols_are_never_mixed(make, saved):
    volumes = (make.volume("m"), make.volume("c", modality="CT"), make.volume("p", phantom=True))
    study = make.study({"m": 1.0, "c": 5.0, "p": 50.0}, volumes, (make.inplane, make.slice))
    found = findings(read_results([saved(study)]))
    assert [(f.name, f.gain.mean) for f in found] == [
        ("inplane-x2, MR", pytest.approx(1.0)),
        ("inplane-x2, CT", pytest.approx(5.0)),
        ("slice-x4, MR", pytest.approx(1.0)),
        ("slice-x4, CT", pytest.approx(5.0)),
    ]


def test_without_classical_methods_there_is_no_gain(make, saved):
    study = make.study({"a": 1.0}, (make.volume("a"),))
    own = tuple(o for o in study.outcomes if o.method.startswith("medsr"))
    (found,) = findings(read_results([saved(study.model_copy(update={"outcomes": own}))]))
    assert found.gain is None
    assert math.isnan(found.pairs[0].gain)


def test_an_infinite_psnr_was_left_out_and_hides_nothing(make, saved):
    study = make.study({"a": 1.0, "b": 2.0}, (make.volume("a"), make.volume("b")))
    without = [
        o.model_copy(update={"metrics": {k: v for k, v in o.metrics.items() if k != "psnr"}}) if o.volume == "a" else o
        for o in study.outcomes
    ]
    (found,) = findings(read_results([saved(study.model_copy(update={"outcomes": tuple(without)}))]))
    assert (len(found.pairs), found.gain.n) == (2, 1)
    assert found.mean("psnr") == pytest.approx(32.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.234, "+1.23"), (-0.5, "\u22120.50"), (-0.001, "0.00"), (None, "\u2013"), (math.nan, "\u2013")],
)
def test_numbers(value, shown):
    assert decimal(value, 2, signed=True) == shown


def test_digits_are_those_of_the_metric():
    assert number(0.98765, "ssim_3d") == "0.9877"
    assert number(1234.5, "peak_memory_mb") == "1234"


def test_names():
    assert shown_name("test/sub-01/x_T1w.nii.gz") == "test/sub-01/x_T1w"
    assert shown_name("x.mgz") == "x"
