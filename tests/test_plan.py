"""From header and request to plan: grids, passes, and every refusal that needs no voxel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medsr import machine, outputs, plan
from medsr.card import ModelCard
from medsr.errors import ConfigError, InputError, JobError, PlanError
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.plan import make_plan
from medsr.request import Request

CARD = ModelCard(name="tiny", version="1", has_sampler=True, calibration={"MR": 1.0})


def header(spacing=(1.0, 1.0, 1.0), shape=(64, 60, 40), affine=None, **fields) -> Header:
    geometry = Geometry(shape, np.diag([*spacing, 1.0]) if affine is None else affine)
    values = {"dtype": "int16", "modality": "MR", "modality_evidence": "test", "slice_axis": 2} | fields
    path = values.pop("path", Path("scan.nii.gz"))
    return Header(path=path, format="nifti", geometry=geometry, **values)


def shapes(made):
    return [made.acquired.shape, *[p.target.shape for p in made.passes]]


# --- the target grid


def test_default_is_twice_in_plane():
    made = make_plan(header((1, 1, 4)), Request(), CARD)
    assert made.target.shape == (128, 120, 40)
    assert made.target.spacing == pytest.approx((0.5, 0.5, 4))
    assert [p.planes for p in made.passes] == [((0, 1),)]


def test_scalar_scale_spares_the_slice_axis_wherever_it_is():
    made = make_plan(header((4, 1, 1), shape=(20, 60, 64), slice_axis=0), Request(scale=(2.5,)), CARD)
    assert made.target.shape == (20, 150, 160)
    assert [p.planes for p in made.passes] == [((1, 2),)]


def test_three_factors_are_i_j_k():
    made = make_plan(header(), Request(scale=(1, 2, 3.3)), CARD)
    assert made.target.shape == (64, 120, 132)
    assert made.factors == pytest.approx((1, 2, 3.3))


def test_spacing_leaves_finer_axes():
    made = make_plan(header((0.5, 1, 3)), Request(spacing=(0.8,)), CARD)
    assert made.target.spacing == pytest.approx((0.5, 0.8, 0.8))
    assert made.target.shape[0] == 64


def test_isotropic_stops_at_a_sixth():
    assert make_plan(header((1, 1, 4)), Request(isotropic=True), CARD).target.spacing == pytest.approx((1, 1, 1))
    made = make_plan(header((0.5, 0.9, 6)), Request(isotropic=True), CARD)
    assert made.target.spacing == pytest.approx((0.5, 0.9, 1.0))


OBLIQUE = np.array([[-0.8, 0.3, 0.2, 11], [0.31, 0.77, -1.1, -40], [0.12, 0.35, 2.2, 5], [0, 0, 0, 1.0]])
OBLIQUE[:3, :3], _ = np.linalg.qr(OBLIQUE[:3, :3])
OBLIQUE[:3, :3] *= [0.9, 1.1, 3.0]


@given(
    shape=st.tuples(st.integers(9, 70), st.integers(9, 70), st.integers(9, 30)),
    scale=st.tuples(*[st.floats(1.0, 8.0)] * 3),
)
def test_scale_keeps_every_edge_through_all_passes(shape, scale):
    """The eight corners of the field of view stay within 1e-4 mm on the target and between passes."""
    scan = header(shape=shape, affine=OBLIQUE)
    factors = np.asarray(shape) / scan.geometry.with_scale(scale).shape
    assume(1 / 8 <= factors.min() < 1)  # after rounding to whole voxels
    made = make_plan(scan, Request(scale=scale), CARD)

    def corners(g):
        ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in g.shape], indexing="ij")).reshape(3, -1)
        return g.affine[:3, :3] @ ends + g.affine[:3, 3:]

    assert made.passes[0].source is made.acquired
    assert made.passes[-1].target is made.target
    for before, after in zip(made.passes, made.passes[1:], strict=False):
        assert after.source is before.target
    for step in made.passes:
        assert np.abs(corners(step.target) - corners(scan.geometry)).max() < 1e-4
        factor = np.asarray(step.source.spacing) / step.target.spacing
        assert factor.max() <= CARD.max_factor * 1.1  # rounding to whole voxels
        assert factor.min() > 0.999


def test_slices_first_then_in_plane():
    made = make_plan(header((1, 1, 4)), Request(scale=(2, 2, 4)), CARD)
    assert shapes(made) == [(64, 60, 40), (64, 60, 160), (128, 120, 160)]
    assert [p.planes for p in made.passes] == [((0, 2), (1, 2)), ((0, 1),)]
    first, second = made.passes
    assert [p.kind for p in first.profiles] == ["identity", "identity", "gauss"]
    assert [p.kind for p in second.profiles] == ["sinc", "sinc", "identity"]
    assert [p.kind for p in made.profiles] == ["sinc", "sinc", "gauss"]


def test_a_plane_with_few_slices_is_left_out():
    made = make_plan(header((1, 1, 4), shape=(64, 7, 40)), Request(scale=(1, 1, 4)), CARD)
    assert made.passes[0].planes == ((0, 2),)
    made = make_plan(header((1, 1, 4), shape=(5, 7, 40)), Request(scale=(1, 1, 4)), CARD)
    assert made.passes[0].planes == ((1, 2),)


def test_a_factor_above_the_models_is_split_evenly():
    made = make_plan(header((1, 1, 8)), Request(scale=(1, 1, 8)), CARD)
    assert shapes(made) == [(64, 60, 40), (64, 60, 113), (64, 60, 320)]
    assert made.passes[0].profiles[2].evidence == "assumed: MR slices as thick as they are apart"
    assert "pass before" in made.passes[1].profiles[2].evidence
    assert not made.passes[1].profiles[2].known
    assert len(make_plan(header((1, 1, 8)), Request(scale=(1, 1, 6)), CARD).passes) == 1


def test_an_exact_target_with_an_offset():
    """A reference grid that starts a quarter of a voxel later and has odd sizes: met exactly, along its own grid."""
    scan = header((1, 1, 4))
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:3, 3] = [-0.25, 0.1, -1.2]
    target = Geometry((127, 119, 159), affine)
    made = make_plan(scan, Request(target=target), CARD)
    assert made.passes[-1].target is target
    between = made.passes[0].target
    assert between.shape == (64, 60, 159)
    assert between.spacing == pytest.approx((1, 1, 1))
    assert between.affine[:3, 3] == pytest.approx([0, 0, -1.2])


def test_a_split_target_with_an_offset_keeps_the_targets_extent():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[2, 3] = -3.2
    made = make_plan(header((1, 1, 8)), Request(target=Geometry((64, 60, 321), affine)), CARD)
    between = made.passes[0].target
    assert between.shape[2] == round(321 / 8**0.5)
    low = between.affine[2, 3] - between.spacing[2] / 2
    assert low == pytest.approx(-3.7)
    assert between.field_of_view[2] == pytest.approx(321)


# --- zero-filled scans


def test_zero_filled_scan_starts_from_what_was_acquired():
    scan = header((0.5, 0.5, 1), shape=(512, 460, 20), acquired=(256, 230, None))
    made = make_plan(scan, Request(), CARD)
    assert made.acquired.shape == (256, 230, 20)
    assert made.acquired.field_of_view == pytest.approx(scan.geometry.field_of_view)
    assert made.target.shape == (1024, 920, 20)
    assert made.factors == pytest.approx((4, 4, 1))
    assert made.profiles[0].known
    assert made.profiles[0].kind == "sinc"
    off = make_plan(scan, Request(scale=(2, 2, 1), from_acquired="off"), CARD)
    assert off.acquired is scan.geometry
    assert not off.profiles[0].known
    assert off.consistency == "soft"


@pytest.mark.parametrize(("acquired", "modality"), [((512, 600, None), "MR"), ((256, 256, None), "CT")])
def test_not_zero_filled_or_not_to_become_finer(acquired, modality):
    scan = header((0.5, 0.5, 1), shape=(512, 460, 20), acquired=acquired, modality=modality)
    assert make_plan(scan, Request(), CARD).acquired is scan.geometry
    filled = header((0.5, 0.5, 1), shape=(512, 460, 20), acquired=(256, 230, None))
    assert make_plan(filled, Request(scale=(1, 1, 2)), CARD).acquired is filled.geometry


# --- consistency


@pytest.mark.parametrize(
    ("fields", "asked", "expected"),
    [
        ({}, Request(), "soft"),
        ({}, Request(profile="gauss:1.0"), "hard"),
        ({}, Request(profile="box:2"), "soft"),
        ({}, Request(profile="gauss:1.0", consistency="off"), "off"),
        ({"acquired": (64, 60, None)}, Request(), "hard"),
        ({"slice_thickness": 1.0, "acquisition_type": "2D"}, Request(scale=(1, 1, 2)), "hard"),
        ({"modality": "CT"}, Request(), "soft"),
    ],
)
def test_consistency(fields, asked, expected):
    assert make_plan(header(**fields), asked, CARD).consistency == expected


def test_hard_without_a_stable_inverse_is_refused():
    with pytest.raises(PlanError, match="no stable inverse"):
        make_plan(header(), Request(profile="box:2", consistency="hard"), CARD)


def test_hard_on_a_guess_is_warned_of():
    assert any("assumed" in w for w in make_plan(header(), Request(consistency="hard"), CARD).warnings)


# --- refusals


@pytest.mark.parametrize(
    ("fields", "asked", "kind", "text"),
    [
        ({}, Request(scale=(0.5,)), PlanError, "coarser"),
        ({}, Request(scale=(2, 2, 0.9)), PlanError, "coarser"),
        ({}, Request(scale=(1,)), PlanError, "nothing to upscale"),
        ({}, Request(spacing=(1.0,)), PlanError, "nothing to upscale"),
        ({}, Request(spacing=(3.0,)), PlanError, "nothing to upscale"),
        ({}, Request(isotropic=True), PlanError, "nothing to upscale"),
        ({}, Request(scale=(9,)), PlanError, "largest factor allowed is 8"),
        ({}, Request(spacing=(0.1,)), PlanError, r"spacing 0.125 mm"),
        ({}, Request(scale=(2, 2)), ConfigError, "one number or three"),
        ({}, Request(scale=(0,)), ConfigError, "above 0"),
        ({}, Request(spacing=(float("nan"),)), ConfigError, "finite"),
        ({}, Request(scale=(2,), isotropic=True), ConfigError, "--scale and --isotropic"),
        ({}, Request(texture=1.5), ConfigError, "texture"),
        ({}, Request(samples=0), ConfigError, "samples"),
        ({}, Request(profile="bell:1"), ConfigError, "profile"),
        ({"volumes": 30}, Request(), InputError, "--volume 0"),
        ({"volumes": 30}, Request(volume=30), PlanError, "volumes 0 to 29"),
        ({}, Request(volume=1), PlanError, "one 3-D volume"),
        ({}, Request(texture=1, steps=0), ConfigError, "1 to 1000"),
        ({}, Request(texture=1, samples=10**12), ConfigError, "1 to 1000"),
        ({}, Request(texture=1, steps=10**30), ConfigError, "1 to 1000"),
        ({}, Request(texture=1, seed=-1), ConfigError, "from 0 up"),
        ({}, Request(threads=0), ConfigError, "from 1 up"),
        ({"foreign": "a label map"}, Request(), PlanError, "label map"),
        ({"spacing": (0.05, 0.05, 0.05)}, Request(), PlanError, "--assume-spacing"),
        ({"spacing": (1, 1, 20)}, Request(), PlanError, "--assume-spacing"),
        ({"shape": (64, 64, 1)}, Request(scale=(1, 1, 2)), PlanError, "one slice"),
        ({"shape": (64, 64, 1), "spacing": (1, 1, 5)}, Request(isotropic=True), PlanError, "one slice"),
        ({"shape": (20000, 20000, 2000)}, Request(), PlanError, "memory"),
    ],
)
def test_refusals(fields, asked, kind, text):
    with pytest.raises(kind, match=text):
        make_plan(header(**fields), asked, CARD)


def test_one_slice_in_plane_is_fine():
    assert make_plan(header(shape=(64, 64, 1)), Request(), CARD).target.shape == (128, 128, 1)


def test_card_limits():
    mr_only = ModelCard(name="mr", version="1", modalities=("MR",))
    with pytest.raises(PlanError, match="CT scan"):
        make_plan(header(modality="CT"), Request(), mr_only)
    with pytest.raises(PlanError, match="no sampler"):
        make_plan(header(), Request(texture=0.5), mr_only)
    with pytest.raises(PlanError, match="no uncertainty"):
        make_plan(header(), Request(uncertainty=True), mr_only)


def test_the_user_may_call_a_foreign_file_a_scan():
    made = make_plan(header(foreign="a label map", modality=None), Request(modality="mr"), CARD)
    assert made.modality == "MR"
    assert make_plan(header(modality=None), Request(), CARD).to_json()["modality"] == "decided at read"


@pytest.mark.parametrize(
    ("affine", "shape", "text"),
    [
        (np.diag([0.5, 0.5, 2.0, 1]), (128, 120, 20), "coarser"),
        (np.diag([-0.5, 0.5, 1.0, 1]), (128, 120, 40), "against the scan"),
        (np.array([[0, 0.5, 0, 0], [0.5, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), (120, 128, 40), "rotated"),
        (np.diag([0.5, 0.5, 1.0, 1]), (64, 60, 40), "same field of view"),
        (np.array([[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0.4], [0, 0, 0, 1.0]]), (128, 120, 40), "not its voxels"),
    ],
)
def test_target_grids_that_cannot_be(affine, shape, text):
    with pytest.raises(PlanError, match=text):
        make_plan(header(), Request(target=Geometry(shape, affine)), CARD)


# --- outputs and machine


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"not read by the plan")
    return header(path=path)


def test_output_names(scan):
    output = outputs.default_output(scan.path)
    assert output.name == "scan_sr.nii.gz"
    files = outputs.output_files(output, Request(uncertainty=True, detail_map=True))
    assert {k: v.name for k, v in files.items()} == {
        "volume": "scan_sr.nii.gz",
        "sidecar": "scan_sr.json",
        "std": "scan_sr_std.nii.gz",
        "detail": "scan_sr_detail.nii.gz",
    }
    assert outputs.default_output(Path("A.B.NII.GZ")).name == "A.B_sr.nii.gz"
    assert outputs.default_output(Path("x.mgz")).name == "x_sr.nii.gz"


@pytest.mark.parametrize("name", ["out_sr.nii.gz", "out_sr.json", "out_sr_detail.nii.gz"])
def test_nothing_is_overwritten_unasked(scan, tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    asked = Request(detail_map=True)
    with pytest.raises(PlanError, match="--overwrite"):
        make_plan(scan, asked, CARD, tmp_path / "out_sr.nii.gz")
    assert make_plan(scan, asked, CARD, tmp_path / "out_sr.nii.gz", overwrite=True).output is not None


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "link.nii.gz"])
def test_output_is_never_the_input(scan, tmp_path, name):
    (tmp_path / "link.nii.gz").symlink_to(scan.path)
    with pytest.raises(PlanError, match="input"):
        make_plan(scan, Request(), CARD, tmp_path / name, overwrite=True)


@pytest.mark.parametrize(("name", "text"), [("no/such/o.nii", "does not exist"), ("o.png", "nii"), (".", "nii")])
def test_output_that_cannot_be(scan, tmp_path, name, text):
    with pytest.raises(PlanError, match=text):
        make_plan(scan, Request(), CARD, tmp_path / name)


def test_disk_short(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "available_disk", lambda folder: 1_000_000)
    with pytest.raises(PlanError, match="disk"):
        make_plan(scan, Request(), CARD, tmp_path / "o.nii.gz")


def test_read_only_folder(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(JobError, match="permission"):
        make_plan(scan, Request(), CARD, tmp_path / "o.nii.gz")


def test_machine_is_asked():
    memory = machine.available_memory()
    assert memory is not None
    assert 10_000_000 < memory < 10**14
    disk = machine.available_disk(Path.cwd())
    assert disk is not None
    assert disk > 0
    assert machine.available_disk(Path("/no/such/folder")) is None


def test_costs_grow_with_what_is_asked():
    small = make_plan(header(), Request(), CARD)
    assert small.memory_bytes == plan.FIXED_MEMORY + 6 * 4 * 128 * 120 * 40
    assert small.seconds == pytest.approx(128 * 120 * 40 * plan.SECONDS_PER_PIXEL, abs=0.06)
    assert plan.sampler_evaluations(Request(uncertainty=True)) == 0
    assert plan.sampler_evaluations(Request(texture=1, steps=10, sampler="heun")) == 19
    assert plan.sampler_evaluations(Request(texture=1, steps=10, sampler="euler", samples=3)) == 30
    many = make_plan(header(volumes=10), Request(volume="all"), CARD)
    assert many.memory_bytes > small.memory_bytes


def test_plan_is_json():
    made = make_plan(header((1, 1, 4)), Request(scale=(2, 2, 4)), CARD, None)
    text = json.dumps(made.to_json())
    back = json.loads(text)
    assert back["passes"][0]["planes"] == ["ik", "jk"]
    assert back["passes"][0]["profiles"][2]["profile"] == "gauss:1"
    assert back["request"]["scale"] == [2, 2, 4]
