from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medsr.image.foreground import foreground


def literal(array: np.ndarray, modality: str, slice_axis: int) -> np.ndarray:
    """The protocol's words with scipy's own morphology, one slice at a time."""
    mask = array > (-500 if modality == "CT" else 0.1 * np.percentile(array, 99))
    mask = ndimage.binary_closing(np.pad(mask, 6), iterations=3)[6:-6, 6:-6, 6:-6]
    labels, count = ndimage.label(mask)
    mask = labels == 1 + np.argmax([np.sum(labels == n) for n in range(1, count + 1)])
    slices = [ndimage.binary_fill_holes(s) for s in np.moveaxis(mask, slice_axis, 0)]
    return np.moveaxis(np.stack(slices), 0, slice_axis)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(3, 22)] * 3),
    slice_axis=st.integers(0, 2),
    modality=st.sampled_from(["MR", "CT"]),
)
def test_equals_the_literal_definition(seed: int, shape: tuple[int, int, int], slice_axis: int, modality: str) -> None:
    rng = np.random.default_rng(seed)
    array = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    array = 2000 * (array - array.mean()) / array.std() - 900
    np.testing.assert_array_equal(foreground(array, modality, slice_axis), literal(array, modality, slice_axis))


def test_lungs_count_though_the_airway_opens_them() -> None:
    """A tube of air from lung to the first slice is a hole of each slice but not a hole of the volume."""
    ct = np.full((40, 40, 30), -1000.0)
    ct[5:35, 5:35, :] = 40
    ct[10:30, 10:30, 5:25] = -850
    ct[18:24, 18:24, :6] = -1000
    expected = np.zeros(ct.shape, bool)
    expected[5:35, 5:35, :] = True
    np.testing.assert_array_equal(foreground(ct, "CT", 2), expected)
    assert not foreground(ct, "CT", 0)[20, 20, 0], "across another axis the same tube is open to the outside"


def test_the_table_below_the_patient_is_dropped() -> None:
    ct = np.full((40, 40, 12), -1000.0)
    ct[8:32, 15:38, :] = 30
    ct[4:36, 2:4, :] = 100
    mask = foreground(ct, "CT")
    assert mask[8:32, 15:38].all()
    assert not mask[:, :5].any()


def test_the_volume_edge_erodes_nothing() -> None:
    assert foreground(np.full((8, 9, 5), 100.0), "CT").all()


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_nothing_above_the_threshold_is_all_foreground(modality: str) -> None:
    assert foreground(np.full((6, 7, 8), -2000.0), modality).all()


def test_mr_is_invariant_to_gain() -> None:
    rng = np.random.default_rng(3)
    mr = np.abs(ndimage.gaussian_filter(rng.normal(size=(30, 30, 20)), 3))
    np.testing.assert_array_equal(foreground(mr, "MR"), foreground(mr * 1234.5, "MR"))
