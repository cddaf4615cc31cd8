"""DICOM through the commands: a series in, a derived series out, and what is refused on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

import medsr
from medsr.errors import ConfigError, InputError, PlanError
from medsr.image.dicom_kinds import MARK
from medsr.protocols import degrade_file
from medsr.request import Request
from medsr.run import plan_file, upscale_file
from tests.image.dicom_phantom import Phantom, save

ROOT = Path(__file__).resolve().parent.parent


def smooth(seed: int = 0, shape=(22, 20, 9)) -> np.ndarray:
    """Values as a scanner stores them: an object with structure on a dark ground."""
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(0, 1, shape), 1.2)
    image = 900 + 400 * image / image.std()
    edge = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    return np.clip(np.where(np.square(edge[:2] / 0.9).sum(0) < 1, image, 24), 24, 2000).round().astype(int)


def phantom(modality: str = "CT", **fields) -> Phantom:
    return Phantom(modality, stored=smooth(), spacing=(0.5, 0.8, 3.0), **fields)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return save(tmp_path / "study", phantom().classic())


def request(tiny_model: Path, **fields) -> Request:
    return Request(model=str(tiny_model), device="cpu", threads=1, **fields)


def tags(folder: Path) -> list[pydicom.Dataset]:
    """In slice order."""
    found = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    return sorted(found, key=lambda ds: int(ds.InstanceNumber))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_series_in_a_derived_series_out(tmp_path: Path, tiny_model: Path, modality: str, kind: str) -> None:
    made = getattr(phantom(modality), kind)()
    source = save(tmp_path / "study", made if isinstance(made, list) else [made])
    before = contents(source)
    done = upscale_file(source, None, request(tiny_model))
    assert contents(source) == before
    assert done.files == {"volume": tmp_path / "study_sr", "sidecar": tmp_path / "study_sr.json"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study", "study_sr", "study_sr.json"]
    written = tags(tmp_path / "study_sr")
    first = made[0] if isinstance(made, list) else made
    assert {ds.SeriesInstanceUID for ds in written} == {done.sidecar["series"]["uid"]} != {first.SeriesInstanceUID}
    assert {ds.StudyInstanceUID for ds in written} == {first.StudyInstanceUID}
    assert all(ds.SeriesDescription.endswith(MARK) and ds.Manufacturer == "medsr" for ds in written)
    assert len(written) == done.sidecar["series"]["instances"] == 9
    volume = done.result.volume
    again = medsr.read(tmp_path / "study_sr", modality=modality)
    assert again.geometry.same_grid(volume.geometry, 1e-4)
    np.testing.assert_allclose(again.array, volume.array, atol=0 if modality == "CT" else 0.5)


def test_nifti_out_holds_the_same_voxels(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    upscale_file(series, None, request(tiny_model))
    upscale_file(series, tmp_path / "x.nii.gz", request(tiny_model))
    image = nibabel.load(tmp_path / "x.nii.gz")
    again = medsr.read(tmp_path / "study_sr", modality="CT")
    np.testing.assert_array_equal(np.asarray(image.dataobj), again.array)
    np.testing.assert_allclose(image.affine, again.geometry.affine, atol=1e-4)


def test_the_same_object_has_the_same_bytes(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    """Also an hour later: the times are those of the first run. Other parameters make another series."""
    first = upscale_file(series, None, request(tiny_model))
    sidecar = first.files["sidecar"]
    record = json.loads(sidecar.read_text())
    record["series"]["created"] = "2026-01-02T03:04:05+00:00"
    sidecar.write_text(json.dumps(record))
    second = upscale_file(series, None, request(tiny_model), overwrite=True)
    before = contents(tmp_path / "study_sr")
    assert second.sidecar["series"] == record["series"]
    assert tags(tmp_path / "study_sr")[0].SeriesTime == "030405"
    upscale_file(series, None, request(tiny_model), overwrite=True)
    assert contents(tmp_path / "study_sr") == before
    other = upscale_file(series, None, request(tiny_model, consistency="off"), overwrite=True)
    assert other.sidecar["series"]["uid"] != record["series"]["uid"]
    assert other.sidecar["series"]["created"] != record["series"]["created"]


def test_what_the_user_calls_it(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    asked = request(tiny_model, series_description="My finer T2 " * 9, series_number=77, burn_in=True)
    done = upscale_file(series, tmp_path / "out", asked)
    for ds in tags(tmp_path / "out"):
        assert ds.SeriesNumber == 77
        assert len(ds.SeriesDescription) <= 64
        assert ds.SeriesDescription.startswith("My finer T2")
        assert ds.SeriesDescription.endswith(MARK)
        assert ds.BurnedInAnnotation == "YES"
    plain = upscale_file(series, tmp_path / "plain", request(tiny_model))
    assert done.sidecar["series"]["uid"] != plain.sidecar["series"]["uid"]
    changed = medsr.read(tmp_path / "out", modality="CT").array != medsr.read(tmp_path / "plain", modality="CT").array
    assert 0 < changed.mean() < 0.5


def test_maps_and_a_report(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("highdicom")
    asked = request(tiny_model, uncertainty=True, detail_map=True, report=True, texture=0.5, steps=2)
    done = upscale_file(series, None, asked)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "study", "study_sr", "study_sr.html", "study_sr.json", "study_sr_detail.dcm", "study_sr_std.dcm",
    ]  # fmt: skip
    for kind, volume in (("std", done.result.std), ("detail", done.result.detail)):
        ds = pydicom.dcmread(done.files[kind])
        assert ds.SOPClassUID.name == "Parametric Map Storage"
        assert ds.NumberOfFrames == 9
        values = np.sort(ds.pixel_array.ravel())
        np.testing.assert_allclose(values, np.sort(volume.array.ravel()), rtol=1e-6)


# --- NIfTI in, with the tags of the series that it was made from ---


def converted(series: Path, path: Path) -> Path:
    """As converters write it: rows stored from the back to the front."""
    volume = medsr.read(series)
    image = nibabel.Nifti1Image(volume.array.astype(np.int16), volume.geometry.affine)
    nibabel.save(image.as_reoriented(np.array([[0, 1], [1, -1], [2, 1]])), path)
    return path


def test_a_template(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    scan = converted(series, tmp_path / "scan_ct.nii.gz")
    asked = request(tiny_model, dicom_template=series, scale=(2.0, 2.0, 1.0))
    done = upscale_file(scan, None, asked)
    assert done.files["volume"] == tmp_path / "scan_ct_sr"
    again = medsr.read(tmp_path / "scan_ct_sr", modality="CT")
    np.testing.assert_array_equal(again.array, done.result.volume.array[:, ::-1])
    assert again.geometry.axis_codes == medsr.read(series).geometry.axis_codes
    assert tags(tmp_path / "scan_ct_sr")[0].PatientName == "Phantom^Sheep"


def test_a_template_of_another_scan(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    scan = converted(series, tmp_path / "scan_ct.nii.gz")
    turned = save(tmp_path / "turned", phantom(orientation=(0.8, 0.6, 0, -0.6, 0.8, 0)).classic())
    elsewhere = save(tmp_path / "elsewhere", phantom(origin=(200.0, 0.0, 0.0)).classic())
    mr = save(tmp_path / "mr", phantom("MR").classic())
    before = contents(tmp_path)
    for template in (turned, elsewhere, mr, scan):  # the last is no DICOM
        asked = request(tiny_model, dicom_template=template)
        with pytest.raises(InputError):
            plan_file(scan, None, asked)
        with pytest.raises(InputError):
            upscale_file(scan, None, asked)
    assert contents(tmp_path) == before


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_folder_is_replaced_only_when_it_is_a_result(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "study_sr"
    upscale_file(series, None, request(tiny_model))
    with pytest.raises(PlanError, match="--overwrite"):
        upscale_file(series, None, request(tiny_model))
    sidecar = tmp_path / "study_sr.json"
    sidecar.unlink()  # as a run leaves it that was killed between the two names
    upscale_file(series, None, request(tiny_model), overwrite=True)
    (out / "IM000003.dcm").write_bytes(b"damaged")  # the sidecar vouches for it
    upscale_file(series, None, request(tiny_model), overwrite=True)
    assert sidecar.is_file()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(PlanError, match="more than a result"):
        upscale_file(series, None, request(tiny_model), overwrite=True)
    foreign = tmp_path / "other"
    shutil.copytree(series, foreign)
    before = contents(foreign)
    with pytest.raises(PlanError, match="more than a result"):
        upscale_file(series, foreign, request(tiny_model), overwrite=True)
    with pytest.raises(PlanError, match="replace the input"):
        upscale_file(series, series, request(tiny_model), overwrite=True)
    with pytest.raises(PlanError, match="replace the input"):
        upscale_file(series / "IM1.dcm", series, request(tiny_model), overwrite=True)
    assert contents(foreign) == before


@pytest.mark.parametrize(
    ("fields", "error", "what"),
    [
        ({"series_description": "a\\b"}, ConfigError, "backslash"),
        ({"series_description": "a\nb"}, ConfigError, "control character"),
        ({"series_number": 1 << 31}, ConfigError, "series number"),
        ({"burn_in": True}, PlanError, "no room"),
    ],
)
def test_a_series_that_could_not_be_written_is_not_begun(tmp_path, tiny_model, fields, error, what) -> None:
    """By headers alone: the network may take hours before anything is written."""
    narrow = save(tmp_path / "study", Phantom(stored=smooth(shape=(8, 20, 9))).classic())
    with pytest.raises(error, match=what):
        plan_file(narrow, None, request(tiny_model, **fields))
    plan_file(narrow, None, request(tiny_model))


def test_room_for_the_mark_is_that_of_the_template(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    """A scan may lie on other axes than its template: the mark must fit the rows and columns of that."""
    thin = save(tmp_path / "thin", Phantom(stored=smooth(shape=(30, 8, 40)), spacing=(0.5, 0.5, 0.5)).classic())
    volume = medsr.read(thin)
    turned = nibabel.Nifti1Image(volume.array, volume.geometry.affine).as_reoriented([[2, 1], [1, 1], [0, 1]])
    nibabel.save(turned, tmp_path / "turned_ct.nii.gz")
    asked = request(tiny_model, dicom_template=thin, burn_in=True, scale=(2.0, 1.0, 1.0))
    with pytest.raises(PlanError, match="30 x 8 pixels"):
        plan_file(tmp_path / "turned_ct.nii.gz", None, asked)


@pytest.mark.parametrize("stated", ["", "d6e8957745"])
def test_a_source_of_no_study_is_refused_by_its_headers(tmp_path: Path, tiny_model: Path, stated: str) -> None:
    slices = phantom().classic()
    for ds in slices:
        ds.StudyInstanceUID = stated
    source = save(tmp_path / "study", slices)
    with pytest.raises(InputError, match="StudyInstanceUID"):
        plan_file(source, None, request(tiny_model))
    plan_file(source, tmp_path / "study.nii.gz", request(tiny_model))


@pytest.mark.parametrize("name", ["out.dcm", "out.DCM", "out.mgz", "out.hdr", "out.nrrd", "out.zip", "out.json"])
def test_a_series_is_a_folder_not_a_file(series: Path, tmp_path: Path, tiny_model: Path, name: str) -> None:
    with pytest.raises(PlanError, match="name a folder"):
        plan_file(series, tmp_path / name, request(tiny_model))
    plan_file(series, tmp_path / "v1.2", request(tiny_model))


def test_options_of_the_other_format(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    scan = converted(series, tmp_path / "scan_ct.nii.gz")
    for path, output, fields in [
        (scan, None, {"series": "4"}),
        (scan, None, {"deskew": True}),
        (scan, None, {"burn_in": True}),
        (scan, None, {"series_number": 5}),
        (series, tmp_path / "x.nii.gz", {"series_description": "x"}),
        (series, None, {"prefer": "qform"}),
        (series, None, {"dicom_template": series}),
        (scan, tmp_path / "x.nii.gz", {"dicom_template": series}),
    ]:
        with pytest.raises(ConfigError):
            upscale_file(path, output, request(tiny_model, **fields))
    with pytest.raises(PlanError, match="--dicom-template"):
        upscale_file(scan, tmp_path / "x", request(tiny_model))


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    """The Python blocks of docs/dicom.md, each a script of its own, as they stand beside a folder of that name."""
    save(tmp_path / "study", Phantom("MR", stored=smooth(), series=4).classic())
    page = (ROOT / "docs" / "dicom.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    printed = []
    for code in blocks:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "a volume" in printed[0]
    assert tags(tmp_path / "study_sr")[0].SeriesInstanceUID in printed[0]


def test_own_results_are_not_taken_in_again(series: Path, tmp_path: Path, tiny_model: Path) -> None:
    upscale_file(series, None, request(tiny_model))
    with pytest.raises(PlanError, match="medsr"):
        upscale_file(tmp_path / "study_sr", None, request(tiny_model))


def test_commands(run_cli, series: Path, tmp_path: Path, tiny_model: Path) -> None:
    save(series, phantom("MR", series=4).classic(), prefix="MR")
    listed = run_cli("info", series)
    assert "2 series, 2 of them volumes" in listed.stdout
    entries = json.loads(run_cli("info", series, "--json").stdout)
    assert [(e["series"], e["modality"], e["shape"]) for e in entries] == [
        ("1", "CT", [22, 20, 9]),
        ("4", "MR", [22, 20, 9]),
    ]
    several = run_cli("upscale", series, "--model", tiny_model)
    assert several.returncode == 3
    assert "--series" in several.stderr
    assert len(several.stderr.splitlines()) == 1
    before = contents(tmp_path)
    plan = run_cli("upscale", series, "--series", "4", "--model", tiny_model, "--plan")
    assert plan.returncode == 0, plan.stderr
    assert contents(tmp_path) == before
    done = run_cli("upscale", series, "--series", "4", "--model", tiny_model, "--device", "cpu", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "series 401: Phantom MR - AI SR, not acquired, 9 instances" in done.stdout
    hint = [line for line in done.stderr.splitlines() if line.startswith("hint")]
    assert f"--series 4 --device cpu --model {tiny_model} --threads 1 --isotropic -o" in hint[0]
    usage = run_cli("upscale", series, "--series", "4", "-o", tmp_path / "x.nii.gz", "--burn-in")
    assert usage.returncode == 2
    assert len(usage.stderr.splitlines()) == 1


def test_a_degraded_series_is_nifti(series: Path, tmp_path: Path) -> None:
    coarse = degrade_file(series, tmp_path / "coarse.nii.gz", "inplane-x2")
    assert coarse.shape == (11, 10, 9)
    assert medsr.inspect(tmp_path / "coarse.nii.gz").geometry.same_grid(coarse)
