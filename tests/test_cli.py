"""The command as a user meets it: in a process of its own, by what it prints, writes and returns."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import nibabel
import numpy as np
import pytest

import medsr
from medsr import cli, exits
from medsr.request import Request
from medsr.resources import config_path, sample_path

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def save(path: Path, shape=(24, 22, 10), affine=AFFINE, seed=0) -> Path:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[:3]], indexing="ij"), axis=-1)
    image = 500 * (np.square(grid / 0.8).sum(-1) < 1) + rng.normal(40, 5, shape[:3])
    if len(shape) == 4:
        image = np.stack([image * (1 + t) for t in range(shape[3])], axis=-1)
    nibabel.save(nibabel.Nifti1Image(np.clip(image, 0, None).astype(np.int16), affine), path)
    return path


@pytest.fixture
def scan(tmp_path):
    return save(tmp_path / "sub-01_T1w.nii.gz")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- refusals: one line, one code, nothing written


REFUSALS = [
    (["upscale", "missing.nii.gz"], 2, "does not exist"),
    (["upscale", "{scan}", "--scale", "two"], 2, "neither a number nor three"),
    (["upscale", "{scan}", "--scale", "2x2"], 2, "neither a number nor three"),
    (["upscale", "{scan}", "--texture", "2"], 2, "outside 0"),
    (["upscale", "{scan}", "--steps", "5"], 2, "--steps: only with --texture"),
    (["upscale", "{scan}", "--seed", "0", "--sampler", "euler"], 2, "--sampler, --seed: only with"),
    (["upscale", "{scan}", "--scale", "2", "--isotropic"], 2, "set the target grid"),
    (["upscale", "{scan}", "--profile", "bell"], 2, "profile"),
    (["upscale", "{scan}", "--frobnicate"], 2, "No such option"),
    (["upscale", "{text}"], 3, "medsr: error: "),
    (["upscale", "{four}"], 3, "--volume 0"),
    (["upscale", "{scan}", "--scale", "0.5"], 4, "coarser"),
    (["upscale", "{scan}", "--scale", "1"], 4, "nothing to upscale"),
    (["upscale", "{scan}", "--scale", "9"], 4, "largest factor allowed is 8"),
    (["upscale", "{labels}"], 4, "--modality"),
    (["upscale", "{scan}", "-o", "{scan}", "--overwrite"], 4, "input"),
    (["upscale", "{scan}", "-o", "{exists}"], 4, "--overwrite"),
    (["upscale", "{scan}", "--model", "{pickle}"], 5, "never unpickles"),
    (["upscale", "{scan}", "--model", "nonesuch"], 5, "no such model"),
]


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    files = {
        "scan": save(folder / "scan_T1w.nii.gz"),
        "four": save(folder / "four_bold.nii.gz", (24, 22, 10, 3)),
        "labels": save(folder / "scan_seg.nii.gz"),
        "text": folder / "text_T1w.nii.gz",
        "exists": folder / "exists.nii.gz",
        "pickle": folder / "model.pt",
    }
    files["text"].write_text("not an image")
    files["exists"].write_text("precious")
    files["pickle"].write_bytes(pickle.dumps({"weights": 1}))
    return files


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSALS, ids=[" ".join(r[0][1:]) for r in REFUSALS])
def test_refusals(run_cli, odd_files, tiny_model, arguments, code, message):
    folder = odd_files["scan"].parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    arguments = [a.format(**odd_files) for a in arguments]
    if "--model" not in arguments:
        arguments += ["--model", str(tiny_model)]
    done = run_cli(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("medsr: error: ")
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert len(lines) <= (2 if code == 2 else 1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def modules_after(arguments: list[str], cwd: Path) -> tuple[int, set[str]]:
    """Exit code of a command and the heavy packages in memory at its end."""
    code = (
        "import sys\nfrom medsr.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as e: code = e.code\n"
        "print([m for m in ('torch', 'monai', 'skimage', 'rich') if m in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)
    return done.returncode, set(json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"')))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["info", "{scan}"], 0),
        (["upscale", "{scan}", "--plan"], 0),
        (["model", "list"], 0),
        (["upscale", "missing"], 2),
        (["upscale", "{text}"], 3),
        (["upscale", "{scan}", "--scale", "0.5"], 4),
        (["upscale", "{scan}", "--model", "{pickle}"], 5),
    ],
)
def test_no_torch_before_it_is_needed(odd_files, tiny_model, arguments, code):
    arguments = [a.format(**odd_files) for a in arguments]
    if arguments[0] == "upscale" and "--model" not in arguments:
        arguments += ["--model", str(tiny_model)]
    assert modules_after(arguments, odd_files["scan"].parent) == (code, set())


# --- the main job


def test_upscale_then_the_hint(run_cli, scan, tiny_model):
    done = run_cli("upscale", scan, "--model", tiny_model)
    assert done.returncode == 0, done.stderr
    assert "48 x 44 x 10 voxels of 0.5 x 0.5 x 4 mm" in done.stdout
    assert "certificate: " in done.stdout
    assert names(scan.parent) == ["sub-01_T1w.nii.gz", "sub-01_T1w_sr.json", "sub-01_T1w_sr.nii.gz"]
    assert "load model" in done.stderr, "plain lines where there is no terminal"
    assert "\x1b" not in done.stderr
    hint = done.stderr.split("hint: ")[1].strip().split("too: ")[1]
    again = run_cli(*shlex.split(hint)[1:], "--model", tiny_model)
    assert again.returncode == 0, again.stderr
    assert nibabel.load(scan.with_name("sub-01_T1w_iso.nii.gz")).header.get_zooms() == pytest.approx((1, 1, 1))


def test_json_quiet_overwrite_and_odd_names(run_cli, tmp_path, tiny_model):
    folder = tmp_path / "Größe und\nZeile"
    folder.mkdir()
    scan = save(folder / "a b\nc_T1w.nii.gz")
    done = run_cli("upscale", scan, "--model", tiny_model, "--json", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    sidecar = json.loads(done.stdout)
    assert sidecar == json.loads((folder / "a b\nc_T1w_sr.json").read_text())
    assert sidecar["plan"]["input"] == "a b\nc_T1w.nii.gz"
    refused = run_cli("upscale", scan, "--model", tiny_model)
    assert refused.returncode == 4
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "\\n" in refused.stderr
    before = (folder / "a b\nc_T1w_sr.nii.gz").read_bytes()
    again = run_cli("upscale", scan, "--model", tiny_model, "--overwrite", "-q")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (folder / "a b\nc_T1w_sr.nii.gz").read_bytes() == before


def test_options_reach_the_request(run_cli, scan, tiny_model):
    options = "--spacing 0.8x0.8x2 --texture 0.4 --samples 2 --steps 7 --sampler dpmpp2m --seed 5 --uncertainty "
    options += (
        "--detail-map --report --profile sinc,sinc,gauss:0.8 --consistency soft --from-acquired off --modality mr "
    )
    options += "--volume 0 --prefer sform --device cpu --threads 1"
    done = run_cli("upscale", scan, "--model", tiny_model, "--plan", "--json", *options.split())
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)["request"]
    expected = {
        "spacing": [0.8, 0.8, 2.0], "texture": 0.4, "samples": 2, "steps": 7, "sampler": "dpmpp2m", "seed": 5,
        "uncertainty": True, "detail_map": True, "report": True,
        "profile": "sinc,sinc,gauss:0.8", "consistency": "soft",
        "from_acquired": "off", "modality": "mr", "volume": 0, "prefer": "sform", "device": "cpu", "threads": 1,
        "scale": None, "isotropic": False, "assume_spacing": None, "model": tiny_model.name,
        "series": None, "deskew": False, "fill_gaps": False, "dicom_template": None, "series_description": None,
        "series_number": None, "keep_private": "none", "burn_in": False,
    }  # fmt: skip
    assert asked == expected
    assert names(scan.parent) == [scan.name], "a plan writes nothing"


def test_plan_reads_no_voxels(run_cli, tmp_path, tiny_model):
    """A file cut in its middle still has a plan; it is refused when it is read."""
    whole = save(tmp_path / "whole_T1w.nii.gz", (96, 96, 40)).read_bytes()
    cut = tmp_path / "cut_T1w.nii.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    done = run_cli("upscale", cut, "--model", tiny_model, "--plan")
    assert done.returncode == 0, done.stderr
    assert "pass 1" in done.stdout
    assert "--isotropic" in done.stdout
    refused = run_cli("upscale", cut, "--model", tiny_model)
    assert refused.returncode == 3
    assert "truncated" in refused.stderr
    assert names(tmp_path) == ["cut_T1w.nii.gz", "whole_T1w.nii.gz"]


def test_absent_device(run_cli, scan, tiny_model):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    done = run_cli("upscale", scan, "--model", tiny_model, "--device", "cuda")
    assert done.returncode == 6
    assert "cuda" in done.stderr
    assert names(scan.parent) == [scan.name]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(tmp_path, tiny_model, number, code):
    scan = save(tmp_path / "big_T1w.nii.gz", (160, 160, 60))
    command = [sys.executable, "-m", "medsr", "upscale", str(scan), "--model", str(tiny_model)]
    command += ["--texture", "1", "--steps", "100", "--scale", "4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "load model" in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    deaf = threading.Timer(60, process.kill)  # a run that goes on must fail the test, not hang it
    deaf.start()
    rest = process.stderr.read()
    deaf.cancel()
    assert process.wait(timeout=60) == code, rest
    assert rest.strip().splitlines()[-1].startswith("medsr: error: ")
    assert "Traceback" not in rest
    assert names(tmp_path) == [scan.name]


# --- the other commands


def test_info(run_cli, odd_files):
    done = run_cli("info", odd_files["scan"])
    assert done.returncode == 0
    facts = dict(line.split(None, 1) for line in done.stdout.strip().splitlines())
    assert facts["shape"] == "24 x 22 x 10"
    assert facts["spacing_mm"] == "1.0 x 1.0 x 4.0"
    assert facts["modality"] == "MR"
    assert facts["slice_axis"] == "k"
    both = run_cli("info", odd_files["text"], odd_files["four"], "--json")
    assert both.returncode == 3
    first, second = json.loads(both.stdout)
    assert "error" in first
    assert second["volumes"] == 3


def test_info_measures_voxels_only_when_asked(run_cli, tmp_path):
    scan = save(tmp_path / "x_T1w.nii.gz", (70, 66, 10))
    assert "acquired_by_spectrum" not in run_cli("info", scan, "--json").stdout
    facts = json.loads(run_cli("info", scan, "--json", "--voxels").stdout)[0]
    assert facts["acquired_by_spectrum"] == [None, None, None]


def test_model(run_cli, tiny_model):
    card = json.loads(run_cli("model", "info", tiny_model).stdout)
    assert card["name"] == "tiny"
    assert card["intended_use"].startswith("Research use only")
    assert run_cli("model", "list").returncode == 0
    assert run_cli("model", "info", "nonesuch").returncode == 5


def test_degrade(run_cli, tmp_path, scan):
    done = run_cli("degrade", scan, "--protocol", "slice-x2", "-o", tmp_path / "thick.nii.gz")
    assert done.returncode == 0, done.stderr
    assert nibabel.load(tmp_path / "thick.nii.gz").shape == (24, 22, 5)
    unknown = run_cli("degrade", scan, "--protocol", "slice-x99", "-o", tmp_path / "t.nii.gz")
    assert unknown.returncode == 2
    assert "slice-x2" in unknown.stderr


def test_demo(run_cli, tmp_path, tiny_model):
    done = run_cli("demo", "--model", tiny_model, "-o", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    rows = {line[:14].strip(): line[14:].split() for line in done.stdout.splitlines()[2:-1]}
    assert list(rows) == ["cubic", "linear MMSE", "medsr"]
    assert 15 < float(rows["cubic"][0]) < float(rows["linear MMSE"][0]) < 50
    assert names(tmp_path / "out") == ["head.png", "head_sr.json", "head_sr.nii.gz"]
    fine, written = nibabel.load(sample_path("head_fine.nii.gz")), nibabel.load(tmp_path / "out" / "head_sr.nii.gz")
    assert written.shape == fine.shape
    np.testing.assert_allclose(written.affine, fine.affine, atol=1e-4)


def test_demo_real_names_its_extra(run_cli, tmp_path, tiny_model):
    try:
        import nilearn  # noqa: F401
    except ImportError:
        done = run_cli("demo", "--real", "--model", tiny_model, "-o", tmp_path)
        assert done.returncode == 4
        assert "pip install 'medsr[demo]'" in done.stderr
    else:
        done = run_cli("demo", "--real", "--model", tiny_model, "-o", tmp_path, "-q")
        assert done.returncode == 0, done.stderr
        assert "mni152.png" in names(tmp_path)


def test_demo_with_a_dicom_slice_of_pydicom(run_cli, tmp_path, tiny_model):
    done = run_cli("demo", "--real", "ct", "--model", tiny_model, "-o", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    assert "64 x 64 x 1 to 128 x 128 x 1" in done.stdout
    assert names(tmp_path / "out") == [
        "ct_small.png",
        "ct_small_coarse.nii.gz",
        "ct_small_sr.json",
        "ct_small_sr.nii.gz",
    ]


def test_train(run_cli, data_dir, tmp_path):
    environment = {"MEDSR_DATA": str(data_dir)}
    done = run_cli("train", config_path("base.yaml"), "--dry-run", "--set", "seed=3", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "volumes of" in done.stdout
    assert names(tmp_path) == [], "a dry run writes nothing"
    refused = run_cli("train", config_path("base.yaml"), "--dry-run", "--set", "sede=3", env=environment)
    assert refused.returncode == 2
    assert "sede" in refused.stderr


# --- faults of ours


def test_a_bug_says_what_to_report(monkeypatch, capsys, scan, tiny_model):
    def broken(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("medsr.run.upscale_file", broken)
    assert exits.outcome(cli.cli, ["upscale", str(scan), "--model", str(tiny_model)]) == 1
    quiet = capsys.readouterr().err
    assert "unexpected RuntimeError: two lines" in quiet
    assert "medsr --version" in quiet
    assert "Traceback" not in quiet
    for verbose in ("-v", "-qv", "--verbose"):
        assert exits.outcome(cli.cli, ["upscale", str(scan), "--model", str(tiny_model), verbose]) == 1
        assert "Traceback" in capsys.readouterr().err


def every_command(group: click.Group, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


def test_everything_has_help():
    for path, command in every_command(cli.cli):
        assert command.help, path
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (path, parameter.name)


def test_command_request_and_function_have_the_same_defaults():
    """What nobody asks for is the same on the command line and in Python."""
    request = {f.name: f.default for f in dataclasses.fields(Request)}
    group = click.Context(cli.cli, **cli.cli.context_settings)  # a command keeps the help option of its first context
    command = cli.cli.commands["upscale"].make_context("upscale", [__file__], parent=group).params
    function = {n: p.default for n, p in inspect.signature(medsr.upscale).parameters.items()}
    for name, default in request.items():
        if name not in ("target", "volume"):  # a function's volume is the scan itself
            assert command[name] == default, name
            assert function.get(name, default) == default, name
