"""Training batches: the same operators as everywhere, nothing shifted, nothing drawn twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medsr.degradation import KINDS, along, mmse_matrices
from medsr.diffusion.conditions import FOREGROUND, estimate_noise, gradient_rms, noise_over_signal
from medsr.training.data import Batch, _degraded, _fine_window, _noisy, make_batch
from medsr.training.draws import Draw, Source, draw_sample
from medsr.transforms import Degraded

CPU = torch.device("cpu")


def batch(sources, step=0, size=4, patch=48, seed=0) -> Batch:
    return make_batch(sources, step, size=size, patch=patch, context=1, seed=seed, device=CPU)


def clean_draws(sources, many, patch=48, seed=0, accept=lambda d: True) -> list[Draw]:
    """Draws without noise."""
    rng = np.random.default_rng(seed)
    found: list[Draw] = []
    while len(found) < many:
        draw = replace(draw_sample(sources, rng, patch=patch, context=1), noise=0.0)
        if accept(draw):
            found.append(draw)
    return found


def degraded(draws, patch=48) -> Batch:
    x = torch.stack([_fine_window(d, CPU) for d in draws])
    return _degraded(x, draws, patch, torch.Generator().manual_seed(0))


def test_shapes_and_finite_values(sources):
    made = batch(sources)
    assert made.u.shape == (4, 3, 48, 48)
    assert made.x.shape == made.mask.shape == (4, 1, 48, 48)
    assert made.gradient.shape == (4,)
    for tensor in vars(made).values():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()
    assert set(made.mask.unique().tolist()) <= {0.0, 1.0}


def test_a_step_gives_the_same_batch_whenever_it_is_asked_for(sources):
    first = batch(sources, step=5)
    batch(sources, step=6)
    torch.manual_seed(99)
    again = batch(sources, step=5)
    for name, tensor in vars(first).items():
        assert torch.equal(tensor, getattr(again, name)), name
    assert not torch.equal(first.x, batch(sources, step=6).x)
    assert not torch.equal(first.x, batch(sources, step=5, seed=1).x)


def whole_axes() -> Source:
    """A volume whose window is the whole axis in plane, so that it can be degraded as a scan is."""
    rng = np.random.default_rng(0)
    array = 0.5 + 0.1 * rng.normal(size=(72, 60, 3)).cumsum(0).cumsum(1) / 20
    array = array.clip(0.2, None).astype(np.float32)
    return Source(array, (1.0, 1.0, 4.0), ("native",) * 3, 2, "MR", "someone", 1.0)


@pytest.mark.parametrize("kind", ["sinc", "gauss", "box"])
def test_a_sample_is_what_the_transform_and_the_linear_estimate_make(kind):
    """One batched n x n matrix an axis, in float32, against MONAI's Degraded and the estimate of single axes."""
    code = KINDS.index(kind)

    def wanted(draw: Draw) -> bool:
        return draw.axes[0].resample == 1 and not draw.unknown and any(a.true[0] == code for a in draw.axes)

    draws = clean_draws([whole_axes()], 4, patch=96, accept=wanted)
    made = degraded(draws, patch=96)
    for i, draw in enumerate(draws):
        rows, columns = (a.n_fine for a in draw.axes)
        assert (rows, columns) == draw.voxels.shape[1:]
        image = MetaTensor(torch.from_numpy(draw.voxels.transpose(1, 2, 0).copy())[None], affine=torch.eye(4))
        factors = [a.factor for a in draw.axes]
        profiles = [(KINDS[a.true[0]], a.true[1]) for a in draw.axes]
        transform = Degraded(["image"], [*factors, 1.0], [*profiles, ("identity", 1.0)])
        y = transform({"image": image})["image"].as_tensor()[0].abs()
        middle = y.permute(2, 0, 1)[None, 1:2].contiguous()
        valid = torch.ones_like(middle)
        noise = estimate_noise(middle, valid)
        ratio = noise_over_signal(middle, valid * (middle > FOREGROUND), noise, torch.tensor([factors]))
        u = y
        for axis, a in enumerate(draw.axes):
            if a.factor == 1:
                continue
            operator = next(
                A for index, A in transform_operator(factors, profiles, (rows, columns)).scaled if index == axis
            )
            ok = torch.ones(1, a.n_coarse, dtype=torch.bool)
            lam = ratio[:, axis].double()
            u = along(u, mmse_matrices(operator.matrix[None], operator.positions[None], ok, lam)[0], axis)
        difference = made.u[i, :, :rows, :columns] - u.permute(2, 0, 1)
        assert difference.abs().max() < 1e-5
        assert torch.equal(made.x[i, 0, :rows, :columns], torch.from_numpy(draw.voxels[1]))
        expected = gradient_rms(u.permute(2, 0, 1)[None, 1:2].contiguous(), torch.ones(1, 1, rows, columns))
        assert made.gradient[i].item() == pytest.approx(expected.item(), rel=1e-3)
        assert made.mask[i, 0].sum() == rows * columns


def transform_operator(factors, profiles, shape):
    from medsr.degradation import Degradation
    from medsr.image.geometry import Geometry

    fine = Geometry((*shape, 3), np.eye(4))
    coarse = fine.with_scale([*(1 / f for f in factors), 1.0])
    return Degradation.between(fine, coarse, [*profiles, ("identity", 1.0)])


def test_a_constant_volume_stays_constant():
    """Crops, resampling, every profile and the estimate: no edge of a window shows."""
    flat = [
        Source(np.full((130, 110, 40), 0.5, np.float32), (1.0, 1.0, 1.0), ("band-limited",) * 3, 2, m, "flat", 1.0)
        for m in ("MR", "CT")
    ]
    made = degraded(clean_draws(flat, 24))
    assert ((made.x - 0.5).abs() * made.mask).max() < 1e-5
    assert ((made.u - 0.5).abs() * made.mask).max() < 1e-4


