"""Mean error of CT numbers by tissue: offsets come back, noise does not bias the classes."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy import ndimage

from medsr.evaluation.bias import CLASSES, Tissues, hu_bias
from medsr.image.foreground import foreground

TISSUES = {"lung": -800.0, "fat": -100.0, "soft": 40.0, "bone": 600.0}


def body(*, noise: float = 0.0, shape=(120, 40, 6), slice_axis: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Bands of each tissue along the first axis, 30 pixels wide, and the same with noise of so many HU."""
    exact = np.repeat(list(TISSUES.values()), shape[0] // 4)[:, None, None] * np.ones(shape)
    noisy = exact + np.random.default_rng(0).normal(scale=noise, size=shape)
    return np.moveaxis(exact, 2, slice_axis), np.moveaxis(noisy, 2, slice_axis)


def everywhere(array: np.ndarray) -> np.ndarray:
    return np.ones(array.shape, bool)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_the_offset_of_each_class_is_recovered(slice_axis):
    exact, noisy = body(noise=20, slice_axis=slice_axis)
    offsets = {"lung": 12.0, "fat": -7.0, "soft": 3.5, "bone": -40.0}
    prediction = noisy.copy()
    for name, value in TISSUES.items():
        prediction[exact == value] += offsets[name]
    bias = hu_bias(noisy, prediction, mask=everywhere(noisy), slice_axis=slice_axis)
    assert astuple(bias)[:4] == pytest.approx(tuple(offsets.values()), abs=1e-9)
    assert bias.foreground == pytest.approx(np.mean(list(offsets.values())))
    assert bias.mae == pytest.approx(np.mean(np.abs(list(offsets.values()))))


def test_noise_of_the_reference_biases_no_class():
    """The truth itself, against a noisy reference, has no bias; limits on that reference would see 5 HU and more."""
    exact, noisy = body(noise=50, shape=(240, 80, 10))
    bias = hu_bias(noisy, exact, mask=everywhere(noisy), slice_axis=2)
    assert astuple(bias)[:4] == pytest.approx((0, 0, 0, 0), abs=1.0)
    naive = (noisy >= -29) & (noisy < 150)
    assert abs((exact - noisy)[naive].mean()) > 5


def test_mixtures_at_the_borders_belong_to_no_class():
    """What lies there is left out, and the picture's own edge is no border."""
    exact, _ = body()
    prediction = exact.copy()
    for border in (30, 60, 90):
        prediction[border - 2 : border + 1] += 500
    bias = hu_bias(exact, prediction, mask=everywhere(exact), slice_axis=2)
    assert astuple(bias)[:4] == (0, 0, 0, 0)
    prediction = exact.copy()
    prediction[0] -= 28
    bias = hu_bias(exact, prediction, mask=everywhere(exact), slice_axis=2)
    assert bias.lung == pytest.approx(-1)  # one of the 28 pixels that are left
    assert bias.fat == 0


def test_a_class_needs_a_thousand_voxels():
    """12 slices of fat along 7 x 12 pixels have 1,008, 11 have 924."""
    for slices, told in ((12, True), (11, False)):
        reference = np.full((7, 12, slices), -100.0)
        bias = hu_bias(reference, reference + 4, mask=everywhere(reference), slice_axis=2)
        assert (bias.lung, bias.soft, bias.bone) == (None, None, None)
        assert bias.fat == (4 if told else None)
        assert bias.foreground == bias.mae == 4


def test_a_foreground_chosen_by_brightness_biases_no_class():
    """Lungs that reach the picture's edge: the foreground holds their vessels alone, which every estimate blurs."""
    reference = np.full((120, 120, 6), -850.0)
    reference[:20] = 40  # the wall of the chest
    reference[20:, 5::10] = -300  # vessels
    blurred = ndimage.gaussian_filter(reference, (2, 2, 0), mode="nearest")
    chosen = foreground(reference, "CT", 2)
    lung = np.zeros(reference.shape, bool)
    lung[40:, 20:-20] = True
    assert (blurred - reference)[chosen & lung].mean() < -100
    bias = hu_bias(reference, blurred, mask=chosen, slice_axis=2)
    assert bias.lung == pytest.approx(0, abs=1)


def test_int16_does_not_overflow():
    reference = np.full((20, 20, 5), -32000, np.int16)
    assert hu_bias(reference, -reference, mask=everywhere(reference), slice_axis=2).mae == 64000


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (np.zeros((8, 8, 5)), np.ones((8, 8, 4), bool), "one shape"),
        (np.zeros((8, 8, 4)), np.ones((8, 8), bool), "one shape"),
        (np.zeros((8, 8, 4)), np.zeros((8, 8, 4), bool), "empty"),
    ],
)
def test_refusals(prediction, mask, message):
    with pytest.raises(ValueError, match=message):
        hu_bias(np.zeros((8, 8, 4)), prediction, mask=mask, slice_axis=2)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_classes_are_eroded_each_for_itself(slice_axis):
    """scipy's binary erosion of every class, the picture's edge being no rim."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(50, 40, 6)), (6, 6, 1))
    reference = np.moveaxis(-900 + 1500 * (smooth - smooth.min()) / np.ptp(smooth), 2, slice_axis)
    sigma = [0 if a == slice_axis else 2 for a in range(3)]
    seen = ndimage.gaussian_filter(reference, sigma)
    cross = ndimage.generate_binary_structure(3, 1)
    np.moveaxis(cross, slice_axis, 0)[[0, 2]] = False
    labels = Tissues.of(reference, slice_axis).labels
    for number, (low, high) in enumerate(CLASSES, start=1):
        expected = ndimage.binary_erosion((seen >= low) & (seen < high), cross, iterations=2, border_value=1)
        np.testing.assert_array_equal(labels == number, expected)
    assert len(np.unique(labels)) > 3
