"""The report of one run: what it states is what the files hold, it states no closeness to a truth, and it is written
by the rules of all outputs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import nibabel
import numpy as np
import pytest

from medsr.engine import Result
from medsr.errors import PlanError
from medsr.image.geometry import Geometry
from medsr.image.nifti import read
from medsr.image.volume import Provenance, Volume
from medsr.outputs import REPORT_DISK, output_files
from medsr.page import scan as page_scan
from medsr.page.scan import scan_report
from medsr.request import Request
from medsr.run import plan_file, upscale_file

SHAPE = (28, 24, 10)


def saved(path, shape=SHAPE, *, ct=False):
    """A ball in noise on an oblique grid."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[:3]], indexing="ij"), axis=-1)
    image = (np.square(grid / 0.8).sum(-1) < 1) * 500.0 + rng.normal(40, 5, shape[:3])
    image = image - 1000 if ct else image
    if len(shape) == 4:
        image = np.stack([image * (1 + t) for t in range(shape[3])], axis=-1)
    affine = np.array([[0, 0.98, 0.2, -20], [-1, 0.05, 0, 10], [0.1, -0.2, 3.9, -30], [0, 0, 0, 1.0]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * [1.0, 1.0, 4.0]
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), path)
    return path


def words(html):
    shown = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]+>", " ", shown)))


@pytest.fixture
def mr(tmp_path):
    return saved(tmp_path / "sub-01_T1w.nii.gz")


def request(tiny_model, **options):
    return Request(model=str(tiny_model), device="cpu", threads=1, report=True, **options)


def test_it_states_what_the_files_hold(mr, tiny_model):
    done = upscale_file(mr, None, request(tiny_model, uncertainty=True, detail_map=True))
    html = done.files["report"].read_text()
    text = words(html)
    assert done.files["report"].name == "sub-01_T1w_sr.html"
    assert done.sidecar["files"]["report"] == "sub-01_T1w_sr.html"
    certificate = done.sidecar["certificate"]["residual"]
    assert f"{100 * certificate:.3g} % of the scan's standard deviation" in text
    assert f"certificate {certificate:.3g}:" in text
    assert "28 x 24 x 10 voxels of 1 x 1 x 4 mm" in text
    assert "56 x 48 x 10 voxels of 0.5 x 0.5 x 4 mm" in text
    assert done.plan.model_sha256 in text
    assert done.sidecar["provenance"]["sha256"] in text
    for line in done.sidecar["warnings"]:
        assert line in text
    for evidence in {p["evidence"] for p in done.sidecar["profiles"].values() if p["profile"] != "identity"}:
        assert evidence in text
    facts = json.loads(re.search(r'class="facts">(.*?)</script>', html)[1])
    assert [p["name"] for p in facts["pictures"]] == ["scan", "cubic", "medsr", "std", "detail"]
    assert [o["name"] for o in facts["overlays"]] == ["difference", "std", "detail"]


def test_the_stated_deviation_is_that_of_the_foreground(mr, tiny_model):
    done = upscale_file(mr, None, request(tiny_model, uncertainty=True))
    std = nibabel.load(done.files["std"]).get_fdata()
    scan = nibabel.load(mr).get_fdata()
    inside = np.repeat(np.repeat(scan > 250, 2, 0), 2, 1)
    shown = re.search(
        r"stated deviation median ([\d.]+), 95th percentile ([\d.]+)", words(done.files["report"].read_text())
    )
    assert float(shown[1]) == pytest.approx(np.median(std[inside]), rel=0.05)
    assert float(shown[2]) == pytest.approx(np.percentile(std[inside], 95), rel=0.05)


def test_it_claims_no_closeness_to_a_truth(mr, tiny_model):
    text = words(upscale_file(mr, None, request(tiny_model)).files["report"].read_text())
    assert "PSNR" not in text
    assert "SSIM" not in text
    assert "There is no reference" in text
    for honesty in ("Research use only, not for diagnosis", "AI SR, not acquired", "Limits"):
        assert honesty in text
    assert "not asked for (--uncertainty)" in text


def test_ct_is_in_hu(tmp_path, tiny_model):
    scan = saved(tmp_path / "x_ct.nii.gz", ct=True)
    text = words(upscale_file(scan, None, request(tiny_model, uncertainty=True)).files["report"].read_text())
    assert re.search(r"standard deviation \([\d.e-]+ HU\)", text)
    assert re.search(r"95th percentile [\d.]+ HU", text)


def test_of_many_volumes_it_shows_the_first(tmp_path, tiny_model):
    scan = saved(tmp_path / "x_bold.nii.gz", (*SHAPE, 2))
    text = words(upscale_file(scan, None, request(tiny_model, volume="all")).files["report"].read_text())
    assert "This page shows the first of 2 volumes" in text


def test_texture_is_named(mr, tiny_model):
    html = upscale_file(mr, None, request(tiny_model, texture=0.5, steps=2)).files["report"].read_text()
    assert "texture 0.5, of which the finest detail is one of many possible" in words(html)
    assert "medsr, texture 0.5" in html


