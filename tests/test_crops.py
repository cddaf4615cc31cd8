"""The middle of a volume and the scan made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medsr.crops import degraded, middle
from medsr.image.foreground import foreground
from medsr.image.geometry import Geometry
from medsr.image.volume import Volume
from medsr.protocols import protocol, seed_of, simulate
from medsr.request import Request


def volume(shape, spacing=(1.0, 1.0, 2.0)) -> Volume:
    affine = np.array([[0, -spacing[1], 0, 5], [spacing[0], 0, 0, -7], [0, 0, spacing[2], 3], [0, 0, 0, 1]], float)
    array = 300 + 50 * np.random.default_rng(0).normal(size=shape)
    return Volume(array.astype(np.float32), Geometry(shape, affine), "MR")


def test_the_middle_stays_where_it_was():
    """Every voxel of the crop keeps its place in the patient."""
    whole = volume((60, 50, 20))
    part = middle(whole, (32, 32, 9))
    assert part.array.shape == (32, 32, 9)
    assert part.array.flags.c_contiguous
    for index in ((0, 0, 0), (31, 5, 8)):
        place = part.geometry.affine @ [*index, 1]
        own = np.rint(np.linalg.inv(whole.geometry.affine) @ place)[:3].astype(int)
        assert part.array[index] == whole.array[tuple(own)]
        assert np.array_equal(own, np.add(index, (14, 9, 5)))
    assert np.array_equal(middle(whole, (64, 64, 100)).array, whole.array)
    assert part.provenance.steps[-1] == {"step": "cropped", "start": [14, 9, 5], "shape": [32, 32, 9]}


@pytest.mark.parametrize(("name", "factors", "across"), [("blind-x2", (1, 2, 2), 0), ("slice-x4", (4, 1, 1), 1)])
def test_the_scan_is_that_of_the_protocol(name, factors, across):
    reference = volume((32, 30, 28))
    crop = degraded(reference, name, Path("folder/a.nii.gz"), slice_axis=0)
    generator = torch.Generator().manual_seed(seed_of("a.nii.gz"))
    expected = simulate(reference, protocol(name), generator, slice_axis=0)
    assert np.array_equal(crop.scan.array, expected.array)
    assert (crop.factors, crop.across) == (factors, across)
    assert np.array_equal(crop.mask, foreground(reference.array, "MR", 0))


def test_its_plan_leads_back_to_the_reference_and_tells_what_the_protocol_tells(tiny_model):
    from medsr.card import read_card

    card = read_card(tiny_model)
    reference = volume((40, 40, 12))
    told = degraded(reference, "inplane-x2", Path("a.nii"), slice_axis=2).plan(card, Request(uncertainty=True))
    assert told.target.same_grid(reference.geometry)
    assert told.request.uncertainty
    assert [str(p) for p in told.profiles] == ["gauss:1", "gauss:1", "identity"]
    assert all(p.known for p in told.profiles)
    blind = degraded(reference, "blind-x2", Path("a.nii"), slice_axis=2).plan(card)
    assert not any(p.known for p in blind.profiles[:2])
