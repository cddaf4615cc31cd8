"""The classical methods against scipy, numpy's FFT, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, RegularGridInterpolator

from medsr.classical import METHODS, classical
from medsr.degradation import Degradation
from medsr.image.geometry import Geometry
from medsr.image.profile import IDENTITY, AxisProfile
from medsr.image.volume import Volume

COARSE = Geometry((20, 24, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
FINE = COARSE.with_scale((2, 2, 1))
GAUSS = AxisProfile("gauss", 1.0, "user", known=True)
TOLD = (GAUSS, GAUSS, IDENTITY)
GUESSED = (AxisProfile("gauss", 1.0, "assumed", known=False),) * 2 + (IDENTITY,)


def scan(modality="MR", seed=0) -> Volume:
    """Smooth random tissue, brighter than air, on the coarse grid."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(0, 1, n) for n in COARSE.shape], indexing="ij")
    array = sum(rng.normal() * np.cos(2 * np.pi * (sum(rng.integers(0, 4) * g for g in grid) + rng.uniform()))
                for _ in range(12))  # fmt: skip
    array = 400 + 60 * array if modality == "MR" else 40 + 50 * array
    return Volume(array.astype(np.float32), COARSE, modality)


def images(volume: Volume, profiles=TOLD, names=tuple(METHODS)):
    return dict(classical(volume, FINE, profiles, names))


def fine_positions() -> list[np.ndarray]:
    """Centres of the fine voxels in index coordinates of the coarse grid: the edges of the field of view coincide."""
    return [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(FINE.shape, COARSE.shape, strict=True)]


def test_every_method_in_its_order_on_the_target_grid():
    made = images(scan())
    assert list(made) == list(METHODS)
    assert {a.shape for a in made.values()} == {FINE.shape}
    assert {a.dtype for a in made.values()} == {np.dtype(np.float32)}
    assert list(dict(classical(scan(), FINE, TOLD, ["linear MMSE", "nearest"]))) == ["nearest", "linear MMSE"]


@pytest.mark.parametrize(("name", "method"), [("linear", "linear"), ("nearest", "nearest")])
def test_interpolation_is_scipys_inside(name, method):
    volume = scan()
    axes = [np.arange(n) for n in COARSE.shape]
    oracle = RegularGridInterpolator(axes, volume.array.astype(np.float64), method=method)
    where = [p[2:-2] if axis < 2 else p for axis, p in enumerate(fine_positions())]
    expected = oracle(np.stack(np.meshgrid(*where, indexing="ij"), -1))
    np.testing.assert_allclose(images(volume, names=[name])[name][2:-2, 2:-2], expected, rtol=1e-5, atol=1e-3)


def test_cubic_is_scipys_natural_spline_inside():
    volume, (i, j, _) = scan(), fine_positions()
    rows = CubicSpline(np.arange(20), volume.array.astype(np.float64), axis=0, bc_type="natural")(i[1:-1])
    expected = CubicSpline(np.arange(24), rows, axis=1, bc_type="natural")(j[1:-1])
    np.testing.assert_allclose(images(volume, names=["cubic"])["cubic"][1:-1, 1:-1], expected, rtol=1e-5, atol=1e-3)


