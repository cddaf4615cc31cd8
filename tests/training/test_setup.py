"""The training configuration, and which rows of an index may enter weights."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest

from medsr.errors import ConfigError
from medsr.training.setup import TrainingConfig, data_root, load_sources, sample_weights, training_rows

COLUMNS = ["file", "split", "weights_ok", "subject", "modality", "spacing", "native", "phantom", "dataset", "licence"]


def row(**fields) -> dict[str, str]:
    return {
        "file": "train/a.nii.gz",
        "split": "train",
        "weights_ok": "yes",
        "subject": "a",
        "modality": "MR",
        "spacing": "1.0x1.0x1.2",
        "native": "native/smooth/band-limited",
        "phantom": "no",
        "dataset": "d",
        "licence": "CC0",
    } | fields


def index(folder, *rows):
    with (folder / "INDEX.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def config(**fields) -> TrainingConfig:
    return TrainingConfig(**{"name": "t", "version": "0", "data": ".", "stages": ()} | fields)


def test_only_open_rows_of_the_training_split(tmp_path):
    index(
        tmp_path,
        row(file="a"),
        row(file="b", split="val"),
        row(file="c", split="test"),
        row(file="d", weights_ok="no"),
        row(file="e", weights_ok="no (NC licence)"),
    )
    assert [r["file"] for r in training_rows(tmp_path)] == ["a"]


def test_an_index_without_training_rows_is_refused(tmp_path):
    index(tmp_path, row(split="test"))
    with pytest.raises(ConfigError, match="no row with split = train"):
        training_rows(tmp_path)


def test_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSR_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="set MEDSR_DATA"):
        data_root()
    index(tmp_path, row())
    assert data_root() == tmp_path


def test_weights_are_shared_between_modalities_and_people():
    """MR and CT as configured; a subject of two volumes weighs less than two subjects; a phantom less than a person."""
    rows = [
        row(subject="a"),
        row(subject="b"),
        row(subject="b"),
        row(subject="c", modality="CT"),
        row(subject="p", modality="CT", phantom="yes"),
    ]
    a, b, again, c, p = sample_weights(rows, config(mr_share=0.7, phantom_weight=0.25))
    assert a + b + again == pytest.approx(0.7)
    assert c + p == pytest.approx(0.3)
    assert b == again < a < b + again
    assert p == pytest.approx(c / 4)


def test_volumes_come_in_normalised_with_what_the_index_says(tmp_path):
    rng = np.random.default_rng(0)
    body = np.zeros((20, 24, 16))
    body[4:16, 4:20, 3:13] = rng.uniform(300, 800, (12, 16, 10)).round()
    hounsfield = np.where(body > 0, body - 400, -1024)
    for name, array in (("mr", body), ("ct", hounsfield)):
        image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.0, 1.0, 1.2, 1.0]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    index(
        tmp_path,
        row(file="mr.nii.gz", subject="m"),
        row(file="ct.nii.gz", subject="c", modality="CT", spacing="1.0x2.5x1.2"),
    )
    mr, ct = load_sources(tmp_path, config())
    assert (mr.modality, ct.modality) == ("MR", "CT")
    assert mr.sharpness == ("native", "smooth", "band-limited")
    assert (mr.slice_axis, ct.slice_axis) == (2, 1)
    assert mr.spacing == (1.0, 1.0, 1.2)
    assert mr.array.dtype == np.float32
    assert mr.array.flags.c_contiguous
    assert mr.array.max() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(ct.array, (hounsfield + 1024) / 2000, atol=1e-5)
    assert mr.weight == pytest.approx(0.6)
    assert ct.weight == pytest.approx(0.4)


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match="Extra inputs"):
        config(learning_rate=1)
    with pytest.raises(ValueError, match="part"):
        config(stages=[{"part": "median", "minutes": 1}])
