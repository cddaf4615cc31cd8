"""``medsr report``: studies in, one page out, and nothing written where they do not fit."""

from __future__ import annotations

import os
import subprocess
import sys


def test_two_studies_on_one_page(run_cli, make, saved, tmp_path):
    volumes = tuple(make.volume(f"v{n}") for n in range(3))
    gains = {v.name: 1.0 for v in volumes}
    first = saved(make.study(gains, volumes), "first")
    second = saved(
        make.study(dict.fromkeys(gains, 2.0), volumes, version="2", created="2026-02-01T00:00:00Z"), "second"
    )
    done = run_cli("report", second, first, "-o", "both.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("both.html: On 3 volumes of 3 subjects under inplane-x2, MR, medsr (medsr-base 2) is")
    assert "Models side by side" in (tmp_path / "both.html").read_text()
    again = run_cli("report", first, "-o", "both.html", cwd=tmp_path)
    assert again.returncode == 4
    assert "--overwrite" in again.stderr
    assert run_cli("report", first, "-o", "both.html", "--overwrite", "-q", cwd=tmp_path).stdout == ""
    assert "Models side by side" not in (tmp_path / "both.html").read_text()


def test_what_does_not_fit_is_refused_in_one_line(run_cli, make, saved, tmp_path):
    volume = make.volume("v")
    first = saved(make.study({"v": 1.0}, (volume,)), "first")
    changed = volume.model_copy(update={"sha256": "f" * 64})
    second = saved(make.study({"v": 1.0}, (changed,), version="2"), "second")
    for folders in ((first, second), (first, first), (tmp_path,)):
        done = run_cli("report", *folders, "-o", "page.html", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("medsr: error: ")
    assert not (tmp_path / "page.html").exists()
    assert run_cli("report", cwd=tmp_path).returncode == 2
    assert run_cli("report", first, "-o", "no/such/folder.html", cwd=tmp_path).returncode == 7


def test_no_torch_for_a_report(make, saved, tmp_path, child_environment):
    folder = saved(make.study({"v": 1.0}, (make.volume("v"),)))
    code = (
        "import sys\nfrom medsr.cli import main\n"
        f"try: main(['report', {str(folder)!r}, '-o', 'page.html', '-q'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=child_environment | {"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
