"""``medsr compare`` on files, as a user meets it: figures, refusals, what is written, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from scipy import ndimage

from medsr.errors import ConfigError, InputError
from medsr.evaluation.compare import compare_command, compare_files, in_words
from medsr.evaluation.measure import measure
from medsr.evaluation.record import METRICS, read_study
from medsr.image.nifti import read
from medsr.resources import sample_path

SHAPE = (48, 44, 40)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
NOW = {"created": "2024-02-29T12:00:00+00:00", "command": "medsr compare"}


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, codes: str = "RAS") -> Path:
    image = nibabel.Nifti1Image(array.astype(np.float32), affine)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    nibabel.save(image.as_reoriented(turn), path)
    return path


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    whole = read(sample_path("head_fine.nii.gz")).array
    cut = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(whole.shape, SHAPE, strict=True))
    truth = whole[cut] + np.random.default_rng(0).normal(scale=5, size=SHAPE).astype(np.float32)
    return {
        "truth": truth,
        "sharp": ndimage.gaussian_filter(truth, 0.5),
        "blurred": ndimage.gaussian_filter(truth, 1.0),
        "shifted": ndimage.shift(truth, (0, 0.5, 0), mode="nearest"),
    }


@pytest.fixture
def files(tmp_path, arrays) -> dict[str, Path]:
    paths = {name: save(tmp_path / f"{name}_T1w.nii.gz", array) for name, array in arrays.items()}
    coarse = np.diag([2.0, 2.0, 1.5, 1.0])
    coarse[:2, 3] = 0.5
    return {**paths, "coarse": save(tmp_path / "coarse_T1w.nii.gz", arrays["truth"][::2, ::2], coarse)}


def test_the_study_holds_what_measure_says(files, arrays):
    study = compare_files([files["sharp"], files["blurred"]], files["truth"], factor=(2.0,), **NOW)
    assert [m.name for m in study.methods] == ["sharp_T1w", "blurred_T1w"]
    for outcome, name in zip(study.outcomes, ("sharp", "blurred"), strict=True):
        slice_axis = 2  # of 1.5 mm
        expected = measure(arrays["truth"], arrays[name], modality="MR", slice_axis=slice_axis, factors=(2, 2, 1))
        assert outcome.metrics == pytest.approx(expected.metrics, rel=1e-6)
        assert outcome.spectrum == expected.spectrum
    (volume,) = study.volumes
    assert (volume.name, volume.modality, volume.shape, volume.slice_axis) == ("truth_T1w.nii.gz", "MR", SHAPE, 2)
    assert (study.protocols[0].axes, study.protocols[0].factor) == ("in-plane", 2)
    assert study.protocols[0].name == study.outcomes[0].protocol == "as given, 2x2x1"
    assert 20 < study.noise_ceiling[volume.name] < 60


@pytest.mark.parametrize("options", [{"factor": (2.0, 2.0, 1.0)}, {"coarse": "coarse"}, {"factor": (2.0,)}])
def test_three_ways_to_say_how_coarse_the_scan_was(files, options):
    given = {name: files["coarse"] if value == "coarse" else value for name, value in options.items()}
    study = compare_files([files["blurred"]], files["truth"], **given, **NOW)
    assert study.protocols[0].name == "as given, 2x2x1"
    assert {"spectrum_error", "between_slices_fine"} <= set(study.outcomes[0].metrics)


def test_without_it_the_texture_of_the_scan_is_left_out_and_said_to_be(files):
    study = compare_files([files["blurred"]], files["truth"], **NOW)
    assert not {"spectrum_error", "between_slices_fine"} & set(study.outcomes[0].metrics)
    assert {"psnr", "ssim_3d", "hfen", "between_slices", "shift"} <= set(study.outcomes[0].metrics)
    assert study.outcomes[0].spectrum is None
    assert "spectrum error; between slices, fine) is not measured" in in_words(study)


@pytest.mark.parametrize("codes", ["LPS", "SAR"])
def test_how_files_store_their_axes_changes_nothing(tmp_path, files, arrays, codes):
    """Both alike in another order, and the prediction alone, which is turned."""
    plain = compare_files([files["shifted"]], files["truth"], factor=(2.0,), **NOW).outcomes[0]
    truth, shifted = (save(tmp_path / f"{codes}_{n}_T1w.nii.gz", arrays[n], codes=codes) for n in ("truth", "shifted"))
    alike = compare_files([shifted], truth, factor=(2.0,), **NOW).outcomes[0]
    alone = compare_files([shifted], files["truth"], factor=(2.0,), **NOW).outcomes[0]
    assert alone.metrics == pytest.approx(plain.metrics, rel=1e-9)
    assert f"its axes are stored as {codes}; turned to RAS, no value changed" in alone.warnings
    shifts = [dict(o.metrics).pop("shift") for o in (plain, alike)]
    assert shifts[0] == pytest.approx(shifts[1], abs=2e-5)  # in float32
    others = [{m: v for m, v in o.metrics.items() if m != "shift"} for o in (plain, alike)]
    assert others[0] == pytest.approx(others[1], rel=1e-9)


def test_table_and_warnings(files):
    text = in_words(compare_files([files["sharp"], files["shifted"], files["truth"]], files["truth"], **NOW))
    rows = {line[:30].strip(): line.split()[-4:] for line in text.splitlines() if "  " in line}
    head = next(row for row in text.splitlines() if row.strip().startswith("better"))
    assert head.split() == ["better", "sharp_T1w", "shifted_T1w", "truth_T1w"]
    psnr = next(row for name, row in rows.items() if name.startswith("PSNR, dB"))
    assert psnr[0] == "higher"
    assert psnr[3] == "-", "infinite"
    assert float(psnr[1]) > float(psnr[2])
    assert "warning: shifted_T1w: misaligned by +0.5" in text
    assert "warning: truth_T1w: equal to the reference" in text
    assert "sharp_T1w:" not in text
    assert "not for diagnosis" in text


def test_files_of_one_name_are_told_apart(tmp_path, files, arrays):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(save(tmp_path / folder / "sr_T1w.nii.gz", arrays["sharp"]))
    assert [m.name for m in compare_files(paths, files["truth"], **NOW).methods] == ["a/sr_T1w", "b/sr_T1w"]
    with pytest.raises(ConfigError, match="given twice"):
        compare_files([paths[0], paths[0]], files["truth"], **NOW)


def test_ct_and_4d_files(tmp_path):
    truth = read(sample_path("trunk_ct_fine.nii.gz")).array[40:112, 30:86]
    stack = np.stack([truth + 500, truth + 3], axis=-1)
    nibabel.save(nibabel.Nifti1Image(stack, np.diag([2.0, 2, 2, 1])), tmp_path / "made_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(truth, np.diag([2.0, 2, 2, 1])), tmp_path / "truth.nii.gz")
    study = compare_files([tmp_path / "made_ct.nii.gz"], tmp_path / "truth.nii.gz", modality="ct", volume=1, **NOW)
    metrics = study.outcomes[0].metrics
    assert metrics["bias_soft"] == metrics["bias_foreground"] == metrics["mae"] == pytest.approx(3, abs=1e-3)
    assert "mean absolute error, HU" in in_words(study)
    with pytest.raises(InputError, match="--volume 0"):
        compare_files([tmp_path / "made_ct.nii.gz"], tmp_path / "truth.nii.gz", modality="ct", **NOW)


REFUSALS = [
    (["{blurred}", "--reference", "{coarse}"], 3, "blurred_T1w.nii.gz lies on another grid than the reference coarse"),
    (["{blurred}", "--reference", "{half}"], 3, "another grid"),
    (["{blurred}", "--reference", "missing.nii.gz"], 2, "does not exist"),
    (["--reference", "{truth}"], 2, "FILE"),
    (["{blurred}"], 2, "--reference"),
    (["{text}", "--reference", "{truth}"], 3, "text_T1w.nii.gz"),
    (["{cut}", "--reference", "{truth}"], 3, "truncated"),
    (["{constant}", "--reference", "{truth}"], 3, "constant"),
    (["{blurred}", "--reference", "{truth}", "--factor", "0.5"], 2, "each at least 1"),
    (["{blurred}", "--reference", "{truth}", "--factor", "1"], 2, "one above it"),
    (["{blurred}", "--reference", "{truth}", "--factor", "2x2"], 2, "neither a number nor three"),
    (["{blurred}", "--reference", "{truth}", "--factor", "nanx2x1"], 2, "each at least 1"),
    (["{blurred}", "--reference", "{truth}", "--factor", "2", "--coarse", "{coarse}"], 2, "one of them"),
    (["{blurred}", "--reference", "{truth}", "--coarse", "{truth}"], 3, "not coarser"),
    (["{blurred}", "--reference", "{truth}", "--coarse", "{turned}"], 3, "turned against"),
    (["{blurred}", "{blurred}", "--reference", "{truth}"], 2, "given twice"),
    (["{blurred}", "--reference", "{truth}", "-o", "{held}"], 4, "--overwrite"),
    (["{blurred}", "--reference", "{truth}", "-o", "{text}"], 7, "folder"),
]


@pytest.fixture
def odd(tmp_path, files, arrays) -> dict[str, Path]:
    held = tmp_path / "held"
    held.mkdir()
    (held / "metrics.json").write_text("precious")
    text, cut = tmp_path / "text_T1w.nii.gz", tmp_path / "cut_T1w.nii.gz"
    text.write_text("not an image")
    cut.write_bytes(files["blurred"].read_bytes()[:5000])
    half = AFFINE.copy()
    half[0, 3] = 0.5
    return {
        **files,
        "held": held,
        "text": text,
        "cut": cut,
        "half": save(tmp_path / "half_T1w.nii.gz", arrays["truth"], half),
        "constant": save(tmp_path / "constant_T1w.nii.gz", np.ones(SHAPE)),
        "turned": save(tmp_path / "turned_T1w.nii.gz", arrays["truth"][::2, ::2], np.diag([2.0, 2, 1.5, 1]), "SAR"),
    }


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSALS)
def test_refusals(run_cli, odd, tmp_path, arguments, code, message):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = run_cli("compare", *[a.format(**odd) for a in arguments], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("medsr: error: ")
    assert message in lines[0]
    assert len(lines) <= (2 if code == 2 else 1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_command(run_cli, files, tmp_path):
    names = [files[n].name for n in ("sharp", "blurred")]
    out = tmp_path / "new" / "study"
    arguments = ["compare", *names, "--reference", files["truth"], "--factor", "2", "-o", out]
    done = run_cli(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PSNR, dB" in done.stdout
    study = read_study(out)
    assert study.command == f"medsr compare {names[0]} {names[1]} --reference truth_T1w.nii.gz --factor 2 -o study"
    assert str(tmp_path) not in (out / "metrics.json").read_text()
    rows = (out / "metrics.csv").read_text().splitlines()
    assert rows[0] == "subject,volume,protocol,method,metric,value"
    assert len(rows) == 1 + sum(len(o.metrics) for o in study.outcomes)
    again = run_cli(*arguments, "--overwrite", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    printed = json.loads(again.stdout)
    assert printed["outcomes"] == json.loads((out / "metrics.json").read_text())["outcomes"]
    assert set(printed["outcomes"][0]["metrics"]) <= set(METRICS)


def test_the_command_in_python_returns_the_text(files):
    assert compare_command([files["sharp"]], files["truth"]).startswith("reference: truth_T1w.nii.gz, MR, 48x44x40 ")


def test_neither_torch_nor_monai(files, tmp_path, child_environment):
    arguments = ["compare", str(files["sharp"]), "--reference", str(files["truth"]), "--coarse", str(files["coarse"])]
    code = (
        "import sys\nfrom medsr.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as done: code = done.code\n"
        "print([m for m in ('torch', 'monai', 'skimage') if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=child_environment
    )
    assert done.stderr.strip() == "[] 0"
    assert "spectrum error" in done.stdout
