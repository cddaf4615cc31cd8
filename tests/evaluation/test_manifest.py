"""Which volumes a study looks at, and which lists it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from medsr.errors import InputError
from medsr.evaluation.manifest import Entry, read_manifest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files of which the manifest knows nothing but the bytes."""
    for name in ("test/a.nii.gz", "test/b.nii", "val/c.nii.gz", "train/d.nii.gz", "notes.txt", "test/.hidden.nii"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def index(folder: Path, text: str, name: str = "INDEX.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


LIST = (
    "file,subject,split,modality,native,phantom\n"
    "test/a.nii.gz,A,test,MR,native/band-limited/smooth,no\n"
    "test/b.nii,B,test,,,yes\n"
    "val/c.nii.gz,C,val,CT,,no\n"
    "train/d.nii.gz,D,train,CT,,no\n"
)


def test_an_index_says_what_a_volume_is(data):
    index(data, LIST)
    first, second = read_manifest(data)
    assert first == Entry(
        path=data.resolve() / "test/a.nii.gz",
        name="test/a.nii.gz",
        subject="A",
        split="test",
        modality="MR",
        sharpness=("native", "band-limited", "smooth"),
        sha256=hashlib.sha256(b"test/a.nii.gz").hexdigest(),
    )
    assert (second.modality, second.sharpness, second.phantom) == (None, (), True)
    assert [e.name for e in read_manifest(data, "val")] == ["val/c.nii.gz"]


def test_a_csv_of_any_name_lies_beside_what_it_lists(data):
    chosen = index(data / "test", "file,subject,split\na.nii.gz,A,val\n../val/c.nii.gz,C,val\n", "mine.csv")
    assert [(e.name, e.subject) for e in read_manifest(chosen)] == [("a.nii.gz", "A"), ("c.nii.gz", "C")]


def test_a_folder_inside_an_indexed_one_keeps_its_subjects(data):
    index(data, LIST)
    assert [(e.name, e.subject, e.phantom) for e in read_manifest(data / "test")] == [
        ("a.nii.gz", "A", False),
        ("b.nii", "B", True),
    ]
    assert [e.name for e in read_manifest(data / "val")] == ["c.nii.gz"]
    (data / "other").mkdir()
    (data / "other" / "x.nii").write_bytes(b"x")
    assert [e.name for e in read_manifest(data / "other")] == ["x.nii"], "the index knows nothing of this folder"


def test_files_of_other_splits_are_not_opened(data):
    index(data, LIST)
    (data / "train" / "d.nii.gz").unlink()
    (data / "val" / "c.nii.gz").unlink()
    assert len(read_manifest(data, "test")) == 2


def test_a_plain_folder_has_a_subject_in_each_file_or_those_of_bids(tmp_path):
    names = ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz", "sub-02_T1w.nii", "scans/x.nii", "y.mgz")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0")
    assert {e.name: e.subject for e in read_manifest(tmp_path)} == dict(
        zip(names, ("sub-01", "sub-01", "sub-02", "scans/x", "y"), strict=True)
    )
    assert {e.split for e in read_manifest(tmp_path)} == {None}


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("file,subject,split\ntest/a.nii.gz,A,test\nval/c.nii.gz,A,val\n", None, "subject 'A' is in test and in val"),
        (
            "file,subject,split,person\ntest/a.nii.gz,A,test,p\ntrain/d.nii.gz,D,train,p\n",
            None,
            "person 'p' is in test and in train",
        ),
        (
            "file,subject,split\ntest/a.nii.gz,A,test\ntest/none.nii,B,test\n",
            None,
            "test/none.nii is listed and is not",
        ),
        ("file,subject,split\nval/c.nii.gz,C,val\ntrain/d.nii.gz,D,train\n", None, "choose one with --split"),
        ("file,subject,split\nval/c.nii.gz,C,val\n", "test", "no row of the split test; it has: val"),
        ("file,subject\ntest/a.nii.gz,A\n", None, "no column split"),
        ("file,subject,split,sha256\ntest/a.nii.gz,A,test,00ff\n", None, "its index says 00ff.*another file"),
        ("file,subject,split\ntest/a.nii.gz,A,test\n../outside/test/a.nii.gz,B,test\n", None, "is not there|one name"),
    ],
)
def test_lists_that_are_refused(data, text, split, message):
    index(data, text)
    with pytest.raises(InputError, match=message) as error:
        read_manifest(data, split)
    assert "\n" not in str(error.value)


def test_a_stated_sha256_is_checked(data):
    true = hashlib.sha256(b"test/a.nii.gz").hexdigest()
    index(data, f"file,subject,split,sha256\ntest/a.nii.gz,A,test,{true.upper()}\n")
    (entry,) = read_manifest(data)
    assert entry.sha256 == true


def test_the_only_split_is_the_default(data):
    index(data, "file,subject,split\nval/c.nii.gz,C,val\n")
    assert [e.split for e in read_manifest(data)] == ["val"]


def test_a_name_never_leads_out_of_the_data_folder(tmp_path):
    """Names become names of output files."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "x.nii").write_bytes(b"x")
    chosen = index(inner, f"file,subject,split\n{tmp_path / 'x.nii'},X,test\n")
    assert [e.name for e in read_manifest(chosen)] == ["x.nii"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.nii").write_bytes(b"y")
    index(inner, "file,subject,split\n../x.nii,X,test\n../deep/x.nii,Y,test\n")
    with pytest.raises(InputError, match="have one name"):
        read_manifest(chosen)


@pytest.mark.parametrize(("place", "message"), [("none", "does not exist"), (".", "no scan in")])
def test_nothing_to_look_at(tmp_path, place, message):
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / place)
    with pytest.raises(InputError):
        read_manifest(tmp_path, "test")


def test_a_plain_folder_has_no_splits(data):
    with pytest.raises(InputError, match="no split val; leave --split away"):
        read_manifest(data / "test", "val")


def test_the_real_index(data_dir):
    volumes = {split: read_manifest(data_dir, split) for split in ("val", "test")}
    subjects = {split: {e.subject for e in found} for split, found in volumes.items()}
    assert not subjects["val"] & subjects["test"]
    assert [e.name for e in read_manifest(data_dir / "test")] == [Path(e.name).name for e in volumes["test"]]
    assert all(len(e.sharpness) == 3 and e.modality for found in volumes.values() for e in found)
