"""Spectra against periodograms, closed forms for noise and waves, and the filter of the high-frequency error norm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from medsr.evaluation.texture import between_slice_ratio, between_slice_spectrum, hfen, spectrum_error

IN_PLANE, THROUGH = (2.0, 2.0, 1.0), (1.0, 1.0, 4.0)


def noise(shape: tuple[int, ...], seed: int = 0, sd: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=sd, size=shape)


def everywhere(array: np.ndarray) -> np.ndarray:
    return np.ones(array.shape, bool)


def wave(shape: tuple[int, ...], cycles: tuple[int, ...]) -> np.ndarray:
    """A plane wave of amplitude 1 with so many whole cycles along each axis."""
    phase = sum(np.ix_(*[c * np.arange(n) / n for c, n in zip(cycles, shape, strict=True)]))
    return np.cos(2 * np.pi * phase)


@settings(max_examples=20)
@given(
    shape=st.tuples(*[st.integers(12, 40)] * 3),
    factors=st.sampled_from([IN_PLANE, THROUGH, (3.0, 1.0, 1.0), (1.0, 4.0, 4.0), (1.97, 2.0, 2.03)]),
    scale=st.floats(0.05, 20),
)
def test_a_scaled_reference_is_wrong_by_its_scale(shape, factors, scale):
    """20 log10 of the scale in every bin, for every size, number of axes and factor: no bin is empty."""
    reference = noise(shape)
    error = spectrum_error(reference, scale * reference, mask=everywhere(reference), factors=factors)
    assert error == pytest.approx(abs(20 * np.log10(scale)), abs=1e-9)


def test_independent_noise_of_twice_the_standard_deviation():
    """Texture need not lie in the right place: only its power counts."""
    reference, prediction = noise((64, 64, 60)), noise((64, 64, 60), 1, 2.0)
    for factors in (IN_PLANE, THROUGH):
        error = spectrum_error(reference, prediction, mask=everywhere(reference), factors=factors)
        assert error == pytest.approx(20 * np.log10(2), abs=0.1)


def test_lines_equal_a_periodogram():
    """scipy's periodogram of every line, averaged, binned by hand: 24 steps of 1/64 from 1/8, Nyquist in the last."""
    reference, prediction = (ndimage.gaussian_filter(noise((9, 7, 64), seed), 0.4) for seed in (0, 1))
    window = np.sin(np.pi * (np.arange(64) + 0.5) / 64) ** 2
    spectra = []
    for volume in (reference, prediction):
        frequency, power = signal.periodogram(volume, window=window, detrend=False, return_onesided=False, axis=2)
        bins = np.minimum((np.abs(frequency) * 64).astype(int), 31)
        mean = power.mean(axis=(0, 1))
        spectra.append(np.array([mean[bins == b].mean() for b in range(8, 32)]))
    oracle = np.mean(np.abs(10 * np.log10(spectra[1] / spectra[0])))
    error = spectrum_error(reference, prediction, mask=everywhere(reference), factors=THROUGH)
    assert error == pytest.approx(oracle, abs=1e-9)


def test_only_the_band_that_the_scan_could_not_hold_counts():
    """A wave below the scan's Nyquist is not texture; above, in one bin of 16, it is (Hann reaches one step aside)."""
    reference = noise((64, 64, 20))
    mask = everywhere(reference)
    for cycles, seen in (((13, 0, 0), False), ((0, 13, 0), False), ((24, 0, 0), True), ((17, 17, 0), True)):
        prediction = reference + 0.3 * wave(reference.shape, cycles)
        error = spectrum_error(reference, prediction, mask=mask, factors=IN_PLANE)
        assert error > 0.1 if seen else error == pytest.approx(0, abs=1e-9)
    along_slices = reference + 0.3 * wave(reference.shape, (0, 0, 8))
    assert spectrum_error(reference, along_slices, mask=mask, factors=IN_PLANE) == pytest.approx(0, abs=1e-9)


