"""The certificate: what it measures, where, and in which unit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medsr.card import ModelCard
from medsr.certificate import certify
from medsr.degradation import Degradation
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.volume import Volume
from medsr.plan import Plan, make_plan
from medsr.request import Request


def scan(modality="MR") -> Volume:
    rng = np.random.default_rng(0)
    array = np.zeros((20, 18, 12), np.float32)
    array[4:16, 3:15, 2:10] = rng.uniform(300, 900, (12, 12, 8))
    if modality == "CT":
        array = np.where(array > 0, array - 600, -1024).astype(np.float32)
    return Volume(array, Geometry(array.shape, np.diag([1.0, 1.0, 3.0, 1.0])), modality)


def planned(volume: Volume, **fields) -> tuple[Plan, Degradation]:
    header = Header(Path("s.nii.gz"), "nifti", volume.geometry, "int16", volume.modality, "test", 2)
    request = Request(**{"profile": "gauss:1.0"} | fields)
    plan = make_plan(header, request, ModelCard(name="m", version="1"))
    return plan, Degradation.between(plan.target, plan.acquired, plan.profiles)


def consistent_volume(volume: Volume, A: Degradation) -> np.ndarray:
    return A.pinv(torch.from_numpy(volume.array).double()).numpy().astype(np.float32)


def test_a_volume_that_gives_the_scan_back_has_no_residual():
    volume = scan()
    plan, A = planned(volume)
    found = certify(consistent_volume(volume, A), volume, A, plan)
    assert found.residual < 1e-5
    assert found.residual_hu is None
    assert found.known
    assert (found.consistency, found.profiles) == ("hard", ("gauss:1", "gauss:1", "identity"))


def test_the_residual_is_the_misfit_over_the_spread_of_the_tissue():
    volume = scan()
    plan, A = planned(volume)
    array = consistent_volume(volume, A) + np.float32(30)  # A keeps constants: the misfit is 30 everywhere
    tissue = volume.array[foreground(volume.array, "MR")]
    assert certify(array, volume, A, plan).residual == pytest.approx(30 / tissue.std(), rel=1e-3)


def test_what_happens_in_the_air_does_not_count():
    volume = scan()
    plan, A = planned(volume)
    array = consistent_volume(volume, A)
    before = certify(array, volume, A, plan).residual
    array[:2, :2] += 500
    assert certify(array, volume, A, plan).residual == pytest.approx(before, abs=1e-6)


def test_what_the_operator_does_not_transmit_is_not_seen():
    """The certificate says that nothing measured was changed, not that what was added is true."""
    volume = scan()
    plan, A = planned(volume)
    array = consistent_volume(volume, A)
    invention = torch.from_numpy(np.random.default_rng(1).normal(0, 200, array.shape))
    invention -= A.pinv(A(invention))
    assert invention.abs().mean() > 50
    assert certify(array + invention.numpy().astype(np.float32), volume, A, plan).residual < 1e-4


def test_ct_is_told_in_hounsfield_units_and_padding_counts_as_air():
    volume = scan("CT")
    plan, A = planned(volume)
    array = consistent_volume(volume, A)
    clean = certify(array, volume, A, plan).residual_hu
    shifted = certify(array + np.float32(12), volume, A, plan)
    assert clean < 12
    assert shifted.residual_hu == pytest.approx(12, abs=clean + 1)
    padded = Volume(np.where(volume.array == -1024, -3000, volume.array).astype(np.float32), volume.geometry, "CT")
    again = np.where(array < -1000, np.float32(-3000), array)
    assert certify(again, padded, A, plan).residual_hu < 12


def test_it_says_whether_the_profile_is_known():
    volume = scan()
    plan, A = planned(volume, profile="auto")
    made = certify(consistent_volume(volume, A), volume, A, plan)
    assert not made.known
    assert made.consistency == "soft"
    told = json.loads(json.dumps(made.to_json()))
    assert told["profiles_known"] is False
    assert told["profiles"] == ["sinc", "sinc", "identity"]
    assert "as written" in told["meaning"]


def test_a_scan_without_contrast_gives_a_finite_number():
    flat = Volume(np.full((8, 8, 8), 5, np.float32), Geometry((8, 8, 8), np.eye(4)), "MR")
    plan, A = planned(flat)
    made = certify(consistent_volume(flat, A), flat, A, plan)
    assert np.isfinite(made.residual)
