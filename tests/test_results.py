"""The published tables are those of the committed figures, and small enough to be committed."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from medsr.evaluation.record import Study, read_study

ROOT = Path(__file__).resolve().parent.parent
FIGURES = sorted((ROOT / "docs" / "results").glob("*/metrics.json"))


@pytest.fixture(scope="module")
def results() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_results", ROOT / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_pages_and_readme_are_what_the_figures_make(results):
    pages = results.rendered()
    assert {ROOT / "docs" / "results" / f"{p.parent.name}.md" for p in FIGURES} | {ROOT / "README.md"} == set(pages)
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: benchmarks/results.py --render"


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.parent.name)
def test_committed_figures_are_small_and_name_no_place(path):
    assert path.stat().st_size < 400_000
    assert read_study(path).split == path.parent.name
    assert not re.search(r'"/[a-z]|\.\./', path.read_text())


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.parent.name)
def test_the_table_has_the_means_of_its_volumes(results, path):
    """Recomputed from the figures by hand: a subject's volumes first, then subjects."""
    study = read_study(path)
    people = {v.name: v for v in study.volumes if not v.phantom}
    classical = {m.name for m in study.methods if m.kind == "classical"}
    rows = [r for r in results.summary_table(study).splitlines() if r.startswith(("| inplane", "| slice", "| blind"))]
    for row in rows:
        protocol, modality, subjects, _, _, gain, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        by_subject: dict[str, list[float]] = {}
        for volume in (v for v in people.values() if v.modality == modality):
            psnr = {o.method: o.metrics["psnr"] for o in study.outcomes
                    if (o.volume, o.protocol) == (volume.name, protocol)}  # fmt: skip
            if "medsr" in psnr:
                best = max(v for k, v in psnr.items() if k in classical)
                by_subject.setdefault(volume.subject, []).append(psnr["medsr"] - best)
        means = [sum(g) / len(g) for g in by_subject.values()]
        assert len(means) == int(subjects)
        assert float(gain.split()[0]) == pytest.approx(sum(means) / len(means), abs=0.0051)


def test_what_is_kept_of_a_study(results):
    """All figures to seven digits, no curves."""
    study = read_study(FIGURES[0])
    curve = {"frequency": [0.3], "decibels": [-1.0]}
    content = study.model_dump(mode="json")
    content["outcomes"][0] |= {"spectrum": curve, "metrics": {"psnr": 31.23456789123}}
    kept = results.slimmed(Study.model_validate(content)).outcomes[0]
    assert kept.metrics == {"psnr": 31.23457}
    assert kept.spectrum is None
