"""Planning of a cohort: keys that change with the work and with nothing else, and one row for each bad scan."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsr.errors import ModelError
from medsr.request import Request
from medsr.service.identity import input_hash
from medsr.service.inputs import find_items
from medsr.service.planning import PlannedItem, Planning, plan_items
from medsr.service.tasks import Task
from tests.image.dicom_phantom import Phantom, save


def scan(path: Path, seed: int = 0, kind: type = np.float32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = (np.random.default_rng(seed).random((8, 7, 6)) * 100).astype(kind)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 3, 1])), path)
    return path


def template(folder: Path) -> Path:
    """A series on the grid of ``scan``."""
    stored = np.random.default_rng(0).integers(24, 1200, (8, 7, 6))
    upright = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # LPS, so that the axes are those of RAS
    return save(folder, Phantom("MR", stored, (1.0, 1.0, 3.0), upright, (0.0, 0.0, 0.0)).classic())


def planned(root: Path, request: Request | None = None, *, hashed: bool = True) -> Planning:
    request = request or Request()
    return plan_items(find_items([root], request, out=root / "out"), request, hashed=hashed)


def only(root: Path, request: Request | None = None) -> PlannedItem:
    (one,) = planned(root, request).planned
    return one


def test_key_follows_the_work_and_nothing_else(tmp_path: Path) -> None:
    path = scan(tmp_path / "sub/a_T1w.nii.gz")
    key = only(tmp_path).key
    same = [Request(device="cpu"), Request(threads=1), Request(model="medsr-base")]
    other = [Request(scale=(3,)), Request(seed=1, texture=0.5), Request(uncertainty=True), Request(modality="ct")]
    assert {only(tmp_path, request).key for request in same} == {key}
    assert len({key, *(only(tmp_path, request).key for request in other)}) == 1 + len(other)
    scan(path, seed=1)
    assert only(tmp_path).key != key
    scan(path)
    assert only(tmp_path).key == key
    path.rename(tmp_path / "sub/b_T1w.nii.gz")
    assert only(tmp_path).key != key


def test_copies_in_two_places_are_two_jobs(tmp_path: Path) -> None:
    shutil.copytree(scan(tmp_path / "one/a_T1w.nii.gz").parent, tmp_path / "two")
    assert len({one.key for one in planned(tmp_path).planned}) == 2


def test_pair_counts_with_both_files(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.ones((8, 7, 6), np.float32), np.diag([1, 1, 3, 1])), tmp_path / "a_T1w.hdr")
    before = only(tmp_path).key
    voxels = tmp_path / "a_T1w.img"
    voxels.write_bytes(bytes(voxels.stat().st_size))
    assert only(tmp_path).key != before


def test_names_of_dicom_files_do_not_count(tmp_path: Path) -> None:
    slices = Phantom(modality="MR").classic()
    one = only(save(tmp_path / "one/s", slices, "A").parent)
    two = only(save(tmp_path / "two/s", slices[::-1], "Z").parent)
    assert one.task is not None
    assert two.task is not None
    assert one.key == two.key
    slices[0].PixelData = bytes(len(slices[0].PixelData))
    assert only(save(tmp_path / "three/s", slices).parent).key != one.key


def test_hash_of_one_file_is_its_own() -> None:
    assert input_hash([[b"a", b"bc"]]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert input_hash([[b"a"], [b"b"]]) == input_hash([[b"b"], [b"a"]]) != input_hash([[b"ab"]])


def test_one_bad_scan_is_one_row(tmp_path: Path) -> None:
    scan(tmp_path / "good_T1w.nii.gz")
    (tmp_path / "empty.nii.gz").touch()
    nib.save(nib.Nifti1Image(np.ones((8, 7, 6, 3), np.float32), np.eye(4)), tmp_path / "four.nii")
    nib.save(nib.Nifti1Image(np.ones((8, 7, 6), np.float32), np.eye(4)), tmp_path / "coarser.nii")
    request = Request(scale=(2, 2, 1))
    result = planned(tmp_path, request)
    assert {row.name: row.exit_code for row in result.left_out} == {"empty.nii.gz": 3, "four.nii": 3}
    assert {one.item.name for one in result.planned} == {"good_T1w.nii.gz", "coarser.nii"}
    assert all("\n" not in row.reason for row in result.left_out)


def test_label_map_in_a_folder_is_left_out_and_refused_when_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.nii"
    image = nib.Nifti1Image(np.ones((8, 7, 6), np.int16), np.diag([1, 1, 3, 1]))
    image.header.set_intent(1002)
    nib.save(image, path)
    (row,) = planned(tmp_path).left_out
    assert (row.exit_code, "label" in row.reason) == (0, True)
    found = find_items([path], Request(), out=tmp_path / "out")
    (row,) = plan_items(found, Request(), hashed=False).left_out
    assert row.exit_code == 4
    assert planned(tmp_path, Request(modality="mr")).planned == ()
    assert len(plan_items(found, Request(modality="mr"), hashed=False).planned) == 1


def test_gantry_tilt_is_a_row_unless_deskewed(tmp_path: Path) -> None:
    save(tmp_path / "tilted", Phantom(slide=(0.0, 0.4)).classic())
    save(tmp_path / "straight", Phantom(series=2).classic())
    (row,) = planned(tmp_path).left_out
    assert (row.exit_code, "--deskew" in row.reason) == (3, True)
    assert planned(tmp_path, Request(deskew=True)).left_out == ()


def test_template_counts_by_its_bytes_and_is_checked_before_the_first_scan(tmp_path: Path) -> None:
    path = scan(tmp_path / "in/a_T1w.nii.gz")
    request = Request(dicom_template=template(tmp_path / "x"))
    key = only(path.parent, request).key
    file = tmp_path / "x/IM2.dcm"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"Sheep", b"Goats"))
    assert only(path.parent, request).key != key
    file.write_bytes(data)
    assert only(path.parent, request).key == key
    for wrong in (Request(dicom_template=save(tmp_path / "y", Phantom("MR").classic())), Request(dicom_template=path)):
        (row,) = planned(path.parent, wrong, hashed=False).left_out
        assert row.exit_code == 3
    elsewhere = replace(request, uncertainty=True)
    assert len(planned(path.parent, elsewhere, hashed=False).planned) == 1


def test_plan_alone_reads_no_whole_file(tmp_path: Path) -> None:
    scan(tmp_path / "a_T1w.nii.gz")
    (one,) = planned(tmp_path, hashed=False).planned
    assert (one.key, one.task) == (None, None)
    assert one.plan.target.shape == (16, 14, 6)


def test_missing_model_ends_it_all(tmp_path: Path) -> None:
    scan(tmp_path / "a_T1w.nii.gz")
    with pytest.raises(ModelError):
        planned(tmp_path, Request(model="no-such-model"))


def test_task_holds_no_relative_path(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan(tmp_path / "in/a_T1w.nii.gz")
    shutil.copy(tiny_model, tmp_path / "m.safetensors")
    template(tmp_path / "template")
    monkeypatch.chdir(tmp_path)
    request = Request(model="m.safetensors", dicom_template=Path("template"))
    (one,) = plan_items(find_items([Path("in")], request, out=Path("out")), request, hashed=True).planned
    assert one.task is not None
    assert one.task.path == tmp_path / "in/a_T1w.nii.gz"
    assert one.task.request.model == str(tmp_path / "m.safetensors")
    assert one.task.request.dicom_template == tmp_path / "template"


def test_task_survives_json(tmp_path: Path) -> None:
    scan(tmp_path / "a_T1w.nii.gz")
    request = Request(scale=(2, 2, 1), volume=0, dicom_template=template(tmp_path / "x"), seed=3)
    found = find_items([tmp_path / "a_T1w.nii.gz"], request, out=tmp_path / "out")
    (one,) = plan_items(found, request, hashed=True).planned
    assert one.task is not None
    back = Task.from_json(json.loads(json.dumps(one.task.to_json())))
    assert back.request == request
    assert (back.path, back.output) == (tmp_path / "a_T1w.nii.gz", "a_T1w_sr")
    assert json.dumps(back.to_json()) == json.dumps(one.task.to_json())


def test_planning_imports_no_torch(tmp_path: Path, child_environment: dict[str, str]) -> None:
    scan(tmp_path / "a_T1w.nii.gz")
    save(tmp_path / "d", Phantom(modality="MR").classic())
    code = (
        "import sys; from pathlib import Path; from medsr.request import Request\n"
        "from medsr.service.inputs import find_items; from medsr.service.planning import plan_items\n"
        f"root = Path({str(tmp_path)!r}); r = Request()\n"
        "done = plan_items(find_items([root], r, out=root / 'out'), r, hashed=True)\n"
        "print(len(done.planned), [m for m in ('torch', 'monai', 'click') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2 []"