def test_a_page_that_exists_is_refused_before_anything_is_done(mr, tiny_model):
    page = mr.with_name("sub-01_T1w_sr.html")
    page.write_text("precious")
    with pytest.raises(PlanError, match=r"sub-01_T1w_sr\.html exists"):
        plan_file(mr, None, request(tiny_model))
    with pytest.raises(PlanError):
        upscale_file(mr, None, request(tiny_model))
    assert sorted(p.name for p in mr.parent.iterdir()) == ["sub-01_T1w.nii.gz", "sub-01_T1w_sr.html"]
    upscale_file(mr, None, request(tiny_model), overwrite=True)
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert not [p for p in mr.parent.iterdir() if p.name.startswith(".medsr")]


def test_no_page_without_being_asked(mr, tiny_model):
    asked = replace(request(tiny_model), report=False)
    assert "report" not in output_files(mr.with_name("y.nii.gz"), asked)
    upscale_file(mr, None, asked)
    assert not mr.with_name("sub-01_T1w_sr.html").exists()


def test_a_disk_that_is_too_small_for_the_page_is_noticed(mr, tiny_model, monkeypatch):
    plan_file(mr, None, request(tiny_model))
    monkeypatch.setattr("medsr.outputs.available_disk", lambda folder: REPORT_DISK)
    with pytest.raises(PlanError, match="disk"):
        plan_file(mr, None, request(tiny_model))


def test_a_name_is_no_code(tmp_path, tiny_model):
    scan = saved(tmp_path / "<script>alert(1)<!--_T1w.nii.gz")
    html = upscale_file(scan, None, request(tiny_model)).files["report"].read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;!--_T1w.nii.gz" in html


def large_result(mr, tiny_model, shape):
    """A result of that size without a run: noise, which packs worst, on the grid of a scan half as fine in plane."""
    done = upscale_file(mr, None, request(tiny_model, uncertainty=True, detail_map=True))
    rng = np.random.default_rng(0)
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    target = Geometry(shape, affine)
    source = target.with_shape((shape[0] // 2, shape[1] // 2, shape[2]))

    def noise(grid):
        return Volume(rng.normal(500, 100, grid.shape).astype(np.float32), grid, "MR", Provenance("x", "0"))

    plan = replace(done.plan, source=source, acquired=source, target=target)
    result: Result = replace(done.result, plan=plan, volume=noise(target), std=noise(target), detail=noise(target))
    return noise(source), result, done.sidecar


def test_a_large_volume_is_cut_and_the_page_says_so(mr, tiny_model):
    scan, result, sidecar = large_result(mr, tiny_model, (512, 512, 40))
    html = scan_report(scan, result, sidecar)
    assert len(html) < 15e6
    size = re.search(r"The middle (\d+) x (\d+) x (\d+) of 512 x 512 x 40 voxels, at full resolution", words(html))
    assert size is not None
    facts = json.loads(re.search(r'class="facts">(.*?)</script>', html)[1])
    assert facts["shape"] == [int(n) for n in size.groups()]


def test_the_scan_is_shown_where_it_lies(mr, tiny_model):
    """The crop of the scan, interpolated onto the crop of the grid, is the crop of the interpolated scan."""
    scan, result, _ = large_result(mr, tiny_model, (40, 36, 12))
    target = result.plan.target
    whole = page_scan._resampled(scan, target, (slice(0, 40), slice(0, 36), slice(0, 12)), "cubic")
    crop = (slice(7, 31), slice(3, 30), slice(5, 6))
    np.testing.assert_allclose(page_scan._resampled(scan, target, crop, "cubic"), whole[crop], rtol=1e-4, atol=1e-2)


def test_in_the_browser(browser, mr, tiny_model):
    from selenium.webdriver.support.ui import WebDriverWait

    done = upscale_file(mr, None, request(tiny_model, uncertainty=True, detail_map=True))
    page = done.files["report"]
    browser.open(page)
    host = browser.driver.find_element("css selector", ".viewer")
    browser.driver.execute_script("arguments[0].scrollIntoView()", host)
    WebDriverWait(browser.driver, 60).until(lambda d: d.execute_script("return Boolean(arguments[0].viewer)", host))
    index = "const v = arguments[0].viewer, [nx, ny] = v.facts.shape, p = v.pictures.get('medsr');"
    value = browser.driver.execute_script(f"{index} return p.offset + p.step * p.values[20 + nx * (15 + ny * 4)]", host)
    made = nibabel.as_closest_canonical(nibabel.load(done.files["volume"]))
    left_posterior = np.asarray(made.dataobj)[::-1, ::-1]
    step = browser.driver.execute_script(f"{index} return p.step", host)
    assert value == pytest.approx(float(left_posterior[20, 15, 4]), abs=0.51 * step)
    assert browser.errors() == []
    assert set(browser.requests()) == {page.as_uri()}
    assert read(mr).modality == "MR"
