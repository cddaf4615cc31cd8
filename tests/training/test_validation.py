"""Checkpoints scored on scans that training has not seen."""

from __future__ import annotations

import csv
from statistics import fmean

import nibabel
import numpy as np
import pytest
import torch

from medsr.card import NetworkSpec
from medsr.degradation import interpolate
from medsr.diffusion.conditions import REGRESSORS
from medsr.errors import ConfigError
from medsr.evaluation import metrics
from medsr.training.networks import new_networks
from medsr.training.setup import Stage, TrainingConfig, Validation, validation_rows
from medsr.training.state import State
from medsr.training.validation import Score, cases_of, psnr, read_scores, table, validate
from medsr.training.weights import write_weights

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
VALIDATION = Validation(protocols=("inplane-x2", "slice-x2", "inplane-x2-kspace"), in_plane=48, slices=32)
CONFIG = TrainingConfig(
    name="tiny", version="0", data=".", stages=(Stage(part="mean", steps=1),), network=TINY, validation=VALIDATION
)


@pytest.fixture(scope="module")
def root(tmp_path_factory, sources):
    """A folder with one MR and one CT volume of the split val."""
    folder = tmp_path_factory.mktemp("data")
    rows = [["file", "subject", "split", "modality", "native"]]
    for source in sources:
        array = source.array * 800 if source.modality == "MR" else source.array * 2000 - 1024
        image = nibabel.Nifti1Image(np.round(array).astype(np.int16), np.diag([*source.spacing, 1.0]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / f"{source.subject}.nii.gz")
        rows.append([f"{source.subject}.nii.gz", source.subject, "val", source.modality, "native/native/native"])
    with (folder / "INDEX.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def checkpoint(out, name: str, *, bias: float = 0.0) -> None:
    """Networks whose mean adds ``bias`` times the expected residual everywhere."""
    networks = new_networks(TINY, 1)
    with torch.no_grad():
        networks.mean.leave.bias.fill_(bias)
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    state = State(
        1, 0, 0.0, {"mean": networks.mean.state_dict()}, [], None, (-1.0,) + (0.0,) * (REGRESSORS - 1), {}, {}
    )
    write_weights(folder / f"{name}.safetensors", CONFIG, state, networks, [])


def test_each_checkpoint_is_scored_once(tmp_path, root):
    lines: list[str] = []
    checkpoint(tmp_path, "1-mean-000010")
    first = validate(CONFIG, root, tmp_path, lines.append)
    # k-space is for MR alone
    assert [(s.modality, s.protocol) for s in first] == [
        ("MR", "inplane-x2"),
        ("MR", "slice-x2"),
        ("MR", "inplane-x2-kspace"),
        ("CT", "inplane-x2"),
        ("CT", "slice-x2"),
    ]
    assert read_scores(tmp_path / "validation.csv") == [
        Score(**vars(s) | {k: round(getattr(s, k), 4) for k in ("psnr", "cubic", "linear")}) for s in first
    ]
    checkpoint(tmp_path, "1-mean-000020", bias=1.0)
    lines.clear()
    second = validate(CONFIG, root, tmp_path, lines.append)
    assert sum("cases" in line for line in lines) == 1
    assert [s.checkpoint for s in second] == ["1-mean-000010"] * 5 + ["1-mean-000020"] * 5
    lines.clear()
    assert validate(CONFIG, root, tmp_path, lines.append) == read_scores(tmp_path / "validation.csv")
    assert len(lines) == 1
    assert "1-mean-000010" in lines[0]
    assert "1-mean-000020" in lines[0]
    assert not [p for p in tmp_path.iterdir() if p.name not in ("checkpoints", "validation.csv")]


def test_a_network_that_adds_nothing_is_the_linear_estimate_made_consistent(tmp_path, root):
    """Where the scan is without noise the two can hardly differ; a bias is seen."""
    checkpoint(tmp_path, "1-mean-000010")
    checkpoint(tmp_path, "1-mean-000020", bias=2.0)
    scores = validate(CONFIG, root, tmp_path, print)
    good, bad = ([s for s in scores if s.checkpoint == f"1-mean-0000{n}"] for n in (10, 20))
    for one, worse in zip(good, bad, strict=True):
        assert one.psnr == pytest.approx(one.linear, abs=0.5)
        assert (one.cubic, one.linear) == pytest.approx((worse.cubic, worse.linear), abs=1e-3)
    assert fmean(s.psnr for s in bad) < fmean(s.psnr for s in good) - 0.5


def test_psnr_is_that_of_the_evaluation_protocol(root):
    """Against the float64 metric, range and foreground of medsr.evaluation, on whole scans."""
    whole = Validation(protocols=("inplane-x2",), in_plane=1000, slices=1000)
    for row in validation_rows(root):
        (case,) = cases_of(row, root, whole)
        scan, reference = case.crop.scan, case.crop.reference
        image = interpolate(torch.from_numpy(scan.array), scan.geometry, reference.geometry, "cubic").numpy()
        expected = metrics.score(reference.array, image, reference.modality, case.crop.header.slice_axis).psnr
        assert psnr(case, image) == pytest.approx(expected, abs=1e-6)


def test_the_table_has_a_line_for_each_checkpoint_and_the_gains_of_its_cases():
    scores = [
        Score("1-mean-2", "b", "x.nii", "MR", "inplane-x2", 32.0, 30.0, 31.0),
        Score("1-mean-1", "a", "x.nii", "MR", "inplane-x2", 30.0, 29.0, 29.5),
        Score("1-mean-1", "a", "y.nii", "MR", "slice-x4", 26.0, 25.0, 24.5),
    ]
    _, head, first, second = table(scores).splitlines()
    assert head.split()[0] == "checkpoint"
    assert first.split() == ["1-mean-1", "28.00", "+1.00", "+1.00", "+0.50", "+1.50"]
    assert second.split() == ["1-mean-2", "32.00", "+2.00", "+1.00", "+1.00", "-"]


def test_a_split_without_a_fitting_scan_is_named(tmp_path, root):
    checkpoint(tmp_path, "1-mean-000010")
    narrow = CONFIG.model_copy(update={"validation": Validation(protocols=("slice-x4",), slices=16)})
    with pytest.raises(ConfigError, match="no scan of the split val fits"):
        validate(narrow, root, tmp_path, print)
