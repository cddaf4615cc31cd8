"""From file to file: what is written, what it says, and that nothing is half there."""

from __future__ import annotations

import hashlib
import json

import nibabel
import numpy as np
import pytest

import medsr
from medsr import publish, run
from medsr.errors import InputError, JobError, PlanError
from medsr.image.geometry import Geometry
from medsr.image.volume import Volume
from medsr.protocols import degrade_file
from medsr.request import Request
from medsr.run import upscale, upscale_file


def phantom(shape=(24, 22, 10), seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), axis=-1)
    image = 500.0 * (np.square(grid / 0.8).sum(-1) < 1)
    for _ in range(12):
        centre = rng.uniform(-0.5, 0.5, 3)
        image += rng.uniform(-150, 150) * (np.square((grid - centre) / rng.uniform(0.1, 0.3)).sum(-1) < 1)
    return np.clip(image + rng.normal(0, 3, shape), 0, None).round()


AFFINE = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.0, 0.2, -40], [0, -0.2, 4.0, 7], [0, 0, 0, 1.0]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * [1.0, 1.1, 4.0]


def save(path, array, affine=AFFINE, dtype=np.int16):
    image = nibabel.Nifti1Image(np.asarray(array, dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


@pytest.fixture
def scan(tmp_path):
    return save(tmp_path / "sub-01_T1w.nii.gz", phantom())


def request(tiny_model, **fields) -> Request:
    return Request(model=str(tiny_model), device="cpu", threads=1, **fields)


def test_one_scan(scan, tiny_model):
    stages = []
    done = upscale_file(scan, None, request(tiny_model), lambda stage, share: stages.append((stage, share)))
    output = scan.with_name("sub-01_T1w_sr.nii.gz")
    assert done.files == {"volume": output, "sidecar": scan.with_name("sub-01_T1w_sr.json")}
    image = nibabel.load(output)
    assert image.shape == (48, 44, 10)
    assert "AI SR, not acquired" in str(image.header["descrip"])
    corner = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(image.affine @ corner, AFFINE @ corner, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), done.result.volume.array)
    assert all(0 <= share <= 1 for _, share in stages)
    assert {"read", "load model", "write"} <= {stage for stage, _ in stages}
    assert sorted(p.name for p in scan.parent.iterdir()) == [
        "sub-01_T1w.nii.gz",
        "sub-01_T1w_sr.json",
        "sub-01_T1w_sr.nii.gz",
    ]


def test_sidecar_says_how(scan, tiny_model):
    done = upscale_file(scan, None, request(tiny_model, profile="gauss:1.0"))
    sidecar = json.loads(done.files["sidecar"].read_text())
    assert sidecar == done.sidecar
    assert "not acquired" in sidecar["note"]
    assert sidecar["provenance"]["sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert sidecar["plan"]["modality"] == "MR"
    assert sidecar["profiles"]["i"] == {"profile": "gauss:1", "known": True, "evidence": "user"}
    assert sidecar["model"]["sha256"] == done.plan.model_sha256
    assert sidecar["certificate"] == json.loads(json.dumps(done.result.certificate.to_json()))
    assert sidecar["evaluations"] >= 1
    assert set(sidecar["versions"]) == {"medsr", "torch", "numpy", "python"}
    assert {"inspect", "read", "load model", "reconstruct", "write"} <= set(sidecar["timings"])
    assert sidecar["threads"] == 1
    assert str(scan.parent) not in json.dumps(sidecar), "a sidecar travels with the data: no local paths in it"


def test_same_request_same_bytes(scan, tiny_model, tmp_path):
    first = upscale_file(scan, tmp_path / "a.nii.gz", request(tiny_model, texture=0.5, steps=2, seed=3))
    second = upscale_file(scan, tmp_path / "b.nii.gz", request(tiny_model, texture=0.5, steps=2, seed=3))
    third = upscale_file(scan, tmp_path / "c.nii.gz", request(tiny_model, texture=0.5, steps=2, seed=4))
    assert first.files["volume"].read_bytes() == second.files["volume"].read_bytes()
    assert first.files["volume"].read_bytes() != third.files["volume"].read_bytes()


def test_a_loaded_model_serves_many_files(scan, tiny_model, tmp_path):
    wanted = request(tiny_model)
    model = run.load_for(wanted)
    first, second = (
        upscale_file(scan, tmp_path / f"{name}.nii.gz", wanted, model=m) for name, m in (("a", model), ("b", None))
    )
    assert first.files["volume"].read_bytes() == second.files["volume"].read_bytes()
    assert first.plan.model_sha256 == model.card.sha256
    assert "load model" not in first.sidecar["timings"]


def test_asking_for_the_uncertainty_changes_no_voxel(scan, tiny_model, tmp_path):
    plain, asked = (
        upscale_file(scan, tmp_path / f"{flag}.nii.gz", request(tiny_model, uncertainty=flag)) for flag in (False, True)
    )
    assert plain.files["volume"].read_bytes() == asked.files["volume"].read_bytes()


def test_maps(scan, tiny_model):
    done = upscale_file(scan, None, request(tiny_model, uncertainty=True, detail_map=True, texture=0.3, steps=2))
    for kind in ("std", "detail"):
        image = nibabel.load(done.files[kind])
        assert image.shape == (48, 44, 10)
        assert int(image.header["intent_code"]) == 1001
    assert np.asarray(nibabel.load(done.files["std"]).dataobj).min() >= 0


def test_invalid_voxels_stay_invalid(tmp_path, tiny_model):
    array = phantom().astype(np.float32)
    array[3, 4, 5] = np.nan
    scan = save(tmp_path / "nan_T1w.nii.gz", array, dtype=np.float32)
    done = upscale_file(scan, None, request(tiny_model))
    written = np.asarray(nibabel.load(done.files["volume"]).dataobj)
    assert np.isnan(written[6:8, 8:10, 5]).all()
    assert np.isnan(written).sum() == 4
    assert any("NaN" in w for w in done.sidecar["warnings"])


def test_four_dimensions(tmp_path, tiny_model):
    volumes = np.stack([phantom(), 0.4 * phantom()], axis=-1)
    scan = save(tmp_path / "sub-01_dwi.nii.gz", volumes)
    (tmp_path / "sub-01_dwi.bval").write_text("0 1000\n")
    (tmp_path / "sub-01_dwi.bvec").write_text("0 1\n0 0\n0 0\n")
    with pytest.raises(InputError, match="--volume"):
        upscale_file(scan, None, request(tiny_model))
    one = upscale_file(scan, tmp_path / "one.nii.gz", request(tiny_model, volume=1))
    assert nibabel.load(one.files["volume"]).shape == (48, 44, 10)
    assert not (tmp_path / "one.bval").exists()
    every = upscale_file(scan, tmp_path / "all.nii.gz", request(tiny_model, volume="all"))
    assert nibabel.load(every.files["volume"]).shape == (48, 44, 10, 2)
    assert (tmp_path / "all.bval").read_text() == "0 1000\n"
    assert (tmp_path / "all.bvec").read_text() == "0 1\n0 0\n0 0\n"
    assert len(every.sidecar["volumes"]) == 2
    assert every.results[0].intensity == every.results[1].intensity


def test_zero_filled_scan_is_cropped_back_and_says_so(tmp_path, tiny_model):
    scan = save(tmp_path / "sub-01_T2w.nii.gz", phantom((64, 60, 6)), np.diag([0.5, 0.5, 4.0, 1.0]))
    (tmp_path / "sub-01_T2w.json").write_text(
        json.dumps({"PhaseEncodingDirection": "j", "AcquisitionMatrixPE": 30, "BaseResolution": 64})
    )
    done = upscale_file(scan, None, request(tiny_model))
    # Only 60 voxels along j: too few pieces for the spectrum to contradict the tag.
    assert done.plan.acquired.shape == (64, 30, 6)
    assert done.plan.target.shape == (128, 120, 6)
    assert any("k-space" in step["step"] for step in done.sidecar["provenance"]["steps"])
    off = upscale_file(scan, tmp_path / "off.nii.gz", request(tiny_model, from_acquired="off"))
    assert off.plan.acquired.shape == (64, 60, 6)


@pytest.mark.parametrize("fails", ["write", "sidecar"])
def test_a_failure_leaves_nothing(scan, tiny_model, monkeypatch, fails):
    """The disk is full when the volume, or the sidecar after it, is written."""

    def full(path, *args, **kwargs):
        raise JobError(f"cannot write {path.name}: the disk is full")

    monkeypatch.setattr(publish, "write" if fails == "write" else "atomic_write", full)
    with pytest.raises(JobError, match="full"):
        upscale_file(scan, None, request(tiny_model))
    assert [p.name for p in scan.parent.iterdir()] == [scan.name]


def test_refusals_write_nothing(scan, tiny_model):
    with pytest.raises(PlanError):
        upscale_file(scan, None, request(tiny_model, scale=(0.5,)))
    constant = save(scan.with_name("constant_T1w.nii.gz"), np.full((20, 20, 10), 7))
    with pytest.raises(InputError, match="constant"):
        upscale_file(constant, None, request(tiny_model))
    assert len(list(scan.parent.iterdir())) == 2


# --- in memory


def test_volume_in_volume_out(tiny_model):
    volume = Volume(phantom().astype(np.float32), Geometry((24, 22, 10), AFFINE), "MR")
    result = upscale(volume, scale=(1, 1, 2), model=tiny_model, device="cpu")
    assert result.volume.array.shape == (24, 22, 20)
    loaded = medsr.load_model(tiny_model, device="cpu")
    again = medsr.upscale(volume, scale=(1, 1, 2), model=loaded)
    np.testing.assert_array_equal(result.volume.array, again.volume.array)
    assert result.volume.modality == "MR"


def test_volume_refusals(tiny_model):
    geometry = Geometry((24, 22, 10), AFFINE)
    array = phantom().astype(np.float32)
    array[0, 0, 0] = np.inf
    with pytest.raises(InputError, match="NaN or Inf"):
        upscale(Volume(array, geometry, "MR"), model=tiny_model)
    with pytest.raises(InputError, match="constant"):
        upscale(Volume(np.ones((24, 22, 10), np.float32), geometry, "MR"), model=tiny_model)
    with pytest.raises(InputError, match="slice_axis"):
        upscale(Volume(phantom().astype(np.float32), geometry, "MR"), slice_axis=3, model=tiny_model)


def test_degrade(scan, tmp_path):
    output = tmp_path / "coarse.nii.gz"
    grid = degrade_file(scan, output, "inplane-x2", modality="MR")
    image = nibabel.load(output)
    assert image.shape == grid.shape == (12, 11, 10)
    assert "AI SR" not in str(image.header["descrip"])
    assert np.asarray(image.dataobj).mean() == pytest.approx(phantom().mean(), rel=0.05)
    with pytest.raises(PlanError):
        degrade_file(scan, output, "inplane-x2")
    with pytest.raises(PlanError, match="input"):
        degrade_file(scan, scan, "inplane-x2", overwrite=True)
