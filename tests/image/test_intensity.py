"""The map of intensities: invertible, affine, fitted on the scan alone, never clipping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.image.intensity import CT_AIR_HU, Intensity, fit_intensity


def scan(seed=0, scale=1.0) -> np.ndarray:
    """Air with a little noise around tissue of 0.3 to 1."""
    rng = np.random.default_rng(seed)
    array = np.abs(rng.normal(0, 0.01, (20, 22, 18)))
    array[4:16, 4:18, 3:15] = rng.uniform(0.3, 1.0, (12, 14, 12))
    return (array * scale).astype(np.float32)


def test_ct_is_fixed():
    """Water and bone are at the same place in every scan, whatever else is in it."""
    low, high = np.full((4, 4, 4), -900, np.float32), np.full((4, 4, 4), 3000, np.float32)
    assert fit_intensity(low, "CT") == fit_intensity(high, "CT")
    np.testing.assert_allclose(
        fit_intensity(low, "CT").apply(np.array([CT_AIR_HU, 0, 976], np.float32)), [0, 0.512, 1], atol=1e-6
    )


def test_mr_tissue_fills_the_unit_and_nothing_is_clipped():
    array = scan(scale=700)
    array[8, 8, 8] = 4000  # a vessel
    intensity = fit_intensity(array, "MR")
    assert intensity.offset == 0
    assert intensity.scale == pytest.approx(700, rel=0.02)
    assert intensity.apply(array).max() == pytest.approx(4000 / intensity.scale)


def test_the_share_of_air_does_not_matter():
    array = scan(scale=500)
    wide = np.pad(array, 6)
    assert fit_intensity(wide, "MR").scale == pytest.approx(fit_intensity(array, "MR").scale, rel=0.01)


@given(scale=st.floats(1e-6, 1e6))
def test_mr_follows_the_unit_of_the_scan(scale):
    array = scan()
    whole = fit_intensity(array, "MR").apply(array)
    scaled = (array * np.float32(scale)).astype(np.float32)
    np.testing.assert_allclose(fit_intensity(scaled, "MR").apply(scaled), whole, atol=1e-4)


@given(offset=st.floats(-5000, 5000), scale=st.floats(1e-3, 1e4), value=st.floats(-2, 2))
def test_invert_undoes_apply(offset, scale, value):
    intensity = Intensity(offset, scale)
    array = np.array([offset + scale * value], np.float32)
    back = intensity.invert(intensity.apply(array))
    assert back.dtype == np.float32
    assert abs(float(back[0] - array[0])) <= 1e-6 * (abs(offset) + abs(scale * value) + scale)


def test_negative_values_start_below_zero():
    array = scan() - 0.5
    intensity = fit_intensity(array.astype(np.float32), "MR")
    assert -0.55 < intensity.offset < -0.45
    assert intensity.offset + intensity.scale == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("value", [0.0, 100.0, -3.0])
def test_a_constant_scan_has_a_finite_map(value):
    array = np.full((5, 5, 5), value, np.float32)
    intensity = fit_intensity(array, "MR")
    assert intensity.scale > 0
    assert np.isfinite(intensity.apply(array)).all()
    np.testing.assert_allclose(intensity.invert(intensity.apply(array)), value, rtol=1e-6)


def test_voxels_that_are_not_numbers_do_not_count():
    array = scan()
    holed = array.copy()
    holed[0, 0, :5] = np.nan, np.inf, -np.inf, np.nan, np.nan
    assert fit_intensity(holed, "MR").scale == pytest.approx(fit_intensity(array, "MR").scale, rel=1e-3)
