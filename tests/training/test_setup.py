"""The training configuration, and which rows of an index may enter weights."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from medsr.errors import ConfigError
from medsr.image.acquired import crop_rows, measured_sharpness
from medsr.training.data import make_batch
from medsr.training.setup import (
    TrainingConfig,
    data_root,
    load_sources,
    sample_weights,
    training_rows,
    validation_rows,
)

NATIVE = ("native", "native", "native")


def row(**fields) -> dict[str, str]:
    """A row as ``training_rows`` gives it."""
    described = {"person": "", "phantom": "no", "dataset": "", "licence": "", "weights_ok": "yes"}
    known = {"file": "a.nii", "subject": "a", "split": "train", "modality": "MR", "native": "native/native/native"}
    return described | known | fields


def scan(folder: Path, name: str, *, shape=(24, 20, 6), ct=False, spacing=(1.0, 1.0, 3.0), array=None) -> str:
    """Write a small scan; returns its name."""
    rng = np.random.default_rng(0)
    if array is None:
        body = np.zeros(shape)
        body[tuple(slice(n // 5, n - n // 5) for n in shape)] = 1
        array = body * rng.uniform(300, 800, shape)
        array = np.where(body > 0, array - 450, -1000 + 20 * rng.normal(size=shape)) if ct else array
    image = nibabel.Nifti1Image(array.round().astype(np.int16), np.diag([*spacing, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / name)
    return name


def index(folder: Path, *rows: dict[str, str]) -> Path:
    with (folder / "INDEX.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_index(folder: Path, text: str) -> Path:
    (folder / "INDEX.csv").write_text(text, encoding="utf-8")
    return folder


def config(**fields) -> TrainingConfig:
    return TrainingConfig(**{"name": "t", "version": "0", "data": ".", "stages": ()} | fields)


# --- which rows ----------------------------------------------------------------------------------------------------


def test_only_open_rows_of_the_training_split(tmp_path):
    rows = [
        row(file=scan(tmp_path, "a.nii")),
        row(file=scan(tmp_path, "b.nii"), subject="b", split="val", weights_ok="no"),
        row(file="c.nii", subject="c", split="test"),
        row(file="d.nii", weights_ok="no"),
        row(file="e.nii", weights_ok="no (NC licence)"),
        row(file="f.nii", weights_ok=""),
    ]
    index(tmp_path, *rows)
    assert training_rows(tmp_path) == rows[:1]
    assert validation_rows(tmp_path) == rows[1:2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_index_without_rows_of_the_split_is_refused(tmp_path, split):
    index(tmp_path, row(split="test"))
    with pytest.raises(ConfigError, match=f"no row with split = {split}"):
        (training_rows if split == "train" else validation_rows)(tmp_path)


def test_the_folder_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSR_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(ConfigError, match="set MEDSR_DATA"):
        training_rows(data_root())


def test_three_columns_are_enough(tmp_path):
    """As a spreadsheet may write it: a byte-order mark, blanks after commas, empty rows. The files say the rest."""
    mr, ct, other = (scan(tmp_path, f"{n}.nii", ct=n == "ct") for n in ("mr", "ct", "other"))
    write_index(tmp_path, f"\ufefffile, subject, split\n{mr}, a, train\n{ct}, b, train\n,,\n\n{other}, c, val\n")
    first, second = training_rows(tmp_path)
    assert first == row(file=mr, subject="a")
    assert second == row(file=ct, subject="b", modality="CT")
    assert [r["file"] for r in validation_rows(tmp_path)] == [other]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column file, subject, split"),
        ("file,split\na.nii,train\n", "no column subject"),
        ("file;subject;split\na.nii;a;train\n", "commas between"),
        ("file,subject,split\na.nii,a,training\n", "split 'training' of a.nii; write train, val or test"),
        ("file,subject,split\na.nii,,train\n", "lacks its file or its subject"),
        ("file,subject,split\na.nii,a,train\na.nii,a,train\n", "lists a.nii twice"),
        (
            "file,subject,split\na.nii,a,train\nb.nii,a,test\n",
            "'a' is in train and in test; put all scans of one person",
        ),
        ("file,subject,split,person\na.nii,a,train,p\nb.nii,b,val,p\n", "person 'p' is in train and in val"),
        ("file,subject,split\nnone.nii,a,train\n", "none.nii, which is not in .*; correct the path"),
        ("file,subject,split,note\na.nii,a,train,thin, but good\n", "row 1: 5 cells under 4 columns"),
        ("file,subject,split\na.nii,a\n", "row 1: 2 cells under 3 columns"),
        ("file,subject,split,modality\na.nii,a,train,MRI\n", "modality 'MRI' of a.nii; write MR or CT"),
        ("file,subject,split,native\na.nii,a,train,native/native\n", "native 'native/native' of a.nii"),
        ("file,subject,split,native\na.nii,a,train,native/sharp/native\n", "smooth or band-limited for each axis"),
    ],
)
def test_a_damaged_index_ends_in_one_line_that_says_what_to_do(tmp_path, text, message):
    scan(tmp_path, "a.nii")
    write_index(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        training_rows(tmp_path)
    assert "\n" not in str(error.value)


def test_an_index_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "INDEX.csv").write_bytes(b"file,subject,split\n\xff\xfe,a,train\n")
    with pytest.raises(ConfigError, match="save it as such"):
        training_rows(tmp_path)


def test_files_that_cannot_be_trained_on(tmp_path):
    labels = np.zeros((40, 40, 8))
    labels[10:30, 10:30] = 3
    strips = np.repeat(np.arange(40) % 4, 320).reshape(40, 40, 8) * 300.0 - 700
    for name, array, message in (
        ("labels.nii", labels, "is a label map .*; write MR or CT into its column modality"),
        ("sub-1_seg.nii", None, "is a label map"),
        ("strips.nii", strips + np.arange(8), "of unknown modality"),
        ("narrow.nii", np.arange(12 * 40 * 30.0).reshape(12, 40, 30), "12 x 40 x 30 voxels; training needs 16"),
        ("series.nii", np.arange(24 * 24 * 6 * 2.0).reshape(24, 24, 6, 2), "2 volumes; training takes 3-D files"),
    ):
        index(tmp_path, {"file": scan(tmp_path, name, array=array), "subject": "a", "split": "train"})
        with pytest.raises(ConfigError, match=message):
            training_rows(tmp_path)


# --- how much each counts ------------------------------------------------------------------------------------------


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


def test_several_names_of_one_person():
    """By the column, or by names that begin alike."""
    known = sample_weights([row(subject="x"), row(subject="y-1"), row(subject="y-1")], config())
    column = sample_weights([row(), row(subject="y-1", person="y"), row(subject="z", person="y")], config())
    alike = sample_weights([row(), row(subject="LAB-b (T2w)"), row(subject="LAB-c")], config(same_person=["LAB"]))
    assert known == column == alike
    assert known[1] < known[0]


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("mr_share", [0.0, 0.6, 1.0])
def test_one_modality_alone_gets_all(modality, mr_share):
    weights = sample_weights([row(modality=modality), row(subject="b", modality=modality)], config(mr_share=mr_share))
    assert weights == pytest.approx([0.5, 0.5])


# --- what a file shows ---------------------------------------------------------------------------------------------


def test_zero_filling_is_measured(tmp_path):
    """White noise in tissue has all frequencies; of an axis that was cropped in k-space and zero-filled it has not."""
    sharp = np.random.default_rng(0).normal(1000, 100, (96, 96, 96)).astype(np.float32)
    crop = crop_rows(96, 48)
    filled = np.einsum("ab,bjk->ajk", crop.T @ crop * 2, sharp).astype(np.float32)
    assert measured_sharpness(sharp) == NATIVE
    assert measured_sharpness(filled) == ("band-limited", "native", "native")
    index(tmp_path, {"file": scan(tmp_path, "a.nii", array=filled), "subject": "a", "split": "train"})
    assert training_rows(tmp_path) == [row(native="band-limited/native/native")]
    blurred = ndimage.gaussian_filter1d(sharp, 0.88, axis=1)
    assert measured_sharpness(blurred) == ("native", "smooth", "native")


def test_volumes_come_in_normalised_with_what_index_and_header_say(tmp_path):
    rows = [
        row(file=scan(tmp_path, "mr.nii.gz"), subject="m", native="native/smooth/band-limited"),
        row(file=scan(tmp_path, "ct.nii.gz", ct=True, spacing=(1.0, 2.5, 1.25), shape=(24, 18, 20)), modality="CT"),
    ]
    root = index(tmp_path, *rows)
    mr, ct = load_sources(root, training_rows(root), config())
    assert (mr.modality, ct.modality) == ("MR", "CT")
    assert mr.sharpness == ("native", "smooth", "band-limited")
    assert ct.sharpness == NATIVE
    assert (mr.slice_axis, ct.slice_axis) == (2, 1)
    assert mr.spacing == pytest.approx((1.0, 1.0, 3.0))
    assert ct.spacing == pytest.approx((1.0, 2.5, 1.25))
    assert mr.array.dtype == np.float32
    assert mr.array.flags.c_contiguous
    assert mr.array.max() == pytest.approx(1.0, abs=0.05)
    hounsfield = nibabel.load(tmp_path / "ct.nii.gz").get_fdata()
    np.testing.assert_allclose(ct.array, (np.maximum(hounsfield, -1024) + 1024) / 2000, atol=1e-5)
    assert mr.weight == pytest.approx(0.6)
    assert ct.weight == pytest.approx(0.4)


@pytest.mark.parametrize("shape", [(24, 20, 1), (16, 40, 3), (17, 200, 34), (16, 16, 16)])
def test_thin_volumes_and_those_smaller_than_a_patch_make_samples(tmp_path, shape):
    """With their neighbours where they have none, and a mask where the patch is not filled."""
    rows = [
        row(file=scan(tmp_path, f"{m}.nii", shape=shape, ct=m == "CT"), subject=m, modality=m) for m in ("MR", "CT")
    ]
    root = index(tmp_path, *rows)
    sources = load_sources(root, training_rows(root), config())
    batch = make_batch(sources, 0, size=8, patch=48, context=1, seed=0, device=torch.device("cpu"))
    for tensor in (batch.u, batch.x, batch.mask):
        assert torch.isfinite(tensor).all()
    assert 0 < batch.mask.mean() < 1
    assert batch.x.std() > 0


def test_the_packaged_configuration_fits_its_index(data_dir):
    """Every row that enters weights is described, its file is there, and the two modalities are balanced."""
    rows = training_rows(data_dir)
    weights = sample_weights(rows, config(same_person=["RORDEN"]))
    assert sum(weights) == pytest.approx(1)
    lab = [w for w, r in zip(weights, rows, strict=True) if r["subject"].startswith("RORDEN")]
    assert len(lab) > 1
    assert max(lab) < max(w for w, r in zip(weights, rows, strict=True) if r["modality"] == "MR")
    assert all(r["native"].count("/") == 2 for r in validation_rows(data_dir))


# --- the configuration ---------------------------------------------------------------------------------------------


def test_values_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="Extra inputs"):
        config(learning_rate=1)
    with pytest.raises(ValueError, match="part"):
        config(stages=[{"part": "median", "minutes": 1}])
    for wrong in ({"mr_share": 1.5}, {"phantom_weight": 0}):
        with pytest.raises(ValueError, match="Input should be"):
            config(**wrong)
