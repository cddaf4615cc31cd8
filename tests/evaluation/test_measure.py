"""All metrics at once are the single ones, whatever the axis order; what a volume does not allow is left out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import astuple

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import PSNRMetric, SSIMMetric
from scipy import ndimage

from medsr.evaluation import measure as module
from medsr.evaluation.bias import hu_bias
from medsr.evaluation.measure import Reference, measure, reliability
from medsr.evaluation.metrics import data_range, score
from medsr.evaluation.noise import noise_ceiling
from medsr.evaluation.record import METRICS
from medsr.evaluation.registration import shift
from medsr.evaluation.texture import between_slice_ratio, hfen, spectrum_error
from medsr.evaluation.uncertainty import coverage, mse_ratio, spread_skill
from medsr.image.foreground import foreground
from medsr.image.nifti import inspect, read
from medsr.resources import sample_path

IN_PLANE, THROUGH, UNKNOWN = (2.0, 2.0, 1.0), (1.0, 1.0, 4.0), (1.0, 1.0, 1.0)
BIAS = {"bias_lung", "bias_fat", "bias_soft", "bias_bone", "bias_foreground"}
PICTURE = {"psnr", "psnr_whole", "ssim_3d", "ssim_2d", "mae", "hfen", "between_slices", "shift"}


def pair(name: str = "head_fine.nii.gz", size=(64, 60, 56)) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a phantom with some noise, and a blurred prediction of it."""
    whole = read(sample_path(name)).array
    cut = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(whole.shape, size, strict=True))
    rng = np.random.default_rng(0)
    reference = whole[cut] + rng.normal(scale=5, size=size).astype(np.float32)
    return reference, ndimage.gaussian_filter(reference, 0.7) + rng.normal(scale=3, size=size).astype(np.float32)


@pytest.mark.parametrize("factors", [IN_PLANE, THROUGH, UNKNOWN])
@pytest.mark.parametrize(("name", "modality"), [("head_fine.nii.gz", "MR"), ("trunk_ct_fine.nii.gz", "CT")])
def test_every_metric_is_the_single_one(name, modality, factors):
    reference, prediction = pair(name, (72, 64, 40))
    mask = foreground(reference, modality)
    scores = score(reference, prediction, modality)
    expected = {
        "psnr": scores.psnr,
        "psnr_whole": scores.psnr_whole,
        "ssim_3d": scores.ssim_3d,
        "ssim_2d": scores.ssim_2d,
        "mae": float(np.abs(prediction.astype(float) - reference)[mask].mean()),
        "hfen": hfen(reference, prediction, mask=mask, axis=2),
        "shift": max(map(abs, shift(reference, prediction, mask=mask))),
    }
    if factors != UNKNOWN:
        expected["spectrum_error"] = spectrum_error(reference, prediction, mask=mask, factors=factors)
    if factors == IN_PLANE:
        between = between_slice_ratio(reference, prediction, mask=mask, axis=2, factors=factors)
        expected |= {"between_slices": between.whole, "between_slices_fine": between.fine}
    if modality == "CT":
        values = astuple(hu_bias(reference, prediction, mask=mask, slice_axis=2))[:5]
        bias = dict(zip(["bias_lung", "bias_fat", "bias_soft", "bias_bone", "bias_foreground"], values, strict=True))
        expected |= {metric: value for metric, value in bias.items() if value is not None}
    found = measure(reference, prediction, modality=modality, factors=factors).metrics
    if factors != IN_PLANE:
        in_plane = between_slice_ratio(reference, prediction, mask=mask, axis=2, factors=IN_PLANE)
        expected["between_slices"] = in_plane.whole  # the factors have no say in it
    assert found == pytest.approx(expected, abs=1e-9)
    assert set(found) <= set(METRICS)


def test_one_reference_serves_many_predictions():
    reference, prediction = pair()
    once = Reference.of(reference, "MR", 2, IN_PLANE)
    others = [once.measure(p) for p in (reference + 1, prediction, 2 * prediction)]
    assert others[1] == measure(reference, prediction, modality="MR", factors=IN_PLANE)
    assert others[0] != others[1] != others[2]


def test_psnr_and_ssim_equal_monais():
    """The same definitions: over the foreground, range from the minimum to the 99.9th percentile of the reference."""
    reference, prediction = pair()
    found = measure(reference, prediction, modality="MR").metrics
    mask, span = foreground(reference, "MR"), data_range(reference, "MR")

    def batch(array):
        return torch.from_numpy(array.astype(np.float64))[None, None]

    inside = batch(prediction[mask]), batch(reference[mask])
    whole = batch(prediction), batch(reference)
    assert found["psnr"] == pytest.approx(PSNRMetric(max_val=span)(*inside).item(), abs=1e-6)
    assert found["psnr_whole"] == pytest.approx(PSNRMetric(max_val=float(np.ptp(reference)))(*whole).item(), abs=1e-6)
    assert found["ssim_3d"] == pytest.approx(SSIMMetric(spatial_dims=3, data_range=span)(*whole).item(), abs=2e-5)