def test_missing_texture_costs_sixty_decibels_and_no_more():
    reference = noise((32, 32, 8))
    mask = everywhere(reference)
    smooth = 100 + wave(reference.shape, (3, 2, 0))
    assert spectrum_error(reference, smooth, mask=mask, factors=IN_PLANE) == pytest.approx(60)
    assert spectrum_error(reference, 0 * reference, mask=mask, factors=THROUGH) == 60
    with pytest.raises(ValueError, match="no power"):
        spectrum_error(0 * reference, reference, mask=mask, factors=IN_PLANE)


def test_only_the_box_of_the_mask_is_looked_at():
    reference, prediction = noise((40, 36, 30)), noise((40, 36, 30), 1)
    box = (slice(5, 37), slice(2, 34), slice(3, 27))
    mask = np.zeros(reference.shape, bool)
    mask[5, 2, 3] = mask[36, 33, 26] = True
    inside = reference[box], prediction[box]
    expected = spectrum_error(*inside, mask=everywhere(inside[0]), factors=IN_PLANE)
    assert spectrum_error(reference, prediction, mask=mask, factors=IN_PLANE) == expected
    assert hfen(reference, prediction, mask=mask, axis=2) != hfen(*inside, mask=everywhere(inside[0]), axis=2)


@settings(max_examples=10)
@given(order=st.permutations(range(3)), flips=st.lists(st.integers(0, 2), unique=True))
def test_invariant_to_axis_order_and_flips(order, flips):
    reference, prediction = noise((20, 26, 16)), ndimage.gaussian_filter(noise((20, 26, 16), 1), 0.6)
    moved = [np.flip(a, flips).transpose(order) for a in (reference, prediction)]
    axis, factors = order.index(2), [IN_PLANE[a] for a in order]
    before = spectrum_error(reference, prediction, mask=everywhere(reference), factors=IN_PLANE)
    assert spectrum_error(*moved, mask=everywhere(moved[0]), factors=factors) == pytest.approx(before, abs=1e-9)
    before = hfen(reference, prediction, mask=everywhere(reference), axis=2)
    assert hfen(*moved, mask=everywhere(moved[0]), axis=axis) == pytest.approx(before, abs=1e-9)


def test_hfen_is_the_norm_of_the_filter_written_out():
    """The kernel as a 15 x 15 table: the Laplacian of a Gaussian of sum 1, its own mean taken off."""
    reference, prediction = 100 * noise((30, 24, 5)), 100 * noise((30, 24, 5), 1)
    mask = np.zeros(reference.shape, bool)
    mask[6:26, 4:20, 1:4] = True
    x, y = np.meshgrid(np.arange(-7, 8), np.arange(-7, 8), indexing="ij")
    gauss = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    kernel = gauss / gauss.sum() * (x**2 + y**2 - 2 * 1.5**2) / 1.5**4
    kernel -= kernel.mean()
    edges, error = (
        ndimage.correlate(volume, kernel[:, :, None], mode="reflect")[mask]
        for volume in (reference, prediction - reference)
    )
    oracle = np.linalg.norm(error) / np.linalg.norm(edges)
    assert hfen(reference, prediction, mask=mask, axis=2) == pytest.approx(oracle, rel=1e-4)


@given(scale=st.floats(-2, 3), offset=st.floats(-1000, 1000))
@settings(max_examples=20)
def test_hfen_of_a_scaled_and_shifted_reference(scale, offset):
    reference = 100 * noise((18, 17, 4))
    error = hfen(reference, scale * reference + offset, mask=everywhere(reference), axis=2)
    assert error == pytest.approx(abs(scale - 1), abs=1e-4)


