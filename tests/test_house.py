"""Laws of the house: what is imported when, what the package holds, and that the documentation is complete."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest

from medsr import resources
from tests.image.dicom_phantom import Phantom, save

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = sorted((ROOT / "docs").glob("*.md"))

# Runs commands one after another in one process, and reports their exit statuses and the packages imported by then.
_SPY = """
import json, os, sys
from medsr.cli import main
statuses = []
try:
    for args in json.loads(os.environ["COMMANDS"]):
        try:
            main(args)
        except SystemExit as end:
            statuses.append(end.code)
finally:
    with open(os.environ["SPY"], "w") as stream:
        json.dump([statuses, sorted({name.partition(".")[0] for name in sys.modules})], stream)
"""
HEAVY = {"torch", "monai", "skimage"}  # nibabel itself imports pydicom


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A small, valid scan with an oblique affine."""
    affine = np.array([[0.9, 0.1, 0, -20], [-0.1, 0.9, 0, -20], [0, 0, 4.0, -10], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(300, 50, (24, 24, 9)).astype(np.float32), affine)
    image.set_sform(affine, 1)
    image.header["qform_code"] = 0
    path = tmp_path / "sub-01_T1w.nii.gz"
    nibabel.save(image, path)
    return path


def _run_and_spy(tmp_path: Path, *commands: tuple[str | Path, ...]) -> tuple[list[int], set[str], str]:
    report = tmp_path / "spy.json"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SPY": str(report),
        "COMMANDS": json.dumps([[str(arg) for arg in command] for command in commands]),
    }
    done = subprocess.run(
        [sys.executable, "-c", _SPY],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    statuses, modules = json.loads(report.read_text())
    report.unlink()
    return statuses, set(modules), done.stdout + done.stderr


def _folder(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    named = ("upscale", "degrade", "compare", "report", "evaluate", "train")
    commands = [("--help",), ("--version",), *((name, "--help") for name in named)]
    statuses, modules, output = _run_and_spy(tmp_path, *commands)
    assert statuses == [0] * len(commands), output
    assert not modules & (HEAVY | {"nibabel", "numpy", "scipy", "pydicom", "pydantic", "rich"})


def test_info_and_plan_import_no_torch(tmp_path: Path, scan: Path, tiny_model: Path) -> None:
    series = save(tmp_path.parent / f"{tmp_path.name}_dicom", Phantom().classic())
    before = _folder(tmp_path)
    commands = [
        ("model", "list"),
        ("model", "info", tiny_model),
        ("info", scan),
        ("info", scan, "--json"),
        ("upscale", scan, "--plan", "--model", tiny_model),
        ("upscale", scan, "--plan", "--json", "--isotropic", "--model", tiny_model),
        ("info", series),
        ("upscale", series, "--plan", "--model", tiny_model),
    ]
    statuses, modules, output = _run_and_spy(tmp_path, *commands)
    assert statuses == [0] * len(commands), output
    assert not modules & HEAVY
    assert _folder(tmp_path) == before, "--plan wrote something"


def _not_an_image(scan: Path) -> Path:
    path = scan.with_name("text.nii")
    path.write_text("not an image")
    return path


def _short_header(scan: Path) -> Path:
    path = scan.with_name("short.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(scan.read_bytes())[:200]))
    return path


def _four_dimensional(scan: Path) -> Path:
    path = scan.with_name("bold.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8, 3), np.float32), np.diag([2.0, 2, 2, 1])), path)
    return path


def _truncated_voxels(scan: Path) -> Path:
    path = scan.with_name("cut.nii.gz")
    path.write_bytes(scan.read_bytes()[:-2000])
    return path


def _label_map(scan: Path) -> Path:
    image = nibabel.Nifti1Image(np.tile(np.arange(4, dtype=np.uint8), (12, 12, 3)), np.eye(4))
    image.header.set_intent("label")
    path = scan.with_name("labels.nii.gz")
    nibabel.save(image, path)
    return path


def test_every_refusal_before_the_model_imports_no_torch(tmp_path: Path, scan: Path, tiny_model: Path) -> None:
    """One refusal of each gate: its exit status, one line, nothing heavy imported, nothing written or changed."""
    existing = scan.with_name("existing.nii.gz")
    existing.write_bytes(b"precious")
    refusals: list[tuple[int, tuple[str | Path, ...]]] = [
        (2, ("upscale", "no-such-scan.nii.gz")),
        (2, ("upscale", scan, "--no-such-option")),
        (2, ("upscale", scan, "--scale", "2", "--spacing", "1")),
        (2, ("upscale", scan, "--profile", "triangle:1")),
        (2, ("upscale", scan, "--seed", "3")),
        (3, ("upscale", _not_an_image(scan))),
        (3, ("upscale", _short_header(scan))),
        (3, ("upscale", _four_dimensional(scan))),
        (3, ("upscale", _truncated_voxels(scan))),
        (4, ("upscale", _label_map(scan))),
        (4, ("upscale", scan, "--scale", "0.5")),
        (4, ("upscale", scan, "--scale", "20")),
        (4, ("upscale", scan, "-o", existing)),
        (5, ("upscale", scan, "--model", "no-such-model")),
    ]
    before = _folder(tmp_path)
    # The last --model wins, so that the refusal of a model stays one.
    commands = [(command[0], "--model", tiny_model, *command[1:]) for _, command in refusals]
    statuses, modules, output = _run_and_spy(tmp_path, *commands)
    assert statuses == [status for status, _ in refusals], output
    assert not modules & HEAVY
    assert _folder(tmp_path) == before
    lines = [line for line in output.splitlines() if line.startswith("medsr: error: ")]
    assert len(lines) == len(refusals)
    assert "Traceback" not in output


def test_import_medsr_is_cheap() -> None:
    code = "import medsr, sys; dir(medsr); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY | {"numpy", "scipy", "nibabel", "click"})


def test_public_names_resolve() -> None:
    import medsr

    for name in medsr.__all__:
        assert getattr(medsr, name).__module__.startswith("medsr.")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = medsr.no_such_name


def test_version_is_one() -> None:
    import medsr

    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert medsr.__version__ == PYPROJECT["project"]["version"] == citation[1]


def test_every_package_is_in_the_wheel() -> None:
    """The list of packages is written out, because configs/ and sample_data/ are outside medsr/."""
    found = {"medsr"} | {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "medsr").rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found | {"medsr.configs", "medsr.sample_data"}


def test_resources_of_the_checkout() -> None:
    assert resources.config_path("protocols.yaml") == ROOT / "configs" / "protocols.yaml"
    with pytest.raises(FileNotFoundError, match=r"no configs/no-such\.yaml; there are: .*protocols\.yaml"):
        resources.config_path("no-such.yaml")
    assert list(resources.sample_path(".").glob("*.nii.gz")), "no sample scan"


def test_resources_of_an_installed_package(tmp_path: Path) -> None:
    """An installed package has the folders inside and takes them from there."""
    package = tmp_path / "medsr"
    for name in ("configs", "sample_data"):
        (package / name).mkdir(parents=True)
    (package / "configs" / "protocols.yaml").write_text("a: 1")
    (package / "sample_data" / "README.md").write_text("scans")
    (package / "resources.py").write_bytes((ROOT / "medsr" / "resources.py").read_bytes())
    installed = _load(package / "resources.py", "installed_resources")
    assert installed.config_path("protocols.yaml") == package / "configs" / "protocols.yaml"
    assert installed.sample_path("README.md") == package / "sample_data" / "README.md"


def test_every_command_and_option_is_documented() -> None:
    """docs/reference.md is what the command line says of itself, and nothing in it is without a help text."""
    from medsr.cli import cli

    make_reference = _load(ROOT / "docs" / "make_reference.py", "make_reference")
    assert (ROOT / "docs" / "reference.md").read_text() == make_reference.reference(cli)
    for path, command in make_reference.walk(cli, ("medsr",)):
        assert command.help, f"{' '.join(path)} says nothing of itself"
        silent = [p.name for p in command.params if p.param_type_name == "option" and not p.help]
        assert not silent, f"{' '.join(path)}: no help text for {silent}"


def test_documentation_names_only_options_that_exist() -> None:
    """Each command line in a shell block of README and docs/ is one that the command line would accept."""
    from medsr.cli import cli

    make_reference = _load(ROOT / "docs" / "make_reference.py", "make_reference")
    options = {
        " ".join(path): {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
        for path, command in make_reference.walk(cli, ("medsr",))
    }
    for page in [*PAGES, ROOT / "README.md"]:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                words = [w for w in line.partition("#")[0].split() if not re.match(r"[A-Z_]+=", w)]
                if words[:1] != ["medsr"]:
                    continue
                named = next((c for c in (" ".join(words[:3]), " ".join(words[:2])) if c in options), None)
                assert named is not None, f"{page.name}: {line}"
                unknown = {w for w in words if w.startswith("-")} - options[named]
                assert not unknown, f"{page.name}: {line}: {unknown}"


@pytest.mark.parametrize("page", ["README.md", "docs/howto.md"])
def test_python_examples_run(tmp_path: Path, scan: Path, page: str) -> None:
    """The Python blocks of a page, run as they stand beside a scan of the name that they use."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE))
    scan.rename(tmp_path / "scan.nii.gz")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert nibabel.load(tmp_path / "scan_sr.nii.gz").shape == (48, 48, 9)


def test_medical_honesty() -> None:
    """README and the pages that show outputs say what the output is not."""
    for page in (
        ROOT / "README.md",
        *(ROOT / "docs" / f"{n}.md" for n in ("index", "quickstart", "howto", "hospital")),
    ):
        text = page.read_text()
        assert re.search(r"research use only, not for diagnosis", text, re.IGNORECASE), page.name
        assert "AI SR, not acquired" in text, page.name


def test_links_between_files_hold() -> None:
    for page in [*PAGES, *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_offline_check_finds_remote_loads(tmp_path: Path) -> None:
    """The guard of the built pages sees each way to load from another host, and lets links be links."""
    check = _load(ROOT / "docs" / "check_offline.py", "check_offline")
    (tmp_path / "index.html").write_text(
        '<a href="https://example.org">x</a><img src="a.png"><svg xmlns="http://www.w3.org/2000/svg">'
    )
    assert check.remote_loads(tmp_path) == []
    loads = [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<link rel="preconnect" href="https://example.org">',
        '<img srcset="https://example.org/a.png 2x">',
        "<style>@import 'https://example.org/a.css';</style>",
        '<p style="background: url(https://example.org/a.png)">',
        '<pre class="mermaid"></pre>',
    ]
    for load in loads:
        (tmp_path / "index.html").write_text(load)
        assert check.remote_loads(tmp_path), load


def test_constraints_pin_what_the_extras_need() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    extras = PYPROJECT["project"]["optional-dependencies"]
    needed = [*PYPROJECT["project"]["dependencies"], *extras["dev"], *extras["docs"]]
    missing = {re.sub(r"[-_.]+", "-", re.split(r"[><=\[ ]", n)[0]).lower() for n in needed} - pins.keys()
    assert not missing
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values()), "a pin carries a local label"


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
