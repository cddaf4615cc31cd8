"""Training batches: the same operators as everywhere, nothing shifted, nothing drawn twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from medsr.degradation import KINDS, along, mmse_matrices
from medsr.diffusion.conditions import FOREGROUND, estimate_noise, gradient_rms, noise_over_signal
from medsr.errors import ConfigError
from medsr.training.data import (
    Batch,
    _coloured,
    _contrast,
    _noise,
    _noisy,
    _Samples,
    batch_of_draws,
    make_batch,
    scan_of_draws,
)
from medsr.training.draws import Contrast, Draw, Source, draw_batch, draw_sample
from medsr.transforms import Degraded

CPU = torch.device("cpu")


def batch(sources, step=0, size=4, patch=48, seed=0, share=(0, 1)) -> Batch:
    return make_batch(sources, step, size=size, patch=patch, context=1, seed=seed, device=CPU, share=share)


def clean_draws(sources, many, patch=48, seed=0, accept=lambda d: True) -> list[Draw]:
    """Draws without noise, enhancement and change of contrast."""
    rng = np.random.default_rng(seed)
    found: list[Draw] = []
    while len(found) < many:
        draw = draw_sample(sources, rng, patch=patch, context=1)
        draw = replace(draw, noise=0.0, enhancement=0.0, contrast=Contrast())
        if accept(draw):
            found.append(draw)
    return found


def degraded(draws, patch=48) -> Batch:
    return batch_of_draws(draws, patch, CPU)


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


def test_processes_that_share_a_batch_make_its_samples(sources):
    """Whatever the share, sample i is the same, its noise included."""
    whole = batch(sources, size=8)
    shares = [batch(sources, size=8, share=(rank, 2)) for rank in (0, 1)]
    for name, tensor in vars(whole).items():
        interleaved = torch.stack([getattr(s, name) for s in shares], dim=1).flatten(0, 1)
        torch.testing.assert_close(interleaved, tensor, atol=1e-6, rtol=1e-5, msg=name)
    three = batch(sources, size=8, share=(2, 3))
    torch.testing.assert_close(three.u, whole.u[2::3], atol=1e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match="batch of 2 cannot be shared by 4 processes; set batch to 4"):
        batch(sources, size=2, share=(0, 4))


def test_a_batch_drawn_ahead_is_the_batch(sources):
    """Drawn first, for two steps, then made, and made twice: nothing is kept between."""
    drawn = [draw_batch(sources, s, size=4, patch=48, context=1, seed=0) for s in (0, 1)]
    for step in (1, 0, 1):
        found, expected = batch_of_draws(drawn[step], 48, CPU), batch(sources, step=step)
        for name, tensor in vars(expected).items():
            assert torch.equal(getattr(found, name), tensor), name


class Waits(TorchDispatchMode):
    """Notes operations after which a host must wait for its GPU: their result is a value, or a shape, on the host."""

    NAMES = frozenset({"_local_scalar_dense", "_linalg_check_errors", "nonzero", "masked_select", "_unique2", "equal"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        chosen_by_flags = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.NAMES or chosen_by_flags:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_host_never_waits_for_the_device(sources):
    draws = draw_batch(sources, 0, size=8, patch=48, context=1, seed=0)
    assert any(d.noise for d in draws)
    assert any(d.axes[0].resample > 1 for d in draws)
    with Waits() as waits:
        batch_of_draws(draws, 48, CPU)
    assert waits.seen == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x[:, 0] > 0],
        lambda x: x.unique(),
        torch.linalg.inv,
        lambda x: torch.linalg.solve(x, x),
    ],
)
def test_a_wait_is_noticed(wait):
    with Waits() as waits:
        wait(torch.eye(3))
    assert waits.seen


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
        np.testing.assert_array_equal(made.x[i, 0, :rows, :columns].numpy(), draw.voxels[1])
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
    draws = [mr, ct, ct]
    y = torch.zeros(3, 3, 200, 200)
    y[:, :, 100:] = 0.6
    white = 0.02 * torch.randn(2, 3, 3, 201, 201, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([white[:, :2, :, 1:, 1:], _coloured(white[:, 2:])], dim=1)
    noisy = _noisy(y, noise, _Samples.of(draws, CPU).is_ct)
    air, tissue = noisy[:, :, :99], noisy[:, :, 101:]
    assert air[0].mean().item() == pytest.approx(0.02 * np.sqrt(np.pi / 2), rel=0.02)
    assert air[0].min() >= 0
    assert [t.std().item() for t in tissue] == pytest.approx([0.02] * 3, rel=0.03)
    assert [t.mean().item() for t in tissue] == pytest.approx([0.6] * 3, abs=1e-3)
    neighbour = [np.corrcoef(t[:, :, 1:].flatten(), t[:, :, :-1].flatten())[0, 1] for t in tissue]
    assert neighbour == pytest.approx([0, 0, 0.5], abs=0.03)


def test_each_sample_has_its_own_noise(sources):
    """Of the drawn standard deviation, over all of its coarse samples, coloured or not; none where none was drawn."""
    quiet, *noisy = clean_draws(sources, 4)
    draws = [quiet, *(replace(d, noise=0.01 * i, noise_seed=i, coloured=i == 3) for i, d in enumerate(noisy, start=1))]
    noise = _noise(draws, 96, CPU)
    assert noise.shape == (2, 4, 3, 96, 96)
    assert not noise[:, 0].any()
    for i, draw in enumerate(draws[1:], start=1):
        rows, columns = (len(a.positions) for a in draw.axes)
        own = noise[:, i, :, :rows, :columns]
        assert own.std().item() == pytest.approx(0.01 * i, rel=0.1)
        assert abs(own.mean().item()) < 8 * 0.01 * i / np.sqrt(own.numel())
        assert noise[:, i].count_nonzero() == own.numel()
        neighbour = np.corrcoef(own[..., 1:].flatten(), own[..., :-1].flatten())[0, 1]
        assert neighbour == pytest.approx(0.5 if draw.coloured else 0.0, abs=0.1)


@pytest.mark.parametrize("amount", [-0.5, 0.7, 2.0])
def test_enhancement_is_that_of_the_formula(amount):
    """Against scipy's correlation; the rim of a window stays."""
    draws = clean_draws([whole_axes()], 4, patch=96, accept=lambda d: d.axes[0].resample == 1)
    plain = degraded(draws, patch=96)
    made = degraded([replace(d, enhancement=amount) for d in draws], patch=96)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for i, draw in enumerate(draws):
        rows, columns = (a.n_fine for a in draw.axes)
        x, changed = (batch.x[i, 0, :rows, :columns].numpy() for batch in (plain, made))
        expected = x + amount * (x - ndimage.correlate(x, kernel, mode="nearest"))
        inner = (slice(1, -1),) * 2
        np.testing.assert_allclose(changed[inner], np.maximum(expected, 0)[inner], atol=1e-5)
        for rim in ((0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)):
            np.testing.assert_array_equal(changed[rim], x[rim])