@settings(max_examples=6)
@given(order=st.permutations(range(3)), flips=st.lists(st.integers(0, 2), unique=True))
def test_axis_order_and_flips_change_nothing(order, flips):
    reference, prediction = pair(size=(48, 44, 40))
    before = measure(reference, prediction, modality="MR", slice_axis=2, factors=IN_PLANE)
    turned = [np.flip(a, flips).transpose(order) for a in (reference, prediction)]
    axis, factors = order.index(2), [IN_PLANE[a] for a in order]
    after = measure(*turned, modality="MR", slice_axis=axis, factors=factors)
    assert after.metrics.pop("shift") == pytest.approx(before.metrics.pop("shift"), abs=2e-5)  # in float32
    assert after.metrics == pytest.approx(before.metrics, rel=1e-9)
    assert after.spectrum.decibels == pytest.approx(before.spectrum.decibels, abs=2e-3)
    assert after.warnings == before.warnings


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAR"])
def test_how_a_file_stores_its_axes_changes_nothing(tmp_path, codes):
    """Two files stored alike in another order, read each in its own."""
    reference, prediction = pair(size=(48, 44, 40))
    found = []
    for orientation in ("RAS", codes):
        arrays = []
        for name, array in (("reference", reference), ("prediction", prediction)):
            image = nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 1.5, 1.0]))
            turn = nibabel.orientations.ornt_transform(
                nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(orientation)
            )
            path = tmp_path / f"{orientation}_{name}.nii.gz"
            nibabel.save(image.as_reoriented(turn), path)
            arrays.append(read(path, modality="MR").array)
        axis = inspect(path).slice_axis
        assert inspect(path).geometry.spacing[axis] == pytest.approx(1.5)
        factors = [1.0 if a == axis else 2.0 for a in range(3)]
        found.append(measure(*arrays, modality="MR", slice_axis=axis, factors=factors).metrics)
    shifts = [metrics.pop("shift") for metrics in found]
    assert shifts[0] == pytest.approx(shifts[1], abs=2e-5)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_shift_of_half_a_voxel_is_flagged():
    reference, prediction = pair()
    for axis, letter in enumerate("ijk"):
        moved = ndimage.shift(prediction, [0.5 if a == axis else 0 for a in range(3)], order=3, mode="nearest")
        found = measure(reference, moved, modality="MR")
        assert found.metrics["shift"] == pytest.approx(0.5, abs=0.05)
        (warning,) = found.warnings
        assert warning.startswith("misaligned by +0.5")
        assert f"along {letter}; check origin and spacing" in warning
    assert measure(reference, prediction, modality="MR").warnings == ()


def test_the_reference_itself_has_no_infinite_score():
    """Its PSNR is left out with a warning, and what is left is perfect and goes into JSON."""
    reference, _ = pair()
    found = measure(reference, reference, modality="MR", factors=IN_PLANE)
    assert "psnr" not in found.metrics
    assert "infinite" in found.warnings[0]
    aims = {"higher": 1.0, "lower": 0.0, "zero": 0.0, "one": 1.0}
    for metric, value in found.metrics.items():
        assert value == pytest.approx(aims[METRICS[metric].better]), metric
    assert json.loads(json.dumps(found.metrics, allow_nan=False)) == found.metrics
    assert set(found.spectrum.decibels) == {0.0}


def test_what_a_thin_volume_does_not_allow_is_left_out():
    reference, prediction = pair(size=(48, 44, 40))
    thin = measure(reference[:, :, :7], prediction[:, :, :7], modality="MR", factors=IN_PLANE).metrics
    assert set(thin) == (PICTURE | {"spectrum_error", "between_slices_fine"}) - {"ssim_3d"}
    single = measure(reference[:, :, :1], prediction[:, :, :1], modality="MR", factors=IN_PLANE).metrics
    assert set(single) == (PICTURE | {"spectrum_error"}) - {"ssim_3d", "between_slices"}
    tiny = measure(reference[:9, :9, :9], prediction[:9, :9, :9], modality="MR").metrics
    assert set(tiny) == PICTURE - {"ssim_3d", "ssim_2d", "shift"}


def test_without_factors_there_is_no_texture_of_the_scan():
    reference, prediction = pair()
    found = measure(reference, prediction, modality="MR")
    assert set(found.metrics) == PICTURE
    assert found.spectrum is None


def test_ct_has_a_bias():
    reference, prediction = pair("trunk_ct_fine.nii.gz", (90, 90, 40))
    for array in (reference, prediction):
        array[40:58, 40:58] = 800  # more bone than the phantom's ribs
    found = measure(reference, prediction + 7, modality="CT", factors=IN_PLANE)
    plain = measure(reference, prediction, modality="CT", factors=IN_PLANE)
    assert set(found.metrics) == PICTURE | BIAS | {"spectrum_error", "between_slices_fine"}
    for metric in BIAS:
        assert found.metrics[metric] - plain.metrics[metric] == pytest.approx(7, abs=1e-3)


