from __future__ import annotations

import numpy as np
import pytest
import torch

from medsr.errors import ConfigError
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.volume import Volume
from medsr.protocols import Protocol, load_protocols, protocol, seed_of, simulate

NAMES = [
    "inplane-x2-kspace", "inplane-x4-kspace", "inplane-x2", "inplane-x4", "slice-x2", "slice-x4", "slice-x5",
    "slice-x4-gap", "slice-x3.3", "blind-x2",
]  # fmt: skip


def scan(shape: tuple[int, int, int] = (40, 36, 30), modality: str = "MR", seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    array = np.zeros(shape)
    array[6:-6, 5:-5] = 500 + 100 * rng.normal(size=(shape[0] - 12, shape[1] - 10, shape[2]))
    if modality == "CT":
        array = np.where(array == 0, -3024, array / 5)
    affine = np.diag([0.8, 0.8, 1.2, 1.0])
    affine[:3, 3] = -20, 10, 5
    return Volume(array.astype(np.float32), Geometry(shape, affine), modality)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_names_of_the_protocol() -> None:
    assert list(load_protocols()) == NAMES
    with pytest.raises(ConfigError, match="unknown protocol 'inplane-x3'; there are: inplane-x2-kspace"):
        protocol("inplane-x3")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_field_of_view_and_axes(name: str, slice_axis: int) -> None:
    volume, p = scan((37, 34, 31)), protocol(name)
    coarse = simulate(volume, p, generator(), slice_axis=slice_axis)
    assert coarse.geometry.field_of_view == pytest.approx(volume.geometry.field_of_view)
    for axis, (fine, n) in enumerate(zip(volume.array.shape, coarse.array.shape, strict=True)):
        scaled = (axis == slice_axis) == (p.axes == "slice")
        assert n == (int(fine / p.factor + 0.5) if scaled else fine)
    assert coarse.provenance.steps[-1]["profile"] == p.profile


def test_slice_box_is_the_mean_of_slices() -> None:
    volume = scan((20, 18, 32))
    coarse = simulate(volume, protocol("slice-x4"), generator(), slice_axis=2)
    np.testing.assert_allclose(coarse.array, volume.array.reshape(20, 18, 8, 4).mean(3), rtol=1e-5, atol=1e-2)


def test_kspace_keeps_the_low_frequencies_and_the_magnitude() -> None:
    """numpy's FFT: the crop of an even axis with the half-sample shift between the two grids' first voxels."""
    volume = scan((32, 24, 5))
    coarse = simulate(volume, protocol("inplane-x2-kspace"), generator(), slice_axis=2)
    spectrum, shift = np.fft.fft2(volume.array.astype(float), axes=(0, 1)), 0.5
    for axis, n in enumerate((16, 12)):
        k = np.fft.fftfreq(n, 1 / n).astype(int)
        phase = np.exp(2j * np.pi * k * shift / (2 * n)) * np.where(k == -n // 2, 0, 1)
        spectrum = np.take(spectrum, k, axis=axis) * phase.reshape([-1 if a == axis else 1 for a in range(3)])
    expected = np.fft.ifft2(spectrum, axes=(0, 1)) / 4
    # the Nyquist bin, left out above, is compared by leaving it out of the result as well
    got = np.fft.fft2(simulate_without_magnitude(volume), axes=(0, 1))
    got[8], got[:, 6] = 0, 0
    np.testing.assert_allclose(np.fft.ifft2(got, axes=(0, 1)).real, expected.real, atol=0.05)
    np.testing.assert_allclose(coarse.array, np.abs(simulate_without_magnitude(volume)), atol=1e-3)
    assert coarse.array.min() >= 0 > simulate_without_magnitude(volume).min()


def simulate_without_magnitude(volume: Volume) -> np.ndarray:
    bare = protocol("inplane-x2-kspace").model_copy(update={"magnitude": False})
    return simulate(volume, bare, generator(), slice_axis=2).array


def test_padding_is_lifted_to_air() -> None:
    coarse = simulate(scan(modality="CT"), protocol("inplane-x2"), generator(), slice_axis=2)
    assert coarse.array.min() == pytest.approx(-1024, abs=0.5)


def test_blind_noise_has_the_stated_size() -> None:
    blind = protocol("blind-x2")
    silent = blind.model_copy(update={"noise": None})
    for modality in ("MR", "CT"):
        volume = scan((120, 110, 20), modality)
        noisy, clean = (simulate(volume, p, generator(1), slice_axis=2).array for p in (blind, silent))
        inside = np.zeros(clean.shape, bool)
        inside[8:-8, 8:-8] = True
        sd = 15.0
        if modality == "MR":
            sd = 0.01 * np.percentile(volume.array[foreground(volume.array, "MR", 2)], 99.5)
            air = noisy[:2]
            assert air.mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.05), "Rayleigh in air"
        assert (noisy - clean)[inside].std() == pytest.approx(sd, rel=0.03)


def test_noise_repeats_with_its_seed() -> None:
    volume, blind = scan(), protocol("blind-x2")
    first, again, other = (
        simulate(volume, blind, generator(seed_of(n)), slice_axis=2).array for n in ("a.nii", "a.nii", "b.nii")
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert seed_of("123456789") == 0xCBF43926, "the check value of CRC-32"


@pytest.mark.parametrize(
    "change", [{"factor": 1}, {"profile": "lorentz"}, {"axes": "all"}, {"noise": {"mr_percent": -1, "ct_hu": 0}}]
)
def test_a_protocol_that_cannot_be_meant(change: dict) -> None:
    values = {"axes": "slice", "factor": 2, "profile": "box:1.0", "told": True} | change
    with pytest.raises(ValueError):
        Protocol.model_validate(values)


def test_what_is_told() -> None:
    assert {n for n in NAMES if protocol(n).told_profile == "auto"} == {
        "inplane-x2-kspace", "inplane-x4-kspace", "blind-x2",
    }  # fmt: skip
    assert protocol("slice-x4-gap").told_profile == "gauss:0.8"


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "sharpness", "reason"),
    [
        ("inplane-x4", (128, 140, 10), (1, 1, 5), "native/native/native", None),
        ("inplane-x4", (120, 140, 10), (1, 1, 5), "native/native/native", "30 x 35 pixels are left"),
        ("inplane-x2", (64, 64, 10), (1, 1, 5), "native/band-limited/native", "axis j was interpolated"),
        ("inplane-x2", (64, 64, 10), (1, 1, 5), "native/smooth/band-limited", None),  # slices are left alone
        ("slice-x4", (64, 64, 64), (1, 1, 3.5), "native/native/native", None),
        ("slice-x4", (64, 64, 64), (1, 1, 3.6), "native/native/native", "3.6 mm apart; a reference has at most 3.5"),
        ("slice-x4", (64, 64, 60), (1, 1, 1), "native/native/native", "15 slices are left of it; 16"),
        ("slice-x4", (64, 64, 64), (1, 1, 1), "native/native/band-limited", None),  # thick, not interpolated, counts
        ("inplane-x2-kspace", (64, 64, 64), (1, 1, 1), "native/native/native", None),
    ],
)
def test_who_is_admitted(name: str, shape, spacing, sharpness: str, reason: str | None) -> None:
    grid = Geometry(shape, np.diag([*spacing, 1.0]))
    found = protocol(name).unfit(grid, "MR", 2, sharpness.split("/"))
    assert found is None if reason is None else reason in found


def test_admission_follows_the_slice_axis_and_the_modality() -> None:
    grid = Geometry((10, 64, 64), np.diag([5.0, 1.0, 1.0, 1.0]))
    assert protocol("inplane-x2").unfit(grid, "MR", 0) is None
    assert "5 x 32 pixels" in str(protocol("inplane-x2").unfit(grid, "MR", 2))
    assert "is for MR, and this is CT" in str(protocol("inplane-x2-kspace").unfit(grid, "CT", 0))


def test_each_protocol_says_what_it_does_in_one_sentence() -> None:
    texts = {name: p.text for name, p in load_protocols().items()}
    assert len(set(texts.values())) == len(NAMES)
    assert all(t.endswith(".") and "\n" not in t for t in texts.values())
    assert texts["slice-x3.3"].startswith("3.3 times coarser along the slice axis: averaged by a gaussian")
    assert texts["blind-x2"].endswith("Gaussian of 15 HU (CT); methods are told nothing of it.")
