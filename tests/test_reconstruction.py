"""One pass of the model: what the networks are told, planes, slices of air, batches, sampling."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medsr.card import ModelCard, NetworkSpec
from medsr.degradation import KINDS, Degradation
from medsr.diffusion import slices
from medsr.diffusion.conditions import FEATURES, residual_features
from medsr.diffusion.model import Model
from medsr.diffusion.network import build_networks
from medsr.diffusion.sampler import SAMPLERS
from medsr.diffusion.schedule import sigmas_for
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.profile import AxisProfile
from medsr.passes import Pass
from medsr.plan import Plan, make_plan
from medsr.reconstruction import NOISY, UNKNOWN_WEIGHT, PassResult, _linear, run_pass, weight_of_consistency
from medsr.request import Request
from medsr.runner import Runner
from medsr.training.data import batch_of_draws
from medsr.training.draws import Contrast, Source, draw_sample

CARD = ModelCard(
    name="tiny",
    version="0",
    network=NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16),
    has_sampler=True,
    residual_scale=(-0.7,) + (0.0,) * (residual_features(torch.zeros(1, FEATURES)).shape[1] - 1),
)
CPU = torch.device("cpu")


def model(*, random: bool) -> Model:
    torch.manual_seed(1)
    networks = build_networks(CARD)
    for network in networks.values():
        for parameter in network.parameters():
            if random:
                torch.nn.init.normal_(parameter, 0, 0.7 * parameter[0].numel() ** -0.5)
        network.eval().requires_grad_(False)
    return Model(CARD, networks["mean"], networks["variance"], networks["sampler"], CPU)


def runner(weights: Model, shrink: int = 0) -> Runner:
    return Runner(weights, "MR", None, shrink, lambda stage, share: None)


def smooth(shape) -> torch.Tensor:
    """Normalised tissue without noise on air."""
    i, j, k = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = torch.sigmoid((0.75 - (i**2 + 1.2 * j**2 + 0.7 * k**2).sqrt()) * 12)
    return body * (0.6 + 0.15 * torch.sin(2.2 * i + 0.4) * torch.cos(1.7 * j) + 0.06 * k)


def planned(shape, spacing=(1.0, 1.0, 2.0), **fields) -> Plan:
    geometry = Geometry(shape, np.diag([*spacing, 1.0]))
    header = Header(Path("s.nii.gz"), "nifti", geometry, "float32", "MR", "test", 2)
    return make_plan(header, Request(**{"profile": "gauss:1.0"} | fields), CARD)


def one_pass(y, plan: Plan, weights: Model, step: Pass | None = None, sample=None, shrink=0) -> PassResult:
    with torch.inference_mode():
        return run_pass(y, step or plan.passes[0], plan, runner(weights, shrink), sample=sample, number=0)


# --- training and inference see the same


@pytest.mark.parametrize("kind", ["sinc", "gauss", "box"])
def test_the_networks_are_told_in_use_what_they_were_told_in_training(kind):
    """A training sample whose window is the whole axis, and a volume made of that one slice: the same estimate, the
    same conditions, the same unit of the residual. Whatever differs here, the weights were not trained for."""
    code = KINDS.index(kind)
    rng = np.random.default_rng(2)
    plane = 0.5 + rng.normal(size=(72, 60)).cumsum(0).cumsum(1) / 200
    array = np.repeat(plane[:, :, None].clip(0.15, None), 5, axis=2).astype(np.float32)
    source = Source(array, (1.0, 1.25, 4.0), ("native",) * 3, 2, "MR", "someone", 1.0)
    while True:
        draw = replace(draw_sample([source], rng, patch=96, context=1), noise=0.0, contrast=Contrast())
        scaled = [a for a in draw.axes if a.factor > 1]
        known = not draw.unknown and draw.axes[0].resample == 1
        if known and all(a.true[0] == code for a in scaled) and draw.voxels.shape[1:] == (72, 60):
            break
    batch = batch_of_draws([draw], 96, CPU)

    voxels = np.repeat(draw.voxels[1][:, :, None], 5, axis=2)
    fine = Geometry(voxels.shape, np.diag([1.0, 1.25, 4.0, 1.0]))
    coarse = fine.with_shape([a.n_coarse for a in draw.axes] + [5])
    profiles = [AxisProfile(KINDS[a.true[0]], a.true[1], "user", known=True) for a in draw.axes]
    step = Pass(coarse, fine, ((0, 1),), (profiles[0], profiles[1], AxisProfile("identity", 1.0, "", known=True)))
    A = Degradation.between(fine, coarse, step.profiles)
    y = A(torch.from_numpy(voxels)).abs()
    u, _, (told,) = _linear(y, A, step, runner(model(random=False)))
    torch.testing.assert_close(batch.u[0, 1, :72, :60], u[:, :, 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.conditions, told.conditions, atol=5e-3, rtol=0)
    expected = batch.gradient * np.exp(CARD.residual_scale[0])
    torch.testing.assert_close(told.scale, expected, rtol=5e-3, atol=0)


# --- planes, slices, batches


def test_the_estimates_of_two_planes_are_averaged():
    """Through the slice axis both planes that contain it are asked; each answers in its own unit."""
    plan = planned((16, 20, 10), scale=(1.0, 1.0, 2.0), consistency="off", uncertainty=True)
    (step,) = plan.passes
    assert step.planes == ((0, 2), (1, 2))
    y, weights = smooth((16, 20, 10)), model(random=True)
    both = one_pass(y, plan, weights)
    alone = [one_pass(y, plan, weights, replace(step, planes=(plane,))) for plane in step.planes]
    assert (alone[0].x - alone[1].x).abs().max() > 1e-3
    torch.testing.assert_close(both.x, (alone[0].x + alone[1].x) / 2, atol=1e-5, rtol=1e-4)
    # variances are averaged as logarithms
    torch.testing.assert_close(
        both.variance.log(), (alone[0].variance.log() + alone[1].variance.log()) / 2, atol=1e-3, rtol=1e-3
    )


def test_slices_of_air_are_left_to_the_linear_estimate():
    plan = planned((16, 20, 8), scale=(2.0,), consistency="off", uncertainty=True)
    y = smooth((16, 20, 8))
    y[:, :, 5:] = 0
    plain, changed = (one_pass(y, plan, model(random=random)) for random in (False, True))
    difference = (plain.x - changed.x).abs().amax((0, 1))
    assert difference[5:].max() == 0
    assert difference[1:4].min() > 1e-4
    # nothing is expected to be wrong there
    assert changed.variance[:, :, 6].max() < 1e-3 * plain.variance[:, :, 2].max()


def test_a_volume_of_air_needs_no_network():
    plan = planned((16, 20, 8), scale=(2.0,), consistency="off")
    found = one_pass(torch.zeros(16, 20, 8), plan, model(random=True))
    assert found.x.abs().max() == 0


@pytest.mark.parametrize("sample", [None, 0])
def test_smaller_batches_give_the_same_answer(monkeypatch, sample):
    plan = planned((16, 20, 9), scale=(2.0,), texture=1.0, steps=2)
    y, weights = smooth((16, 20, 9)), model(random=True)
    whole = one_pass(y, plan, weights, sample=sample).x
    monkeypatch.setitem(slices.PIXELS_AT_ONCE, "cpu", 4 * 32 * 40)
    smaller = one_pass(y, plan, weights, sample=sample, shrink=1).x
    torch.testing.assert_close(smaller, whole, atol=1e-4, rtol=1e-4)


# --- consistency


def test_how_far_the_scan_is_trusted():
    """Exactly when asked to; else less the noisier it is against what is still unknown, and less when the profile is
    a guess."""
    auto, hard = planned((16, 16, 8)), planned((16, 16, 8), consistency="hard")
    assumed = planned((16, 16, 8), profile="auto")
    known, guessed = auto.profiles, assumed.profiles
    assert all(p.known for p in known)
    assert not all(p.known for p in guessed)
    assert weight_of_consistency(hard, guessed, 0.1, 0.01) == 0
    assert weight_of_consistency(auto, known, NOISY / 2, 0.01) == 0
    assert weight_of_consistency(auto, known, 0.02, 0.04) == pytest.approx(0.25)
    assert weight_of_consistency(assumed, guessed, 0.02, 0.04) == pytest.approx(max(0.25, UNKNOWN_WEIGHT))
    assert weight_of_consistency(assumed, guessed, 0.0, 0.04) == pytest.approx(UNKNOWN_WEIGHT)
    assert np.isfinite(weight_of_consistency(auto, known, 0.02, 0.0))


# --- sampling


@pytest.mark.parametrize("sampler", ["heun", "euler", "dpmpp2m", "ancestral"])
def test_samples_of_an_untrained_network_have_the_predicted_spread(sampler):
    """Its denoiser is that of white data of unit variance, and its variance the square of the scale: so is the draw."""
    plan = planned(
        (32, 36, 6), scale=(2.0,), texture=1.0, steps=10, sampler=sampler, consistency="off", uncertainty=True
    )
    y, weights = smooth((32, 36, 6)), model(random=False)
    mean = one_pass(y, plan, weights)
    drawn = one_pass(y, plan, weights, sample=0)
    whitened = ((drawn.x - mean.x) / mean.variance.sqrt())[:, :, 1:5]
    sigmas = sigmas_for(sampler, 10)
    expected = 1.0
    if sampler != "ancestral":  # the deterministic ones multiply by a number, in ten steps not quite 1 over sigma_max
        start = torch.tensor([math.hypot(1, sigmas[0])])
        ideal = SAMPLERS[sampler](lambda x, sigma: x / (1 + sigma**2), start, sigmas, torch.randn_like)
        expected = ideal.item()
    assert expected == pytest.approx(1.0, abs=0.2)
    assert whitened.mean().abs() < 0.05
    assert whitened.std().item() == pytest.approx(expected, rel=0.05)
    inner = whitened - whitened.mean()
    for axis in (0, 1):  # white in plane
        n = inner.shape[axis] - 1
        assert (inner.narrow(axis, 1, n) * inner.narrow(axis, 0, n)).mean().abs() < 0.05


def test_samples_differ_by_number_and_not_by_repetition():
    plan = planned((16, 20, 6), scale=(2.0,), texture=1.0, steps=2)
    y, weights = smooth((16, 20, 6)), model(random=True)
    first, again, other = (one_pass(y, plan, weights, sample=number).x for number in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_every_sample_is_consistent_with_the_scan():
    plan = planned((16, 20, 6), scale=(2.0,), texture=1.0, steps=2, consistency="hard")
    y = smooth((16, 20, 6))
    drawn = one_pass(y, plan, model(random=True), sample=0).x
    A = Degradation.between(plan.target, plan.acquired, plan.profiles)
    assert (A(drawn) - y).abs().max() < 1e-3


def test_a_model_without_a_sampler_cannot_draw():
    plan = planned((16, 20, 6), scale=(2.0,))
    weights = replace(model(random=False), sampler=None)
    with pytest.raises(ValueError, match="no sampler"):
        one_pass(smooth((16, 20, 6)), plan, weights, sample=0)


def test_a_model_without_a_variance_has_unit_variance():
    plan = planned((16, 20, 6), scale=(2.0,), consistency="off", uncertainty=True)
    y, weights = smooth((16, 20, 6)), model(random=True)
    with_head, without = one_pass(y, plan, weights), one_pass(y, plan, replace(weights, variance=None))
    torch.testing.assert_close(with_head.x, without.x)
    inner = without.variance[:, :, 1:5]
    assert inner.min() == inner.max() > 0
    assert one_pass(y, planned((16, 20, 6), scale=(2.0,)), weights).variance is None  # it costs memory: kept on request


# --- bookkeeping


def test_progress_and_times_add_up():
    shares: list[float] = []
    state = Runner(model(random=False), "MR", None, 0, lambda stage, share: shares.append(share))
    state.plan_work(2)
    for _ in range(8):
        state.advance(0.25)
    assert shares == pytest.approx([0.125 * i for i in range(1, 9)])
    state.advance(0.5)
    assert shares[-1] == 1.0
    with state.clock("linear"):
        pass
    with pytest.raises(KeyError), state.clock("linear"):
        raise KeyError
    assert state.timings["linear"] > 0
