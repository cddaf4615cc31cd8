"""``reconstruct`` as a whole: laws that hold for any weights, and exact results of an untrained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from medsr.card import DEFAULT_MODEL, ModelCard, NetworkSpec, list_models
from medsr.degradation import Degradation, linear_mmse
from medsr.diffusion import slices
from medsr.diffusion.conditions import FEATURES, residual_features
from medsr.diffusion.model import Model, load_model, named_tensors, save_model
from medsr.diffusion.network import build_networks
from medsr.engine import Result, reconstruct, total_operator
from medsr.errors import InputError
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.volume import Volume
from medsr.plan import Plan, make_plan
from medsr.request import Request

SHAPE = (24, 28, 20)
SPACING = (1.0, 1.0, 2.5)
REGRESSORS = residual_features(torch.zeros(1, FEATURES)).shape[1]
CARD = ModelCard(
    name="tiny",
    version="0",
    network=NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16),
    has_sampler=True,
    residual_scale=(0.0,) * REGRESSORS,
    calibration={"MR": 1.0, "CT": 1.0},
)


def model(path: Path, *, random: bool, card: ModelCard = CARD) -> Model:
    """A model from its file: untrained, whose answer is zero, or with random weights in every layer."""
    torch.manual_seed(0)
    networks = build_networks(card)
    if random:
        for network in networks.values():
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, 0, 0.7 * parameter[0].numel() ** -0.5)
    save_model(path, card, named_tensors(networks))
    return load_model(path)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Model:
    return model(tmp_path_factory.mktemp("m") / "untrained.safetensors", random=False)


@pytest.fixture(scope="module")
def random(tmp_path_factory) -> Model:
    return model(tmp_path_factory.mktemp("m") / "random.safetensors", random=True)


def smooth(shape=SHAPE) -> np.ndarray:
    """Tissue of slowly varying signal on air, soft-edged and free of noise; 0 to about 800."""
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = 1 / (1 + np.exp((np.sqrt(i**2 + 1.2 * j**2 + 0.7 * k**2) - 0.75) * 12))
    return (body * (600 + 150 * np.sin(2.2 * i + 0.4) * np.cos(1.7 * j) + 60 * k)).astype(np.float32)


def textured(shape=SHAPE, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    detail = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    return (smooth(shape) * (1 + 0.8 * detail)).clip(0).astype(np.float32)


def volume(array: np.ndarray, spacing=SPACING, modality="MR") -> Volume:
    affine = np.eye(4)
    turn = np.linalg.qr(np.array([[1.0, 0.1, 0.05], [-0.1, 1.0, 0.2], [0.0, -0.2, 1.0]]))[0]
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -20.0, 13.0, 4.0
    return Volume(np.asarray(array, np.float32), Geometry(array.shape, affine), modality)


def planned(scan: Volume, model: Model, *, slice_axis: int = 2, **fields) -> Plan:
    header = Header(Path("s.nii.gz"), "nifti", scan.geometry, "float32", scan.modality, "test", slice_axis)
    return make_plan(header, Request(**{"profile": "gauss:1.0", "device": "cpu"} | fields), model.card)


def upscaled(scan: Volume, model: Model, **fields) -> Result:
    return reconstruct(scan, planned(scan, model, **fields), model)


def ramp(geometry: Geometry) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
    position = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    return position @ [3.0, -2.0, 1.5] + 500.0


# --- the untrained network: the linear estimate, made consistent


@pytest.mark.parametrize("profile", ["gauss:1.0", "box:1.0", "sinc"])
def test_an_untrained_network_leaves_the_linear_estimate(untrained, profile):
    scan = volume(smooth())
    found = upscaled(scan, untrained, profile=profile, scale=(2.0,))
    A = total_operator(found.plan)
    y = torch.from_numpy(scan.array).double()
    u = linear_mmse(y, A, 1e-4)  # free of noise: the least noise that is allowed for
    expected = u + A.pinv(y - A(u))
    assert found.volume.array.shape == (48, 56, 20)
    assert np.abs(found.volume.array - expected.numpy()).max() < 1e-3 * scan.array.max()


@pytest.mark.parametrize("scale", [(2.0,), (1.0, 1.0, 4.0), (2.0, 1.7, 2.0), (1.0, 3.3, 1.0)])
@pytest.mark.parametrize("profile", ["gauss:1.0", "box:1.0"])
def test_constants_and_ramps_come_back(untrained, scale, profile):
    """To the very edge, through every pass, to 1e-3 of the range."""
    flat = volume(np.full(SHAPE, 250.0))
    found = upscaled(flat, untrained, scale=scale, profile=profile).volume.array
    assert np.abs(found - 250).max() < 0.01
    scan = volume(ramp(flat.geometry))
    result = upscaled(scan, untrained, scale=scale, profile=profile)
    expected = ramp(result.plan.target)
    assert np.abs(result.volume.array - expected).max() < 1e-3 * np.ptp(expected)


def test_spacing_that_moves_the_grid_keeps_ramps_where_they_are(untrained):
    scan = volume(ramp(volume(np.zeros(SHAPE)).geometry))
    result = upscaled(scan, untrained, spacing=(0.7,))
    assert result.plan.target.spacing == pytest.approx((0.7, 0.7, 0.7))
    expected = ramp(result.volume.geometry)
    assert np.abs(result.volume.array - expected).max() < 1e-3 * np.ptp(expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 2), (1, 2)])
def test_turning_the_scan_turns_the_result(untrained, order, flips):
    """Array and affine permuted and mirrored together: the same volume in space, whatever the axis order."""
    scan = volume(smooth())
    whole = upscaled(scan, untrained, spacing=(0.6, 0.5, 1.25))
    spacing = tuple((0.6, 0.5, 1.25)[a] for a in order)
    turned = upscaled(turn(scan, order, flips), untrained, slice_axis=order.index(2), spacing=spacing)
    expected = turn(whole.volume, order, flips)
    assert turned.volume.geometry.same_grid(expected.geometry)
    assert np.abs(turned.volume.array - expected.array).max() < 1e-4 * scan.array.max()


def turn(scan: Volume, order, flips) -> Volume:
    """Axis ``order[a]`` becomes axis a, then some axes run backwards; every voxel stays where it is in space."""
    array, affine = scan.array.transpose(order), scan.geometry.affine.copy()
    affine[:, :3] = affine[:, list(order)]
    for axis in flips:
        array = np.flip(array, axis)
        affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
        affine[:, axis] *= -1
    return Volume(np.ascontiguousarray(array), Geometry(array.shape, affine), scan.modality)


# --- any network


@pytest.mark.parametrize("texture", [0.0, 1.0])
@pytest.mark.parametrize(
    ("scale", "profile"),
    [
        ((2.0,), "sinc"),
        ((4.0,), "gauss:1.0"),
        ((1.0, 1.0, 4.0), "box:1.0"),
        ((2.0, 1.7, 3.0), "gauss:0.8"),
        ((2.0, 2.0, 2.0), "sinc"),
    ],
)
def test_certificate_of_hard_consistency(untrained, random, scale, profile, texture):
    """Degraded again, the result is the scan to 1e-3, whatever the weights say."""
    scan = volume(textured())
    for weights in (untrained, random):
        found = upscaled(
            scan, weights, scale=scale, profile=profile, consistency="hard", texture=texture, steps=2, sampler="euler"
        )
        assert found.certificate.residual < 1e-3
        assert found.certificate.consistency == "hard"
        assert found.volume.array.dtype == np.float32


def test_random_weights_change_the_result_and_off_leaves_the_scan_alone(untrained, random):
    scan = volume(textured())
    plain, changed = (upscaled(scan, weights, consistency="off") for weights in (untrained, random))
    assert np.abs(plain.volume.array - changed.volume.array).max() > 10
    assert changed.certificate.residual > 1e-2


def test_soft_consistency_lies_between(random):
    """With an assumed profile the scan is followed, but not to the last digit."""
    scan = volume(textured())
    residual = {
        kind: upscaled(scan, random, profile="auto", consistency=kind).certificate.residual
        for kind in ("hard", "soft", "off")
    }
    assert residual["hard"] < 1e-3 < residual["soft"] < residual["off"]


def test_the_same_seed_gives_the_same_bytes(random):
    scan = volume(textured((16, 18, 8)))
    options = {"texture": 1.0, "steps": 2}
    one, again, other = (upscaled(scan, random, seed=seed, **options).volume.array for seed in (3, 3, 4))
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()
    assert (
        upscaled(scan, random, seed=3).volume.array.tobytes() == upscaled(scan, random, seed=4).volume.array.tobytes()
    )


def test_texture_is_the_way_from_the_mean_to_the_sample(random):
    scan = volume(textured((16, 18, 8)))
    mean, half, sample = (upscaled(scan, random, texture=t, steps=2).volume.array for t in (0.0, 0.5, 1.0))
    assert np.abs(sample - mean).max() > 1
    np.testing.assert_allclose(half, mean + 0.5 * (sample - mean), atol=1e-3 * np.abs(sample).max())


def test_padding_of_ct_is_restored_and_hounsfield_units_are_whole(random):
    """Values below air are no signal: they neither ring into the patient nor get lost."""
    array = smooth() - 1024
    array = np.where(smooth() > 20, array, -1024).astype(np.float32)
    padded = np.where(array == -1024, np.float32(-2048), array)
    plain, found = (upscaled(volume(a, modality="CT"), random, profile="auto", scale=(2.0,)) for a in (array, padded))
    result = found.volume.array
    outside = np.repeat(np.repeat(array == -1024, 2, axis=0), 2, axis=1)
    assert 0.2 < outside.mean() < 0.8
    assert (result[outside] == -2048).all()
    assert (result[~outside] > -2048).all()
    np.testing.assert_array_equal(result, np.rint(result))
    np.testing.assert_array_equal(result[~outside], plain.volume.array[~outside])
    assert found.certificate.residual_hu is not None


def test_standard_deviation_is_the_predicted_one(tmp_path):
    """An untrained head says variance 1 of the normalised residual: one scale of the residual everywhere in tissue."""
    scan = volume(smooth())
    found = []
    for factor in (1.0, 1.5):
        card = CARD.model_copy(update={"calibration": {"MR": factor}})
        weights = model(tmp_path / f"{factor}.safetensors", random=False, card=card)
        found.append(upscaled(scan, weights, uncertainty=True, scale=(2.0,)).std)
    one, other = (std.array[:, :, 8:12] for std in found)
    assert one.min() == pytest.approx(one.max())
    assert 0 < one.max() < 200
    np.testing.assert_allclose(other, 1.5 * one, rtol=1e-5)
    assert found[0].geometry.shape == (48, 56, 20)


def test_uncertainty_of_several_samples(random):
    scan = volume(textured((16, 18, 8)))
    result = upscaled(scan, random, uncertainty=True, samples=2, steps=2, sampler="euler")
    assert result.std.array.max() > 0
    assert np.isfinite(result.std.array).all()
    assert result.evaluations == 1 + 2 * (1 + 2)
    # the volume itself is the mean: texture is 0
    mean = upscaled(scan, random).volume.array
    np.testing.assert_array_equal(result.volume.array, mean)


def test_detail_map_is_what_the_scan_does_not_determine(random):
    scan = volume(textured())
    result = upscaled(scan, random, detail_map=True, scale=(2.0,))
    A = total_operator(result.plan)
    detail = torch.from_numpy(result.detail.array)
    assert A(detail).abs().max() < 1e-3 * scan.array.max()
    rest = torch.from_numpy(result.volume.array) - detail
    assert (A.pinv(A(rest)) - rest).abs().max() < 1e-2 * scan.array.max()
    assert upscaled(scan, random, scale=(2.0,)).detail is None


def test_what_the_result_tells(random):
    scan = volume(textured((16, 18, 8)))
    shares: list[tuple[str, float]] = []
    plan = planned(scan, random, scale=(2.0, 2.0, 2.0))
    result = reconstruct(scan, plan, random, progress=lambda stage, share: shares.append((stage, share)))
    assert result.volume.geometry.same_grid(plan.target)
    assert (result.device, result.threads) == ("cpu", torch.get_num_threads())
    assert result.dtype in ("float32", "bfloat16", "float16")
    assert {"linear", "network", "consistency", "finish"} <= set(result.timings)
    (step,) = result.volume.provenance.steps
    assert step["step"] == "super-resolution"
    assert step["model"] == "tiny"
    assert step["model_sha256"] == random.card.sha256
    assert step["seed"] is None  # nothing is drawn for the mean
    values = [share for _, share in shares]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1.0)
    assert result.evaluations == 3  # two planes contain the slice axis, one is the scan's own


def test_volumes_of_one_file_share_their_map_of_intensities(untrained):
    first, second = volume(smooth()), volume(0.5 * smooth())
    one = upscaled(first, untrained)
    plan = planned(second, untrained)
    shared = reconstruct(second, plan, untrained, intensity=one.intensity)
    assert shared.intensity == one.intensity
    assert reconstruct(second, plan, untrained).intensity.scale == pytest.approx(one.intensity.scale / 2, rel=1e-3)


def test_a_volume_on_another_grid_is_refused(untrained):
    scan = volume(smooth())
    plan = planned(scan, untrained)
    moved = scan.geometry.affine.copy()
    moved[0, 3] += 0.5
    with pytest.raises(InputError, match="not on the grid"):
        reconstruct(replace(scan, geometry=Geometry(SHAPE, moved)), plan, untrained)


def test_the_operator_of_a_plan_skips_the_passes_between(untrained):
    scan = volume(smooth((16, 18, 8)))
    plan = planned(scan, untrained, scale=(2.0, 2.0, 7.0))
    assert len(plan.passes) == 3
    A = total_operator(plan)
    assert isinstance(A, Degradation)
    assert A(torch.zeros(plan.target.shape)).shape == scan.array.shape


# --- the packaged weights


def test_tiles_answer_as_whole_slices(monkeypatch, untrained):
    """With the packaged weights: the difference is under 1 % of what the network adds, by root mean square."""
    if DEFAULT_MODEL not in list_models():
        pytest.skip(f"the package holds no weights {DEFAULT_MODEL} yet")
    sample = Path(__file__).parent.parent / "sample_data" / "head_coarse.nii.gz"
    array = np.asarray(nibabel.load(sample).dataobj, np.float32)
    middle = array.shape[2] // 2
    copies = -(-420 // array.shape[0])
    row = np.concatenate([array[:, :, middle + i - copies // 2] for i in range(copies)])[:, :96]
    scan = volume(np.repeat(row[:, :, None], 2, axis=2), spacing=(1.0, 1.0, 4.0))
    weights = load_model(DEFAULT_MODEL)
    whole = upscaled(scan, weights, scale=(2.0,)).volume.array
    assert whole.shape[0] > slices.TILE + slices.TILE_OVERLAP
    added = whole - upscaled(scan, untrained, scale=(2.0,)).volume.array
    monkeypatch.setattr(slices, "MAX_SLICE_PIXELS", 1)
    tiled = upscaled(scan, weights, scale=(2.0,)).volume.array
    assert np.sqrt(np.mean((tiled - whole) ** 2)) < 0.01 * np.sqrt(np.mean(added**2))
    assert not np.array_equal(tiled, whole)
