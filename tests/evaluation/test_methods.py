"""What a study has each method do, and where it finds what other tools have made."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr import classical
from medsr.errors import InputError
from medsr.evaluation.cost import peak_memory
from medsr.evaluation.manifest import Entry
from medsr.evaluation.methods import Task, brought_along, classical_images, file_of, upscaled
from medsr.evaluation.pace import MEAN_COST, Pace, cost
from medsr.evaluation.request import StudyRequest, baselines_by_name
from medsr.image.nifti import inspect, read
from medsr.image.profile import choose_profiles
from medsr.protocols import degrade_file
from medsr.request import Request
from medsr.run import load_for


@pytest.fixture
def task(fine_scans, tmp_path) -> Task:
    path = fine_scans / "test" / "trunk_CT.nii.gz"
    degrade_file(path, tmp_path / "scan.nii.gz", "blind-x2", modality="CT")
    reference = read(path, modality="CT")
    return Task(Entry(path, "test/trunk_CT.nii.gz", "trunk"), "blind-x2", reference, 2, tmp_path / "scan.nii.gz")


def test_factors_are_those_of_the_grids(task):
    """70 x 68 voxels: 35 x 34 coarse ones."""
    assert task.factors == (2.0, 2.0, 1.0)
    assert read(task.scan, modality="CT").array.shape == (35, 34, 11)


def test_classical_methods_are_told_what_medsr_is_told(task, tiny_model, tmp_path):
    """Under a blind protocol: nothing but what the header of the scan lets medsr assume."""
    request = Request(model=str(tiny_model), device="cpu", threads=1)
    output = tmp_path / "made.nii.gz"
    made = upscaled(task, request, output, load_for(request), None)
    header = inspect(task.scan)
    told = choose_profiles(header, "CT", [0, 1], "auto")
    assert not any(p.known for p in told[:2])
    scan = read(task.scan, modality="CT")
    expected = dict(classical.classical(scan, task.reference.geometry, told, ["linear MMSE"]))
    found = dict(classical_images(task, ["linear MMSE"]))
    np.testing.assert_array_equal(found["linear MMSE"].image, expected["linear MMSE"])
    np.testing.assert_array_equal(made.image, np.asarray(nibabel.load(output).dataobj))
    assert set(made.figures) >= {"certificate", "seconds", "evaluations"}
    assert made.std is None


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (("inplane-x2/test/a.nii.gz", "test/a.nii.gz", "a.nii.gz"), "inplane-x2/test/a.nii.gz"),
        (("inplane-x2/a.nii.gz", "test/a.nii.gz", "a.nii.gz"), "inplane-x2/a.nii.gz"),
        (("inplane-x4/a.nii.gz", "test/a.nii.gz", "a.nii.gz"), "test/a.nii.gz"),
        (("inplane-x2/a.nii", "b.nii.gz"), "inplane-x2/a.nii"),
        (("a.nii.gz/x", "a.nii"), "a.nii"),
        (("inplane-x4/a.nii.gz", "aa.nii.gz"), None),
    ],
)
def test_where_another_tools_volume_lies(tmp_path, there, found):
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert file_of(tmp_path, "inplane-x2", "test/a.nii.gz") == (tmp_path / found if found else None)
    if found and not found.endswith("test/a.nii.gz"):
        assert file_of(tmp_path, "inplane-x2", "other/a.mgz") == tmp_path / found, "another format"


def test_volumes_of_other_tools_are_turned_but_never_moved(task, tmp_path):
    image = nibabel.load(task.entry.path)
    turned = image.as_reoriented(nibabel.orientations.axcodes2ornt(("P", "S", "L")))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    made = brought_along(task, tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(made.image, task.reference.array)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 0] / 2
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"moved\.nii\.gz lies on another grid than the reference test/trunk_CT"):
        brought_along(task, tmp_path / "moved.nii.gz")


def test_memory_is_that_of_the_block():
    """A large array that is gone before the block does not count; one inside does."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the high-water mark cannot be reset here")
    large = np.ones(60_000_000)
    del large
    with peak_memory() as small:
        pass
    with peak_memory() as peak:
        np.ones(25_000_000).sum()
    if small.megabytes is None or peak.megabytes is None:
        pytest.skip("the system does not tell")
    assert 180 < peak.megabytes - small.megabytes < 300


def test_pace_counts_work_and_not_methods():
    said: list[float] = []
    request = StudyRequest(
        protocols=("inplane-x2",), textures=(0.0, 1.0), steps=5, sampler="heun", baselines=("cubic",)
    )
    each = [cost(m, request) for m in request.methods()]
    assert each == [1, 1 + MEAN_COST, 1 + MEAN_COST + 9]
    pace = Pace(2 * sum(each), lambda _, share: said.append(share * 2 * sum(each)))
    pace.begin("first", sum(each))
    pace.step(each[0])
    pace.within(each[1])("network", 0.5)
    pace.within(each[1])("write", 1.0)
    pace.step(each[1])
    pace.end()  # the last method failed
    pace.begin("second", sum(each))
    assert said == pytest.approx([0, 1, 1 + (1 + MEAN_COST) / 2, 2 + MEAN_COST, sum(each)])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", tuple(classical.METHODS)),
        (" None ", ()),
        ("linear-mmse, CUBIC", ("cubic", "linear MMSE")),
        ("cubic+consistency,lanczos,lanczos", ("Lanczos", "cubic + consistency")),
    ],
)
def test_baselines_by_any_spelling(text, names):
    assert baselines_by_name(text) == names