def test_zero_filling_is_that_of_the_fft():
    """The coarse spectrum in the middle of a finer one, with the half-voxel shift between the first centres."""
    volume = scan()
    spectrum = np.fft.fft2(volume.array.astype(np.float64), axes=(0, 1))
    filled = np.zeros(FINE.shape, complex)
    for axis, (n, m) in enumerate(zip(FINE.shape[:2], COARSE.shape[:2], strict=True)):
        k = np.fft.fftfreq(m, 1 / m)
        shape = [1, 1, 1]
        shape[axis] = m
        spectrum = spectrum * (np.exp(-2j * np.pi * k * 0.5 / n) * (np.abs(k) < m / 2)).reshape(shape)
    rows, columns = (np.fft.fftfreq(m, 1 / m).astype(int) for m in COARSE.shape[:2])
    filled[np.ix_(rows, columns)] = spectrum * 4
    expected = np.fft.ifft2(filled, axes=(0, 1)).real
    found = images(volume, names=["zero-fill"])["zero-fill"]
    nyquist = np.abs(np.fft.fftfreq(FINE.shape[0], 1 / 40)) == 10, np.abs(np.fft.fftfreq(FINE.shape[1], 1 / 48)) == 12
    bare = np.fft.fft2(found.astype(np.float64), axes=(0, 1))
    bare[nyquist[0]] = 0  # how the Nyquist bin is shared out is a convention
    bare[:, nyquist[1]] = 0
    np.testing.assert_allclose(np.fft.ifft2(bare, axes=(0, 1)).real, expected, atol=0.05)


def test_consistency_changes_cubic_as_little_as_agrees_with_the_scan():
    volume = scan()
    made = images(volume, names=["cubic", "cubic + consistency"])
    A = Degradation.between(FINE, COARSE, TOLD)
    x, cubic = (torch.from_numpy(made[n]).double() for n in ("cubic + consistency", "cubic"))
    y = torch.from_numpy(volume.array).double()
    assert (A(x) - y).abs().max() < 0.05
    change = x - cubic
    assert (change - A.pinv(A(change))).abs().max() < 0.05, "a part of the change is invisible to the scan"
    assert (A(cubic) - y).abs().max() > 1


def test_a_guessed_profile_is_followed_part_of_the_way():
    known, guessed = (images(scan(), p, ["cubic", "cubic + consistency"]) for p in (TOLD, GUESSED))
    step, partial = (np.abs(m["cubic + consistency"] - m["cubic"]).mean() for m in (known, guessed))
    assert 0.1 * step < partial < 0.9 * step


def test_the_linear_estimate_is_closest_where_its_profile_is_true():
    rng = np.random.default_rng(3)
    shape, decay = FINE.shape, 0.95  # the prior of the estimate: a walk whose neighbours correlate by 0.95
    truth = rng.normal(size=shape)
    for axis in (0, 1):
        lines = np.moveaxis(truth, axis, 0)
        for n in range(1, shape[axis]):
            lines[n] = decay * lines[n - 1] + np.sqrt(1 - decay**2) * lines[n]
    truth = 500 + 50 * truth
    y = Degradation.between(FINE, COARSE, TOLD)(torch.from_numpy(truth))
    made = images(Volume(y.numpy().astype(np.float32), COARSE, "MR"))
    error = {name: float(np.square(image - truth).mean()) for name, image in made.items()}
    assert error["linear MMSE"] < 1.02 * min(error.values())
    assert error["linear MMSE"] < 0.85 * error["cubic"] < 0.85 * error["nearest"]


def test_ct_is_in_whole_hu_from_air_up():
    """As medsr writes it: padding counts as air, and nothing lies below it."""
    volume = scan("CT")
    volume.array[:6] = -3024
    lifted = Volume(np.maximum(volume.array, -1024), COARSE, "CT")
    for name, image in images(volume).items():
        assert np.array_equal(image, np.rint(image)), name
        assert image.min() >= -1024, name
        assert np.array_equal(image, images(lifted, names=[name])[name]), name


def test_mr_units_do_not_matter():
    volume = scan()
    doubled = Volume(volume.array * 8, COARSE, "MR")
    for name, image in images(volume).items():
        np.testing.assert_allclose(images(doubled, names=[name])[name], 8 * image, rtol=1e-4)
        assert not np.array_equal(image, np.rint(image)) or name == "nearest"


def test_unknown_methods_are_named():
    with pytest.raises(ValueError, match="no classical methods: bicubic; there are: nearest, linear"):
        next(classical(scan(), FINE, TOLD, ["bicubic", "cubic"]))