def test_contrast_is_that_of_the_formula():
    """Every change alone and all together, in float64 and one sample at a time; CT below air keeps its sign."""
    coil = (0.5, -0.4, 0.3, 0.9)
    contrasts = [
        Contrast(),
        Contrast(exponent=1.3),
        Contrast(inverted=True),
        Contrast(coil=coil),
        Contrast(0.8, True, coil, 1.2),
    ]
    (mr,) = clean_draws([replace(whole_axes(), modality="MR")], 1)
    (ct,) = clean_draws([replace(whole_axes(), modality="CT")], 1)
    draws = [*(replace(mr, contrast=c) for c in contrasts), replace(ct, contrast=Contrast(gain=0.95))]
    x = np.random.default_rng(0).uniform(-0.2, 1.3, (len(draws), 3, 40, 40)).astype(np.float32)
    made = _contrast(torch.from_numpy(x), _Samples.of(draws, CPU)).numpy()
    r, s = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40), indexing="ij")
    field = np.exp(np.clip(0.5 * r - 0.4 * s + 0.3 * r**2 + 0.9 * s**2, -1.1, 1.1))
    v = np.maximum(x.astype(np.float64), 0)
    expected = [
        v[0],
        v[1] ** 1.3,
        np.maximum(1.05 - v[2], 0),
        v[3] * field,
        np.maximum(1.05 - v[4] ** 0.8, 0) * field * 1.2,
        x[5] * 0.95,
    ]
    np.testing.assert_allclose(made, np.stack(expected), atol=1e-6)


def test_the_scan_shows_each_coarse_sample_where_it_lies(sources):
    """Steps as long as a coarse pixel along a scaled axis; an axis that is left alone is the estimate itself."""
    draws = clean_draws(sources, 8, accept=lambda d: d.axes[0].factor > 1.9 and d.axes[1].factor == 1)
    scan, made = scan_of_draws(draws, 48, CPU), degraded(draws)
    assert scan.shape == (8, 1, 48, 48)
    for i, draw in enumerate(draws):
        rows = int(made.mask[i, 0, :, 0].sum())
        fine = np.arange(rows) + draw.axes[0].patch_start - draw.axes[0].start
        nearest = np.abs(draw.axes[0].positions[None] - fine[:, None]).argmin(1)
        changes = np.flatnonzero(np.diff(nearest))
        shown = np.flatnonzero((scan[i, 0, :rows].diff(dim=0).abs() > 0).any(1).numpy())
        assert all(np.abs(changes - c).min() <= 1 for c in shown)  # half-way pixels go either way
        assert 0 < len(shown) <= len(changes)
        error = (scan[i, 0, :rows] - made.u[i, 1, :rows]).abs().mean()
        shifted = (scan[i, 0, :rows].roll(4, 0) - made.u[i, 1, :rows]).abs().mean()
        assert error < shifted