def test_ramps_stay_ramps_up_to_the_edge_of_the_patch():
    """Through antialiased resampling, a local profile and the estimate; a crop of k-space rings at the axis' ends."""
    ramp = np.linspace(0.2, 1.0, 130, dtype=np.float32)[:, None, None] + np.zeros((1, 120, 40), np.float32)
    source = Source(ramp, (1.0, 1.0, 1.0), ("smooth",) * 3, 2, "CT", "ramp", 1.0)

    def local(draw: Draw) -> bool:
        return all(a.true[0] != KINDS.index("sinc") for a in draw.axes)

    made = degraded(clean_draws([source], 16, accept=local))
    assert ((made.u[:, 1:2] - made.x).abs() * made.mask).max() < 1e-3


def test_truth_and_estimate_are_aligned(sources):
    """Least-squares shift of u against x (Lucas and Kanade 1981) over every profile, factor and phase."""
    draws = clean_draws(sources, 32)
    made = degraded(draws)
    normal, right = np.zeros((2, 2)), np.zeros(2)
    for u, x in zip(made.u[:, 1].numpy(), made.x[:, 0].numpy(), strict=True):
        inner = (slice(4, -4),) * 2
        gradient = np.stack([g[inner].ravel() for g in np.gradient(u)], 1)
        own = np.linalg.lstsq(gradient, (x - u)[inner].ravel(), rcond=None)[0]
        normal += gradient.T @ gradient
        right += gradient.T @ (x - u)[inner].ravel()
        assert np.abs(own).max() < 0.5
    assert np.abs(np.linalg.solve(normal, right)).max() < 0.05


def test_an_axis_that_is_not_scaled_passes_unchanged(sources):
    draws = clean_draws(sources, 8, accept=lambda d: sum(a.factor > 1 for a in d.axes) == 1)
    made = degraded(draws)
    for i, draw in enumerate(draws):
        still = 0 if draw.axes[0].factor == 1 else 1
        # what varies along the other axis alone cannot gain anything along this one
        assert draw.axes[still].n_coarse == draw.axes[still].n_fine
        profile_x, profile_u = (t[i, 0 if t is made.x else 1].mean(1 - still) for t in (made.x, made.u))
        keep = made.mask[i, 0].mean(1 - still) > 0
        assert float((profile_x - profile_u)[keep].abs().max()) < 0.1
    unscaled = [replace(d, axes=tuple(untouched(a) for a in d.axes)) for d in draws]
    made = degraded(unscaled)
    torch.testing.assert_close(made.u[:, 1:2] * made.mask, made.x * made.mask)


def untouched(axis):
    """The same window without any scaling."""
    n = axis.stop - axis.start
    positions = np.arange(n, dtype=float)
    return replace(axis, n_coarse=axis.n_fine, factor=1.0, positions=positions, true=(0, 1.0), told=(0, 1.0))


def test_patches_that_reach_beyond_a_short_axis_are_masked():
    source = Source(np.full((40, 60, 5), 0.5, np.float32), (1.0, 1.0, 4.0), ("native",) * 3, 2, "MR", "small", 1.0)
    draws = clean_draws([source], 6, accept=lambda d: d.axes[0].resample == 1)
    made = degraded(draws)
    for i, draw in enumerate(draws):
        rows, columns = (min(48, a.n_fine) for a in draw.axes)
        assert made.mask[i].sum() == rows * columns
        assert made.mask[i, 0, :rows, :columns].min() == 1


def test_an_unknown_profile_is_inverted_as_the_assumed_one(sources):
    """The estimate is made with what is told, not with what is true."""

    def differs(draw: Draw) -> bool:
        return draw.unknown and any(a.true != a.told for a in draw.axes)

    (draw,) = clean_draws(sources, 1, accept=differs)
    as_told = replace(draw, axes=tuple(replace(a, true=a.told) for a in draw.axes))
    as_true = replace(draw, axes=tuple(replace(a, told=a.true) for a in draw.axes))
    one, told, true = (degraded([d]) for d in (draw, as_told, as_true))
    assert not torch.allclose(one.u, told.u, atol=1e-4)  # the scan is the true one's
    assert not torch.allclose(one.u, true.u, atol=1e-4)  # the estimate is not
    assert one.conditions[0, 10] == 1


def test_noise_is_rician_in_mr_and_gaussian_in_ct():
    """Mean and spread of the magnitude of complex noise in air and in tissue; CT noise has its sd, coloured or not."""
    (mr,) = clean_draws([replace(whole_axes(), modality="MR")], 1)
    (ct,) = clean_draws([replace(whole_axes(), modality="CT")], 1)
    draws = [replace(mr, noise=0.02), replace(ct, noise=0.02, coloured=False), replace(ct, noise=0.02, coloured=True)]
    y = torch.zeros(3, 3, 200, 200)
    y[:, :, 100:] = 0.6
    noisy = _noisy(y, draws, torch.Generator().manual_seed(0))
    air, tissue = noisy[:, :, :99], noisy[:, :, 101:]
    assert air[0].mean().item() == pytest.approx(0.02 * np.sqrt(np.pi / 2), rel=0.02)
    assert air[0].min() >= 0
    assert [t.std().item() for t in tissue] == pytest.approx([0.02] * 3, rel=0.03)
    assert [t.mean().item() for t in tissue] == pytest.approx([0.6] * 3, abs=1e-3)
    neighbour = [np.corrcoef(t[:, :, 1:].flatten(), t[:, :, :-1].flatten())[0, 1] for t in tissue]
    assert neighbour == pytest.approx([0, 0, 0.5], abs=0.03)
