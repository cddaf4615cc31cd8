"""What is drawn for a training sample: laws of every draw, and frequencies of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsr.diffusion.conditions import FOREGROUND
from medsr.errors import ConfigError
from medsr.training.draws import (
    BOX,
    GAUSS,
    HAMMING,
    MARGIN,
    MAX_FACTOR,
    SINC,
    TRIANGLE,
    Contrast,
    Draw,
    Source,
    draw_batch,
    draw_sample,
)

PATCH = 96
NATIVE = ("native", "native", "native")


def source(shape=(160, 150, 40), spacing=(1.0, 1.0, 5.0), sharpness=NATIVE, modality="MR", array=None) -> Source:
    if array is None:
        array = np.full(shape, 0.5, np.float32)
    return Source(array, spacing, sharpness, 2, modality, "someone", 1.0)


def draws(sources: Sequence[Source], many=400, seed=0, patch=PATCH) -> list[Draw]:
    rng = np.random.default_rng(seed)
    return [draw_sample(sources, rng, patch=patch, context=1) for _ in range(many)]


def test_every_draw_fits_together(sources):
    """Windows within the axis and with their margin, coarse samples inside the window, voxels for all of it."""
    for draw in draws(sources, 200, patch=64):
        assert draw.voxels.shape[0] == 3
        assert draw.voxels.dtype == np.float32
        for n, axis in zip(draw.voxels.shape[1:], draw.axes, strict=True):
            assert n == axis.source_stop - axis.source_start
            assert 0 <= axis.start <= axis.patch_start < axis.stop <= axis.n_fine
            assert axis.start in (0, axis.patch_start - MARGIN)
            assert axis.stop in (axis.n_fine, axis.patch_start + 64 + MARGIN)
            assert axis.stop - axis.start <= 64 + 2 * MARGIN
            assert axis.factor == pytest.approx(axis.n_fine / axis.n_coarse)
            assert 1 <= axis.factor <= MAX_FACTOR * 1.1
            assert axis.n_coarse >= 7
            assert (np.diff(axis.positions) == pytest.approx(axis.factor)) or len(axis.positions) == 1
            assert axis.positions[0] > -0.5
            assert axis.positions[-1] < axis.stop - axis.start - 0.5
            # the window misses no coarse sample of the axis that falls into it
            whole = (np.arange(axis.n_coarse) + 0.5) * axis.factor - 0.5 - axis.start
            inside = (whole > -0.5 + 1e-6) & (whole < axis.stop - axis.start - 0.5 - 1e-6)
            np.testing.assert_allclose(axis.positions, whole[inside])


def test_the_same_generator_gives_the_same_draw(sources):
    for one, other in zip(draws(sources, 5), draws(sources, 5), strict=True):
        np.testing.assert_array_equal(one.voxels, other.voxels)
        assert (one.noise, one.noise_seed, one.contrast) == (other.noise, other.noise_seed, other.contrast)
        assert (one.unknown, one.antialias, one.enhancement) == (other.unknown, other.antialias, other.enhancement)


@given(size=st.integers(1, 9), processes=st.integers(1, 9), step=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_processes_share_the_samples_of_a_step(size, processes, step):
    """Every sample once, by the process whose turn it is, and the same as without the others."""
    volumes = [source((40, 40, 8))]

    def seeds(share) -> list[int]:
        drawn = draw_batch(volumes, step, size=size, patch=16, context=1, seed=3, share=share)
        return [d.noise_seed for d in drawn]

    if processes > size:
        with pytest.raises(ConfigError, match=f"set batch to {processes} or more"):
            seeds((0, processes))
        return
    whole = seeds((0, 1))
    assert len(set(whole)) == len(whole) == size
    for rank in range(processes):
        assert seeds((rank, processes)) == whole[rank::processes]


def test_the_phase_of_the_coarse_grid_is_random():
    """A crop starts anywhere between two coarse samples, not at a multiple of the factor."""
    first = [
        (axis.positions[0] % axis.factor) / axis.factor
        for draw in draws([source()], 300, patch=32)
        for axis in draw.axes
        if axis.start > 0 and axis.factor > 3
    ]
    assert len(first) > 100
    assert np.histogram(first, bins=4, range=(0, 1))[0].min() > 0.15 * len(first)


def test_neighbours_lie_next_to_each_other():
    """Slices along the axis that is left out, the end slice repeated, the centre in the middle."""
    array = np.broadcast_to(np.arange(1.0, 41.0, dtype=np.float32), (60, 50, 40))
    for draw in draws([source(array=array)], 150, patch=32):
        below, middle, above = draw.voxels[:, 0, 0]
        assert (draw.voxels == draw.voxels[:, :1, :1]).all()
        assert below + above == 2 * middle or middle in (1, 40)
        assert abs(above - middle) <= 1
        # thick slices are never a target along their axis
        assert draw.neighbour * draw.axes[0].resample == pytest.approx(5.0)


def test_thin_slices_become_a_target_too():
    through = [d.neighbour * d.axes[0].resample < 1 for d in draws([source(spacing=(1.0, 1.0, 2.0))])]
    assert np.mean(through) == pytest.approx(0.5, abs=0.08)


def test_patches_hold_tissue():
    """A small body in much air: nearly every patch sees it."""
    array = np.zeros((160, 150, 30), np.float32)
    array[60:120, 40:110] = 0.6
    shares = [(d.voxels[1] > FOREGROUND).mean() > 0.15 for d in draws([source(array=array)], 100)]
    assert np.mean(shares) > 0.97


def resamples(sharpness, *, unknown: bool, modality="MR") -> np.ndarray:
    chosen = [
        d.axes[0].resample for d in draws([source(sharpness=(sharpness,) * 3, modality=modality)], 500)
        if d.unknown == unknown and (d.axes[0].factor > 1 and d.axes[1].factor > 1)
    ]  # fmt: skip
    return np.array(chosen)


def test_what_is_not_truly_sampled_is_made_coarser_before_it_is_a_target():
    """Band-limited axes almost always by 1.75, smooth ones by 1.35 more often than not, native ones at leisure."""
    limited = resamples("band-limited", unknown=False)
    assert (limited >= 1.75).mean() > 0.97
    smooth = resamples("smooth", unknown=False)
    assert (smooth >= 1.35).mean() > 0.75  # two axes, either of which may ask for it
    native = resamples("native", unknown=False)
    assert (native == 1.0).mean() == pytest.approx(0.6, abs=0.1)
    assert native.max() <= 2.6


def test_an_unknown_profile_sees_soft_sources_as_they_are_more_often():
    """Where the profile is a guess, the network must learn to leave a smooth scan alone."""
    known, unknown = (resamples("band-limited", unknown=u) for u in (False, True))
    assert (unknown == 1.0).mean() < 0.3
    assert (unknown >= 1.75).mean() < (known >= 1.75).mean()


def test_profiles():
    """Told as true when known; else told as what would be assumed: sinc in MR planes, gauss in CT planes."""
    for modality, assumed in (("MR", (SINC, 1.0)), ("CT", (GAUSS, 1.0))):
        made = draws([source(modality=modality)], 400)
        assert np.mean([d.unknown for d in made]) == pytest.approx(0.3, abs=0.07)
        kinds = set()
        for draw in made:
            for axis in draw.axes:
                if axis.factor == 1:
                    assert axis.true == axis.told == (0, 1.0)
                    continue
                kinds.add(axis.true[0])
                assert 0.6 <= axis.true[1] <= 1.4
                assert axis.told == (assumed if draw.unknown else axis.true)
                assert draw.unknown or axis.true[0] not in (TRIANGLE, HAMMING)
        assert kinds == {SINC, GAUSS, BOX, TRIANGLE, HAMMING}  # and not the kernel of blind-x2


def test_a_scan_is_sharpened_or_softened_now_and_then():
    for modality, often, low, high in (("MR", 0.3, -0.4, 1.0), ("CT", 0.5, -0.5, 2.0)):
        drawn = np.array([d.enhancement for d in draws([source(modality=modality)], 600)])
        assert (drawn != 0).mean() == pytest.approx(often, abs=0.07)
        changed = drawn[drawn != 0]
        assert low <= changed.min() < low + 0.1
        assert high - 0.2 < changed.max() <= high


def test_half_of_the_samples_are_free_of_noise():
    noise = np.array([d.noise for d in draws([source()], 600)])
    assert (noise == 0).mean() == pytest.approx(0.5, abs=0.07)
    some = noise[noise > 0]
    assert 0.002 <= some.min() < some.max() <= 0.03


def test_sources_are_drawn_by_their_weight():
    often, seldom = source(), source(modality="CT")
    object.__setattr__(seldom, "weight", 0.25)
    share = np.mean([d.source is often for d in draws([often, seldom], 500)])
    assert share == pytest.approx(0.8, abs=0.06)


def test_contrast_of_mr_is_changed_now_and_then_that_of_ct_only_in_gain():
    mr, ct = ([d.contrast for d in draws([source(modality=m)], 600)] for m in ("MR", "CT"))
    assert np.mean([c.exponent != 1 for c in mr]) == pytest.approx(0.5, abs=0.07)
    assert np.std([np.log(c.exponent) for c in mr if c.exponent != 1]) == pytest.approx(0.25, rel=0.15)
    assert np.mean([c.inverted for c in mr]) == pytest.approx(0.1, abs=0.05)
    fields = np.array([c.coil for c in mr if any(c.coil)])
    assert len(fields) / len(mr) == pytest.approx(0.4, abs=0.07)
    np.testing.assert_allclose(fields.std(0), [0.35, 0.35, 0.25, 0.25], rtol=0.2)
    assert np.std([np.log(c.gain) for c in mr]) == pytest.approx(0.2, rel=0.15)
    assert all(c == Contrast(gain=c.gain) and 0.92 <= c.gain <= 1.08 for c in ct)
    assert np.std([c.gain for c in ct]) == pytest.approx(0.16 / np.sqrt(12), rel=0.1)
