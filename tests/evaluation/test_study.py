"""``medsr evaluate`` from files to files: what it measures, what it survives, what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr.errors import InputError, PlanError
from medsr.evaluation import metrics
from medsr.evaluation.casefile import case_path, read_case
from medsr.evaluation.record import Study, command_text, read_study
from medsr.evaluation.request import StudyRequest, baselines_by_name
from medsr.evaluation.study import Evaluated, evaluate
from medsr.image.nifti import read
from medsr.protocols import degrade_file
from medsr.request import Request
from medsr.run import upscale_file

COSTS = ("seconds", "peak_memory_mb")


def request(tiny_model: Path, **fields) -> StudyRequest:
    given = {"protocols": ("inplane-x2",), "baselines": ("nearest", "cubic"), "steps": 1, "threads": 1}
    return StudyRequest(**{"model": str(tiny_model), "device": "cpu"} | given | fields)


def run(data: Path, out: Path, wanted: StudyRequest, **flags) -> Evaluated:
    return evaluate(data, out, wanted, **flags)


def without_costs(study: Study) -> dict:
    """A study without what differs between two runs of the same."""
    content = study.model_dump(mode="json", exclude={"created", "command"})
    for outcome in content["outcomes"]:
        outcome["metrics"] = {k: v for k, v in outcome["metrics"].items() if k not in COSTS}
    return content


@pytest.fixture(scope="module")
def whole(fine_scans, tiny_model, tmp_path_factory) -> tuple[Path, Evaluated]:
    """One study of everything that is small: two protocols, mean and sample, volumes kept."""
    out = tmp_path_factory.mktemp("study") / "out"
    wanted = request(tiny_model, protocols=("inplane-x2", "blind-x2"), textures=(1.0, 0.0), keep_volumes=True)
    return out, run(fine_scans, out, wanted, command="medsr evaluate --data fine")


def test_every_method_has_an_outcome_on_every_volume(whole):
    out, done = whole
    study = done.study
    assert done.failed == ()
    assert read_study(out) == study
    assert [m.name for m in study.methods] == ["nearest", "cubic", "medsr", "medsr sample"]
    assert [(o.volume, o.protocol, o.method) for o in study.outcomes] == [
        (volume, protocol, method)
        for volume in ("test/head_T1w.nii.gz", "test/head_T2w.nii.gz", "test/trunk_CT.nii.gz")
        for protocol in ("inplane-x2", "blind-x2")
        for method in ("nearest", "cubic", "medsr", "medsr sample")
    ]
    assert [(v.subject, v.modality, v.phantom) for v in study.volumes] == [
        ("head", "MR", False), ("head", "MR", False), ("trunk", "CT", True)
    ]  # fmt: skip
    assert (study.split, study.seed, study.command) == ("test", 0, "medsr evaluate --data fine")
    assert study.protocols[1].text.endswith("methods are told nothing of it.")
    assert set(study.versions) >= {"medsr", "python", "torch", "numpy"}


def test_the_figures_are_those_of_the_commands_one_by_one(whole, fine_scans, tiny_model, tmp_path):
    """Degraded, upscaled and scored by hand."""
    _, done = whole
    path = fine_scans / "test" / "head_T2w.nii.gz"
    reference = read(path, modality="MR")
    coarse = tmp_path / "coarse.nii.gz"
    degrade_file(path, coarse, "inplane-x2", modality="MR")
    wanted = Request(
        target=reference.geometry, profile="gauss:1.0", modality="mr", model=str(tiny_model), device="cpu", threads=1
    )
    for method, texture in (("medsr", 0.0), ("medsr sample", 1.0)):
        asked = replace(wanted, texture=texture, steps=1)
        made = upscale_file(coarse, tmp_path / f"{texture:g}.nii.gz", asked)
        expected = metrics.score(reference.array, read(made.files["volume"], modality="MR").array, "MR")
        key = ("test/head_T2w.nii.gz", "inplane-x2", method)
        (outcome,) = (o for o in done.study.outcomes if (o.volume, o.protocol, o.method) == key)
        assert outcome.metrics["psnr"] == pytest.approx(expected.psnr, abs=1e-9)
        assert outcome.metrics["ssim_2d"] == pytest.approx(expected.ssim_2d, abs=1e-6)
        assert outcome.metrics["certificate"] == made.result.certificate.residual
        assert outcome.metrics["evaluations"] == made.result.evaluations
    assert done.study.model.sha256 == made.plan.model_sha256


def test_the_mean_states_its_uncertainty_and_a_sample_is_set_against_it(whole):
    _, done = whole
    table = {(o.volume, o.protocol, o.method): o for o in done.study.outcomes}
    for (volume, protocol, method), outcome in table.items():
        assert ({"coverage_90", "spread_skill"} <= outcome.metrics.keys()) == (method == "medsr")
        assert (outcome.reliability is not None) == (method == "medsr")
        assert ("mse_ratio" in outcome.metrics) == (method == "medsr sample")
        assert ("bias_foreground" in outcome.metrics) == (volume == "test/trunk_CT.nii.gz")
        assert outcome.spectrum is not None
        if method == "medsr sample":
            gain = outcome.metrics["psnr"] - table[volume, protocol, "medsr"].metrics["psnr"]
            assert outcome.metrics["mse_ratio"] == pytest.approx(10 ** (-gain / 10))


def test_the_files_of_a_study(whole):
    out, done = whole
    assert sorted(p.name for p in out.iterdir()) == [
        "cases", "metrics.csv", "metrics.json", "outcomes.jsonl", "report.html", "volumes"
    ]  # fmt: skip
    with (out / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(len(o.metrics) for o in done.study.outcomes)
    assert {r["subject"] for r in rows} == {"head", "trunk"}
    assert "Research use" in (out / "report.html").read_text()
    assert (out / "metrics.json").stat().st_size < 100_000
    text = (out / "metrics.json").read_text() + (out / "outcomes.jsonl").read_text()
    assert str(out.parent) not in text, "studies travel: no local paths in them"


def test_the_case_of_a_volume_shows_what_was_compared(whole, fine_scans):
    out, _ = whole
    case = read_case(case_path(out, "inplane-x2", "test/head_T1w.nii.gz"))
    assert set(case.images) == {"scan", "cubic", "medsr", "sample", "reference", "std"}
    reference = read(fine_scans / "test/head_T1w.nii.gz", modality="MR")
    assert case.shape == reference.array.shape, "small enough to be shown whole"
    np.testing.assert_allclose(case.images["reference"], reference.array, rtol=1e-3)
    kept = nibabel.load(out / "volumes" / "medsr" / "inplane-x2" / "test" / "head_T1w.nii.gz")
    np.testing.assert_allclose(case.images["medsr"], kept.get_fdata(), rtol=1e-3, atol=0.1)
    assert "AI SR, not acquired" in str(kept.header["descrip"])
    cubic = nibabel.load(out / "volumes" / "cubic" / "inplane-x2" / "test" / "head_T1w.nii.gz")
    assert "not acquired" in str(cubic.header["descrip"])
    assert "AI" not in str(cubic.header["descrip"])


def test_kept_volumes_compared_again_have_the_same_figures(whole, fine_scans, tiny_model, tmp_path):
    """A folder of another tool, in the form in which volumes are kept; one file of it is missing."""
    out, done = whole
    other = tmp_path / "tool"
    shutil.copytree(out / "volumes" / "cubic", other)
    (other / "inplane-x2" / "test" / "head_T2w.nii.gz").unlink()
    wanted = request(tiny_model, baselines=("linear",), compare=(("tool", other),))
    again = run(fine_scans, tmp_path / "out", wanted)
    known = {(o.volume, o.protocol, o.method): o.metrics for o in done.study.outcomes}
    found = {o.volume: o.metrics for o in again.study.outcomes if o.method == "tool"}
    assert set(found) == {"test/head_T1w.nii.gz", "test/trunk_CT.nii.gz"}
    for volume, figures in found.items():
        assert figures == {k: v for k, v in known[volume, "inplane-x2", "cubic"].items() if k not in COSTS}
    (gone,) = again.study.excluded
    assert (gone.volume, gone.protocol) == ("test/head_T2w.nii.gz", "inplane-x2")
    assert gone.reason.startswith("tool: no file of that name")
    assert again.failed == ()


def test_another_grid_is_refused_before_anything_is_computed(fine_scans, tiny_model, tmp_path):
    other = tmp_path / "tool"
    other.mkdir()
    image = nibabel.load(fine_scans / "test" / "head_T2w.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 0.4  # half a voxel, the classic
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), other / "head_T2w.nii.gz")
    with pytest.raises(InputError, match=r"head_T2w.nii.gz lies on another grid than the reference test/head_T2w") as e:
        run(fine_scans, tmp_path / "out", request(tiny_model, compare=(("tool", other),)))
    assert str(e.value).count("64x70x14") == 2, "both grids are named"
    assert not (tmp_path / "out").exists()


def test_the_same_study_gives_the_same_figures(whole, fine_scans, tiny_model, tmp_path):
    _, first = whole
    wanted = request(tiny_model, protocols=("inplane-x2", "blind-x2"), textures=(1.0, 0.0), limit=1)
    again = without_costs(run(fine_scans, tmp_path / "out", wanted).study)
    expected = without_costs(first.study)
    assert again["outcomes"] == [o for o in expected["outcomes"] if o["volume"] == "test/head_T1w.nii.gz"]
    assert len(again["volumes"]) == 1


def test_nothing_is_measured_twice(whole, fine_scans, tiny_model):
    """A finished study, resumed: the same files, and no work."""
    out, done = whole
    before = (out / "outcomes.jsonl").read_bytes()
    shares: list[float] = []
    wanted = request(tiny_model, protocols=("inplane-x2", "blind-x2"), textures=(1.0, 0.0), keep_volumes=True)
    again = run(
        fine_scans, out, wanted, resume=True, command=done.study.command, progress=lambda _, s: shares.append(s)
    )
    assert again.study == done.study
    assert (out / "outcomes.jsonl").read_bytes() == before
    assert not shares


def test_a_study_of_something_else_is_refused(whole, fine_scans, tiny_model):
    out, _ = whole
    for wanted, message in (
        (request(tiny_model), "holds another study; they differ in: protocols"),
        (request(tiny_model, protocols=("inplane-x2", "blind-x2"), textures=(0.0, 1.0), seed=1), "differ in: sampler"),
    ):
        with pytest.raises(PlanError, match=message):
            run(fine_scans, out, wanted, resume=True)
        with pytest.raises(PlanError, match="go on with it by --resume"):
            run(fine_scans, out, wanted)
    with pytest.raises(PlanError, match="is the data folder itself"):
        run(fine_scans, fine_scans, request(tiny_model))


def test_shares_grow_to_one(fine_scans, tiny_model, tmp_path):
    said: list[tuple[str, float]] = []
    run(fine_scans, tmp_path / "out", request(tiny_model, limit=2), progress=lambda *step: said.append(step))
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert list(dict.fromkeys(stage for stage, _ in said)) == [
        "test/head_T1w.nii.gz, inplane-x2",
        "test/head_T2w.nii.gz, inplane-x2",
    ]


def test_who_takes_part(fine_scans, tiny_model, tmp_path):
    """By header, by modality, and by what the voxels show where no index tells."""
    folder = tmp_path / "plain"
    folder.mkdir()
    shutil.copy(fine_scans / "test" / "head_T1w.nii.gz", folder)
    shutil.copy(fine_scans / "test" / "trunk_CT.nii.gz", folder)
    image = nibabel.load(fine_scans / "test" / "head_T1w.nii.gz")
    sharp = np.random.default_rng(0).normal(1000, 100, (96, 96, 24))
    spectrum = np.fft.rfft(sharp, axis=0)
    spectrum[25:] = 0
    filled = np.fft.irfft(spectrum, 96, axis=0).round().astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(filled, image.affine), folder / "sub-1_filled_T1w.nii.gz")
    nibabel.save(nibabel.Nifti1Image(filled[:40], image.affine), folder / "sub-1_small_T1w.nii.gz")
    nibabel.save(nibabel.Nifti1Image((filled > 1000).astype(np.uint8), image.affine), folder / "sub-1_dseg.nii.gz")
    done = run(folder, tmp_path / "out", request(tiny_model, protocols=("inplane-x2-kspace",), baselines=("cubic",)))
    assert {o.volume for o in done.study.outcomes} == {"head_T1w.nii.gz"}
    reasons = {e.volume: e.reason for e in done.study.excluded}
    assert "is for MR, and this is CT" in reasons["trunk_CT.nii.gz"]
    assert "axis i was interpolated or zero-filled" in reasons["sub-1_filled_T1w.nii.gz"]
    assert "20 x 48 pixels are left" in reasons["sub-1_small_T1w.nii.gz"]
    assert "label map" in reasons["sub-1_dseg.nii.gz"]
    assert done.failed == ()
    assert {v.name: v.subject for v in done.study.volumes}["head_T1w.nii.gz"] == "head_T1w"


def test_any_file_name_will_do(fine_scans, tiny_model, tmp_path):
    """Blanks, other scripts, markup and a line break; each name ends on one line wherever it is printed."""
    folder = tmp_path / "my scans" / "sub-01 \N{GREEK SMALL LETTER ALPHA}"
    folder.mkdir(parents=True)
    names = ["a b.nii.gz", "<script>[red].nii.gz", "two\nlines.nii.gz"]
    for name in names:
        shutil.copy(fine_scans / "val" / "other_T1w.nii.gz", folder / name)
    wanted = request(tiny_model, baselines=("cubic",), keep_volumes=True)
    done = run(tmp_path / "my scans", tmp_path / "out", wanted)
    assert sorted(o.volume for o in done.study.outcomes if o.method == "cubic") == sorted(
        f"{folder.name}/{n}" for n in names
    )
    assert len({o.metrics["psnr"] for o in done.study.outcomes if o.method == "medsr"}) == 1
    assert (tmp_path / "out" / "volumes" / "medsr" / "inplane-x2" / folder.name / names[2]).is_file()
    assert "<script>[red]" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert read_study(tmp_path / "out") == done.study


def test_a_study_without_volumes_says_why(fine_scans, tiny_model, tmp_path):
    with pytest.raises(
        InputError, match=r"none of the 3 volumes can be a reference of slice-x4: test/head_T1w.*slices"
    ):
        run(fine_scans, tmp_path / "out", request(tiny_model, protocols=("slice-x4",)))


# --- the command ---------------------------------------------------------------------------------------------------


def command(data: Path, out: Path, tiny_model: Path, *more: str) -> list[str]:
    return ["evaluate", "--data", str(data), "--out", str(out), "--protocol", "inplane-x2", "--model", str(tiny_model),
            "--device", "cpu", "--threads", "1", "--baselines", "nearest,Cubic", *more]  # fmt: skip


@pytest.mark.parametrize(("how", "lines"), [(signal.SIGKILL, 4), (signal.SIGTERM, 10)])
def test_a_killed_study_goes_on(fine_scans, tiny_model, tmp_path, child_environment, how, lines):
    """Killed after some outcomes and resumed: the figures of a study that nobody disturbed."""
    words = command(fine_scans, tmp_path / "out", tiny_model, "--texture", "0,1", "--steps", "1", "--resume")
    journal = tmp_path / "out" / "outcomes.jsonl"
    start = {"args": [sys.executable, "-m", "medsr", *words], "env": child_environment}
    process = subprocess.Popen(**start, stderr=subprocess.PIPE)
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") >= lines):
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (143 if how == signal.SIGTERM else -how)
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert (tmp_path / "out" / ".work").exists() == (how == signal.SIGKILL)
    done = subprocess.run(**start, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    wanted = request(tiny_model, textures=(0.0, 1.0))
    undisturbed = run(fine_scans, tmp_path / "other", wanted)
    assert without_costs(read_study(tmp_path / "out")) == without_costs(undisturbed.study)
    for path in (tmp_path / "other" / "cases").rglob("*.npz"):
        images = (read_case(p).images for p in (path, tmp_path / "out" / path.relative_to(tmp_path / "other")))
        for one, other in zip(*(i.items() for i in images), strict=True):
            assert one[0] == other[0]
            np.testing.assert_array_equal(one[1], other[1])
    assert not (tmp_path / "out" / ".work").exists()


def test_a_volume_that_cannot_be_read_ends_only_itself(fine_scans, tiny_model, tmp_path, run_cli):
    data = tmp_path / "data"
    shutil.copytree(fine_scans / "test", data)
    damaged = data / "head_T1w.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-3000])
    (data / "another_T1w.nii.gz").write_bytes(b"no image")
    done = run_cli(*command(data, tmp_path / "out", tiny_model, "-q"))
    assert done.returncode == 8, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("medsr: error: another_T1w.nii.gz was left out: ")
    assert second.startswith("medsr: error: head_T1w.nii.gz was left out: head_T1w.nii.gz")
    assert "truncated" in second
    study = read_study(tmp_path / "out")
    assert {v.name for v in study.volumes} == {"head_T2w.nii.gz", "trunk_CT.nii.gz"}
    assert {e.volume for e in study.excluded} == {"another_T1w.nii.gz", "head_T1w.nii.gz"}


def test_what_the_command_prints(fine_scans, tiny_model, tmp_path, run_cli, capsys):
    done = run_cli(*command(fine_scans, tmp_path / "out", tiny_model, "--split", "val"))
    assert done.returncode == 0, done.stderr
    assert "inplane-x2, MR: " in done.stdout
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert "val/other_T1w.nii.gz, inplane-x2 (0% done)" in done.stderr
    words = command(fine_scans, tmp_path / "out", tiny_model, "--split", "val", "--resume", "--json")
    assert ended(words) == 0
    assert Study.model_validate(json.loads(capsys.readouterr().out)) == read_study(tmp_path / "out")


def ended(words: list[str]) -> int:
    """The exit status of a command in this process."""
    from medsr.cli import main

    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (("--texture", "0,1.5"), 2, "--texture 1.5 is outside 0"),
        (("--texture", "0,one"), 2, "is not a list of numbers"),
        (("--texture", ","), 2, "--texture names no texture"),
        (("--texture", "0,0"), 2, "--texture names 0.0 twice"),
        (("--steps", "4"), 2, "--steps: only with --texture above 0; the mean needs none"),
        (("--protocol", "inplane-x3"), 2, "unknown protocol 'inplane-x3'; there are: inplane-x2-kspace"),
        (("--protocol", "blind-x2,blind-x2"), 2, "--protocol names blind-x2 twice"),
        (("--protocol", ","), 2, "--protocol names no protocol"),
        (("--baselines", "cubic,best"), 2, "'best' is no classical method; there are: all, none, nearest"),
        (("--compare", "tool"), 2, "is not NAME=FOLDER"),
        (("--compare", "tool=/no/such/folder"), 2, "/no/such/folder is no folder"),
        (("--compare", "medsr=."), 2, "medsr: another method has that name"),
        (("--compare", "../x=."), 2, "becomes that of a method"),
        (("--resume", "--overwrite"), 2, "give one of them"),
        (("--limit", "0"), 2, "0 is not in the range"),
        (("--data", "no-such-folder"), 2, "does not exist"),
        (("--split", "train"), 3, "no row of the split train; it has: val, test"),
        (("--model", "no-such-model"), 5, "no such model"),
        (("--device", "cuda:77"), 6, "cuda:77"),
    ],
)
def test_what_cannot_be_meant_ends_in_one_line(fine_scans, tiny_model, tmp_path, capsys, more, status, message):
    found = ended(command(fine_scans, tmp_path / "out", tiny_model, *more))
    error = capsys.readouterr().err
    assert found == status, error
    (line,) = [x for x in error.splitlines() if x.startswith("medsr: error: ")]
    assert message in line
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_subject_in_two_splits_is_refused(fine_scans, tiny_model, tmp_path, capsys):
    index = tmp_path / "list.csv"
    files = [fine_scans / "test" / "head_T1w.nii.gz", fine_scans / "val" / "other_T1w.nii.gz"]
    index.write_text(f"file,subject,split\n{files[0]},same,test\n{files[1]},same,val\n")
    assert ended(command(index, tmp_path / "out", tiny_model)) == 3
    message = "subject 'same' is in test and in val; put all scans of one person into one split"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_recorded_command_names_no_place_of_this_machine():
    words = ["/usr/bin/medsr", "evaluate", "--data", "/data/my scans", "--compare", "x=/tmp/x", "--out", "here/out"]
    assert command_text(words) == "medsr evaluate --data 'my scans' --compare x=x --out here/out"


def test_the_command_and_the_request_have_one_set_of_defaults():
    from medsr.cli import cli

    words = ["--data", ".", "--protocol", "inplane-x2", "--out", "out"]
    parsed = cli.commands["evaluate"].make_context("evaluate", words).params
    wanted = StudyRequest(protocols=("inplane-x2",))
    names = vars(wanted).keys() - {"baselines"}
    assert {name: parsed[name] for name in names} == {name: getattr(wanted, name) for name in names}
    assert baselines_by_name(parsed["baselines"]) == wanted.baselines
