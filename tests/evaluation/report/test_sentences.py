"""The sentence says who is closer only when the figures do, and says how few they are."""

from __future__ import annotations

import pytest

from medsr.evaluation.report.findings import findings
from medsr.evaluation.report.results import read_results
from medsr.evaluation.report.sentences import answer, cautions


@pytest.fixture
def said(make, saved):
    """Answer and cautions for the gains of so many subjects, under one protocol or several."""

    def say(gains, protocols=None, **options):
        volumes = tuple(make.volume(f"v{n}") for n in range(len(gains)))
        study = make.study({v.name: g for v, g in zip(volumes, gains, strict=True)}, volumes,
                           protocols or (make.inplane,), **options)  # fmt: skip
        results = read_results([saved(study, cases=())])
        found = findings(results)
        return answer(found, results), " ".join(cautions(found, results))

    return say


def test_a_win(said):
    sentence, _ = said([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2])
    assert sentence.startswith("On 7 volumes of 7 subjects under inplane-x2, MR, medsr is closer to the reference than")
    assert "its PSNR is 1.60 dB higher (95 % interval " in sentence
    assert sentence.endswith("and it is the closer one on 7 of 7.")


def test_a_loss_is_called_one(said):
    sentence, _ = said([-1.0, -1.2, -1.4, -1.6, -1.8, -2.0, -2.2])
    assert "medsr is further from the reference than the best classical method" in sentence
    assert "1.60 dB lower" in sentence
    assert "on 0 of 7" in sentence


def test_what_cannot_be_told(said):
    sentence, _ = said([1.0, -1.0, 1.1, -1.1, 0.2, -0.2])
    assert "no difference between medsr and the best classical method can be told" in sentence
    assert "on 3 of 6" in sentence


def test_one_subject_is_no_sample(said):
    sentence, notes = said([2.0])
    assert "one subject tells nothing of others" in sentence
    assert "interval" not in sentence
    assert "The only row of the table rests on fewer than 6 subjects (the least: 1)" in notes


def test_few_subjects_are_said(said):
    assert "fewer than 6 subjects" in said([1.0] * 5)[1]


def test_enough_subjects_need_no_caution(said):
    assert "fewer than" not in said([1.0] * 6)[1]


def test_several_protocols_are_not_averaged(said, make):
    sentence, _ = said([1.0, 1.5, 2.0], (make.inplane, make.slice))
    assert "On 3 volumes of 3 subjects under 2 protocols, medsr is closer to the reference" in sentence
    assert "in 6 of 6 comparisons" in sentence
    assert "runs from +1.50 dB (inplane-x2, MR) to +1.50 dB" in sentence


def test_a_mixed_outcome_names_where_it_loses(make, saved):
    volumes = tuple(make.volume(f"v{n}") for n in range(4))
    gains = {v.name: 1.0 + 0.1 * n for n, v in enumerate(volumes)}
    study = make.study(gains, volumes, (make.inplane, make.slice))
    worse = tuple(
        o.model_copy(update={"metrics": o.metrics | {"psnr": 29.0}})
        if (o.protocol, o.method) == ("slice-x4", "medsr")
        else o
        for o in study.outcomes
    )
    results = read_results([saved(study.model_copy(update={"outcomes": worse}), cases=())])
    sentence = answer(findings(results), results)
    assert (
        "closer to the reference than the best classical method in 1 of 2 combinations of protocol and modality"
        in sentence
    )
    assert "further from it in 1 (slice-x4, MR)" in sentence
    assert "in 4 of 8 comparisons" in sentence


def test_nothing_measured(said):
    assert said([])[0].startswith("No volume took part")


def test_no_rival_no_judgement(make, saved):
    study = make.study({"a": 1.0}, (make.volume("a"),))
    own = tuple(o for o in study.outcomes if o.method.startswith("medsr"))
    results = read_results([saved(study.model_copy(update={"outcomes": own}), cases=())])
    sentence = answer(findings(results), results)
    assert "medsr reaches a PSNR of 31.00 dB (inplane-x2, MR)" in sentence
    assert "do not tell whether that is good" in sentence


def test_warnings_exclusions_and_the_validation_split_are_said(make, saved):
    study = make.study({"a": 1.0}, (make.volume("a"),), warnings=("misaligned by 0.5 voxels along i",))
    results = read_results([saved(study.model_copy(update={"split": "val"}), cases=())])
    notes = " ".join(cautions(findings(results), results))
    assert "misaligned by 0.5 voxels along i" in notes
    assert "1 pair of volume and protocol was not admitted" in notes
    assert "validation split" in notes