def test_differences_of_white_slices_have_twice_their_variance_at_every_frequency():
    volume = noise((48, 64, 300), sd=3.0)
    spectrum = between_slice_spectrum(volume, mask=everywhere(volume), axis=2)
    assert len(spectrum.frequency) == 24
    np.testing.assert_allclose(spectrum.frequency, (np.arange(24) + 0.5) / 48)
    np.testing.assert_allclose(spectrum.power, 18, rtol=0.1)
    assert spectrum.power.mean() == pytest.approx(18, rel=0.02)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_that_changes_sign_from_slice_to_slice_lands_in_its_bin(axis):
    """Neighbours differ by twice the wave; a wave that all slices share leaves nothing."""
    others = [a for a in range(3) if a != axis]
    shape, cycles = [32, 32, 32], [0, 0, 0]
    cycles[others[0]] = 9
    shared = wave(tuple(shape), tuple(cycles))
    signs = np.where(np.arange(32) % 2, 1, -1).reshape([-1 if a == axis else 1 for a in range(3)])
    spectrum = between_slice_spectrum(signs * shared, mask=everywhere(shared), axis=axis)
    assert spectrum.frequency[spectrum.power.argmax()] == pytest.approx(9.5 / 32)
    assert between_slice_spectrum(shared, mask=everywhere(shared), axis=axis).power.max() < 1e-20


def test_flicker_shows_in_the_band_where_it_is():
    """Independent noise of equal variance doubles the power; confined above the scan's Nyquist it shows there only."""
    reference = noise((48, 48, 60))
    mask = everywhere(reference)

    def ratio(flicker: np.ndarray):
        return between_slice_ratio(reference, reference + flicker, mask=mask, axis=2, factors=IN_PLANE)

    white = ratio(noise(reference.shape, 1))
    assert (white.whole, white.fine) == pytest.approx((2, 2), rel=0.05)
    spectrum = np.fft.fft2(noise(reference.shape, 2), axes=(0, 1))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48), indexing="ij"))
    spectrum[radius < 0.25 + 3 / 48] = 0
    fine = ratio(np.fft.ifft2(spectrum, axes=(0, 1)).real)
    whole, above = radius[radius <= 0.5], radius[(radius >= 0.25) & (radius <= 0.5)]
    expected = [1 + (band >= 0.25 + 3 / 48).mean() for band in (whole, above)]
    assert (fine.whole, fine.fine) == pytest.approx(expected, rel=0.05)
    scaled = between_slice_ratio(reference, 3 * reference, mask=mask, axis=0, factors=THROUGH)
    assert (scaled.whole, scaled.fine) == pytest.approx((9, 9))


def test_integers_do_not_overflow():
    reference = (32000 * np.sign(noise((16, 16, 4)))).astype(np.int16)
    mask = everywhere(reference)
    exact = reference.astype(float)
    for metric in (
        lambda a, b: hfen(a, b, mask=mask, axis=2),
        lambda a, b: between_slice_ratio(a, b, mask=mask, axis=2, factors=IN_PLANE).fine,
        lambda a, b: spectrum_error(a, b, mask=mask, factors=IN_PLANE),
    ):
        assert metric(reference, -reference) == pytest.approx(metric(exact, -exact))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((16, 16, 5))}, "one shape"),
        ({"mask": np.zeros((16, 16, 4), bool)}, "empty"),
        ({"factors": (1.0, 1.0, 1.0)}, "above 1"),
        ({"mask": np.pad(np.ones((2, 2, 2), bool), ((0, 14), (0, 14), (0, 2)))}, "no frequency"),
    ],
)
def test_refusals(change, message):
    reference = noise((16, 16, 4))
    given = {"prediction": reference, "mask": everywhere(reference), "factors": IN_PLANE} | change
    with pytest.raises(ValueError, match=message):
        spectrum_error(reference, given.pop("prediction"), **given)


def test_what_has_no_scale_is_refused():
    flat = np.ones((16, 16, 4))
    with pytest.raises(ValueError, match="flat"):
        hfen(flat, noise(flat.shape), mask=everywhere(flat), axis=2)
    with pytest.raises(ValueError, match="do not differ"):
        between_slice_ratio(flat, noise(flat.shape), mask=everywhere(flat), axis=2, factors=IN_PLANE)
    with pytest.raises(ValueError, match="above 1"):
        between_slice_ratio(flat, flat, mask=everywhere(flat), axis=2, factors=THROUGH)
    with pytest.raises(ValueError, match="one slice"):
        between_slice_spectrum(flat, mask=everywhere(flat) & (np.arange(4) == 1), axis=2)
