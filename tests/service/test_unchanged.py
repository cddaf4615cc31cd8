"""Scans of every kind that change between planning and their turn, or while they are worked on, are refused."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medsr.service import pipeline
from medsr.service.crew import Orders
from medsr.service.identity import files_of, hash_of
from medsr.service.jobs import Counts, JobStore
from tests.image.dicom_phantom import Phantom, save
from tests.service.cohorts import make_scan, manifest, run_here, work_here

SHAPE = (10, 9, 5)


def voxels(seed: int, *more: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((*SHAPE, *more)) * 100).astype(np.float32)


def pair(folder: Path) -> Path:
    nib.save(nib.Nifti1Pair(voxels(0), np.diag([1, 1, 3, 1])), folder / "a_T1w.hdr")
    return folder / "a_T1w.img"


def packed_pair(folder: Path) -> Path:
    for half in (pair(folder), folder / "a_T1w.hdr"):
        packed = half.with_name(half.name + ".gz")
        with nib.openers.Opener(packed, "wb") as stream:
            stream.write(half.read_bytes())
        half.unlink()
    return folder / "a_T1w.img.gz"


def four(folder: Path) -> Path:
    image = nib.Nifti1Image(voxels(0, 2), np.diag([1, 1, 3, 1]))
    nib.save(image, folder / "a_T1w.nii")
    (folder / "a_T1w.bval").write_text("0 1000\n")
    (folder / "a_T1w.bvec").write_text("0 1\n0 0\n0 0\n")
    return folder / "a_T1w.nii"


def directions(folder: Path) -> Path:
    return four(folder).with_suffix(".bvec")


def mgh(folder: Path) -> Path:
    nib.save(nib.MGHImage(voxels(0), np.diag([1, 1, 3, 1])), folder / "a_T1w.mgh")
    return folder / "a_T1w.mgh"


def series(folder: Path) -> Path:
    return save(folder / "s", Phantom(modality="MR").classic()) / "IM3.dcm"


def enhanced(folder: Path) -> Path:
    return next(save(folder / "s", [Phantom(modality="MR").enhanced()]).iterdir())


def archive(folder: Path) -> Path:
    loose = save(folder / "s", Phantom(modality="MR").classic())
    with zipfile.ZipFile(folder / "study.zip", "w") as stream:
        for file in sorted(loose.iterdir()):
            stream.write(file, file.name)
    shutil.rmtree(loose)
    return folder / "study.zip"


def other_bytes(path: Path) -> None:
    """Another image, or other text, of the same size; times as they were, so that nothing but the bytes can tell."""
    times = path.stat()
    if path.suffix == ".dcm":
        ds = pydicom.dcmread(path)
        ds.PixelData = ds.PixelData[2:] + ds.PixelData[:2]
        ds.save_as(path)
    elif path.suffix == ".zip":
        loose = path.parent / "loose"
        with zipfile.ZipFile(path) as stream:
            stream.extractall(loose)
        other_bytes(sorted(loose.iterdir())[2])
        with zipfile.ZipFile(path, "w") as stream:
            for file in sorted(loose.iterdir()):
                stream.write(file, file.name)
        shutil.rmtree(loose)
    elif path.name.endswith(".img.gz"):
        with nib.openers.Opener(path, "wb") as stream:
            stream.write(voxels(1).tobytes(order="F"))
    elif path.suffix == ".bvec":
        path.write_text("0 0\n0 1\n0 0\n")
    else:
        data = bytearray(path.read_bytes())
        data[-200] ^= 1
        path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def meanwhile(change: Callable[[], None]) -> Callable[..., Counts]:
    """Work before which something happens to the scans."""

    def work(store: JobStore, orders: Orders, tell: Callable[[Counts], None]) -> Counts:
        change()
        return work_here(store, orders, tell)

    return work


@pytest.mark.parametrize("make", [pair, packed_pair, four, directions, mgh, series, enhanced, archive])
def test_changed_between_planning_and_its_turn(tmp_path: Path, tiny_model: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "in").mkdir()
    file = make(tmp_path / "in")
    make_scan(tmp_path / "in/other_T1w.nii.gz")
    options = {"volume": "all"} if make in (four, directions) else {}
    out = tmp_path / "out"
    ended = run_here(tmp_path / "in", out, tiny_model, work=meanwhile(lambda: other_bytes(file)), **options)
    (trouble,) = ended.trouble
    assert (ended.done, trouble.exit_code) == (1, 3)
    assert "has changed since the batch was planned; run the batch again" in trouble.reason
    again = run_here(tmp_path / "in", out, tiny_model, **options)
    assert (again.done, again.before, again.trouble) == (2, 1, ())


def test_manifest_has_the_hash_of_what_was_read(tmp_path: Path, tiny_model: Path) -> None:
    file = series(tmp_path)
    run_here(tmp_path, tmp_path / "out", tiny_model, work=meanwhile(lambda: other_bytes(file)))
    run_here(tmp_path, tmp_path / "out", tiny_model)
    (row,) = manifest(tmp_path / "out")
    from medsr.image.scan import inspect
    from medsr.request import Request

    assert row["state"] == "done"
    assert row["input_sha256"] == hash_of(files_of(inspect(tmp_path / "s"), Request()))


def test_slice_added_between_planning_and_its_turn(tmp_path: Path, tiny_model: Path) -> None:
    slices = Phantom(modality="MR").classic()
    save(tmp_path / "in/s", slices[:-1])

    def add() -> None:
        slices[-1].save_as(tmp_path / "in/s/late.dcm", enforce_file_format=True)

    ended = run_here(tmp_path / "in", tmp_path / "out", tiny_model, work=meanwhile(add))
    (trouble,) = ended.trouble
    assert "has changed since the batch was planned" in trouble.reason


def test_template_that_changed_between_planning_and_its_turn(tmp_path: Path, tiny_model: Path) -> None:
    phantom = Phantom(modality="MR")
    template = save(tmp_path / "template", phantom.classic())
    scan = tmp_path / "in/a_T1w.nii"
    scan.parent.mkdir()
    nib.save(nib.Nifti1Image(phantom.values, phantom.affine), scan)
    out, file = tmp_path / "out", template / "IM3.dcm"

    def other_patient() -> None:
        ds = pydicom.dcmread(file)
        ds.PatientID = "P2"
        ds.save_as(file)

    options = {"dicom_template": template}
    ended = run_here(scan, out, tiny_model, work=meanwhile(other_patient), **options)
    assert [t.reason for t in ended.trouble] == [
        "template has changed since the batch was planned; run the batch again"
    ]
    assert run_here(scan, out, tiny_model, **options).done == 1
    other_bytes(file)
    (trouble,) = run_here(scan, out, tiny_model, **options).trouble
    assert "made from another input or with other options" in trouble.reason


@pytest.mark.parametrize("make", [series, four])
def test_changed_while_the_network_runs(
    tmp_path: Path, tiny_model: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags are read again when the result is written: they must be those of the voxels."""
    (tmp_path / "in").mkdir()
    file = make(tmp_path / "in")

    def process(*given: object, plain: Callable = pipeline.process) -> object:
        done = plain(*given)
        data = file.read_bytes()
        file.write_bytes(data)  # the same bytes: that it was written to is enough
        return done

    monkeypatch.setattr(pipeline, "process", process)
    options = {"volume": "all"} if make is four else {}
    (trouble,) = run_here(tmp_path / "in", tmp_path / "out", tiny_model, **options).trouble
    assert (trouble.exit_code, "has changed since it was read" in trouble.reason) == (3, True)
    assert not list((tmp_path / "out").rglob("*_sr*"))


def test_series_whose_files_are_called_alike_in_print(tmp_path: Path) -> None:
    """Names are cut for messages; every file counts in the hash all the same."""
    from medsr.image.scan import inspect
    from medsr.request import Request

    slices = Phantom(modality="MR").classic()
    deep = tmp_path / "in" / ("a" * 120) / ("b" * 120)
    save(deep, slices)
    files = files_of(inspect(tmp_path / "in"), Request())
    assert len(files) == len(slices)