def test_the_spectrum_tells_where_power_is_missing():
    """A crop of k-space to half: no loss below a quarter cycle per voxel, 60 dB (the floor) above."""
    reference = np.random.default_rng(0).normal(size=(64, 64, 20)) + 10
    spectrum = np.fft.fft2(reference, axes=(0, 1))
    keep = np.abs(np.fft.fftfreq(64)) < 0.25
    spectrum[~keep] = 0
    spectrum[:, ~keep] = 0
    made = np.fft.ifft2(spectrum, axes=(0, 1)).real
    curve = measure(reference, made, modality="MR", factors=IN_PLANE).spectrum
    assert len(curve.frequency) <= module.CURVE_BINS
    at = dict(zip(curve.frequency, curve.decibels, strict=True))
    assert all(abs(db) < 0.2 for f, db in at.items() if f < 0.22)
    assert all(db < -40 for f, db in at.items() if f > 0.4)


def test_a_stated_uncertainty():
    reference, mean = pair()
    rng = np.random.default_rng(1)
    std = rng.uniform(5, 50, reference.shape)
    truth = mean + std * rng.normal(size=std.shape)
    sample = mean + std * rng.normal(size=std.shape)
    once = Reference.of(truth, "MR")
    found = once.stated(mean, std, sample)
    error = mean - truth
    assert found.metrics == pytest.approx(
        {
            "spread_skill": spread_skill(error, std, mask=once.mask),
            "coverage_90": coverage(error, std, mask=once.mask),
            "mse_ratio": mse_ratio(sample - truth, error, mask=once.mask),
        }
    )
    assert found.metrics == pytest.approx({"spread_skill": 1, "coverage_90": 0.9, "mse_ratio": 2}, rel=0.03)
    assert found.reliability == reliability(error, std, mask=once.mask)
    assert found.reliability.error == pytest.approx(found.reliability.stated, rel=0.05)
    assert "mse_ratio" not in once.stated(mean, std).metrics
    assert set(once.stated(truth, std).metrics) == {"coverage_90"}, "no error, so no ratio to it"


def test_reliability_by_hand():
    std = np.array([1.0, 3.0, 2.0, 4.0, 9.0])
    error = np.array([-1.0, 3.0, -2.0, 5.0, 99.0])
    found = reliability(error, std, mask=std < 9, bins=2)
    assert found.voxels == (2, 2)
    assert found.stated == pytest.approx((math.sqrt(2.5), math.sqrt(12.5)))
    assert found.error == pytest.approx((math.sqrt(2.5), math.sqrt(17)))


@given(
    std=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=60),
    bins=st.integers(1, 12),
)
def test_reliability_loses_no_voxel_and_keeps_order(std, bins):
    spread = np.array(std)
    error = np.arange(len(std)) - 3.0
    found = reliability(error, spread, mask=np.ones(len(std), bool), bins=bins)
    assert sum(found.voxels) == len(std)
    assert len(found.voxels) == len(found.stated) <= bins
    assert list(found.stated) == sorted(found.stated)
    total = sum(n * e**2 for n, e in zip(found.voxels, found.error, strict=True))
    assert total == pytest.approx(np.sum(error**2))


def test_noise_ceiling_of_a_reference():
    reference, _ = pair()
    once = Reference.of(reference, "MR")
    assert once.noise_ceiling == noise_ceiling(reference, mask=once.mask, slice_axis=2, data_range=once.span)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((20, 20, 19))}, "shape"),
        ({"prediction": np.full((20, 20, 20), np.nan)}, "NaN"),
        ({"reference": np.full((20, 20, 20), np.inf)}, "NaN"),
        ({"reference": np.zeros((20, 20, 20))}, "constant"),
    ],
)
def test_refusals(change, message):
    given = {name: np.random.default_rng(0).normal(size=(20, 20, 20)) for name in ("reference", "prediction")} | change
    with pytest.raises(ValueError, match=message):
        measure(given["reference"], given["prediction"], modality="MR")


def test_refusals_of_an_uncertainty():
    reference, mean = pair()
    once = Reference.of(reference, "MR")
    with pytest.raises(ValueError, match="std has shape"):
        once.stated(mean, mean[1:])
    with pytest.raises(ValueError, match="below 0"):
        once.stated(mean, -np.ones(mean.shape))
    with pytest.raises(ValueError, match="empty"):
        reliability(mean, mean, mask=mean > np.inf)


def test_no_torch_and_no_monai():
    code = (
        "import sys, numpy as np\n"
        "from medsr.evaluation.measure import measure\n"
        "x = np.random.default_rng(0).normal(size=(24, 24, 24))\n"
        "measure(x, x + 1, modality='MR', factors=(2, 2, 1))\n"
        "print([m for m in ('torch', 'monai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
