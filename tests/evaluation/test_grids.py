"""The same grid in another order of axes is found and turned; every other grid is refused with both named."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from medsr.errors import InputError
from medsr.evaluation.grids import Turn, grid_in_words, read_onto, turn_onto
from medsr.image.geometry import Geometry


def oblique(shape=(12, 10, 7)) -> Geometry:
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.7, 0.9, 2.5])
    affine[:3, 3] = 40, -33.5, 12
    return Geometry(shape, affine)


@given(order=st.permutations(range(3)), flips=st.lists(st.integers(0, 2), unique=True))
def test_every_order_of_axes_is_found_again(order, flips):
    """nibabel stores the volume anew; turned back, array and grid are those of the beginning."""
    geometry = oblique()
    array = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    orientation = np.array([[order.index(a), -1 if a in flips else 1] for a in range(3)])
    stored = nibabel.Nifti1Image(array, geometry.affine).as_reoriented(orientation)
    own = Geometry(stored.shape, stored.affine)
    turn = turn_onto(geometry, own)
    np.testing.assert_array_equal(turn.array(np.asanyarray(stored.dataobj)), array)
    assert turn.geometry(own).same_grid(geometry, 1e-6)


def test_the_grid_itself_needs_no_turn():
    assert turn_onto(oblique(), oblique()) == Turn()
    nearly = oblique().affine.copy()
    nearly[0, 3] += 0.003  # less than a hundredth of 0.7 mm
    assert turn_onto(oblique(), Geometry((12, 10, 7), nearly)) == Turn()


def moved(**change) -> Geometry:
    affine = oblique().affine.copy()
    if "offset" in change:
        affine[:3, 3] += change["offset"]
    if "scale" in change:
        affine[:3, :3] *= change["scale"]
    if "angle" in change:
        affine[:3, :3] = nibabel.eulerangles.euler2mat(change["angle"]) @ affine[:3, :3]
    return Geometry(change.get("shape", (12, 10, 7)), affine)


@pytest.mark.parametrize(
    "other",
    [
        moved(offset=(0.35, 0, 0)),
        moved(offset=(0.01, 0, 0)),
        moved(scale=1.02),
        moved(shape=(12, 10, 8)),
        moved(angle=0.02),
        moved(angle=np.pi / 4),
    ],
)
def test_another_grid_is_refused(tmp_path, other):
    assert turn_onto(oblique(), other) is None
    path = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=other.shape), other.affine), path)
    with pytest.raises(InputError, match=r"other\.nii\.gz lies on another grid than the reference R: ") as refusal:
        read_onto(path, oblique(), "R", "MR")
    assert f"{grid_in_words(other)} against {grid_in_words(oblique())}" in str(refusal.value)
    assert ("mm apart" in str(refusal.value)) == (other.shape == oblique().shape)


def test_the_distance_of_two_grids_is_told(tmp_path):
    """An offset of one hundredth of a millimetre does not show in the words."""
    path = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(12, 10, 7)), oblique().affine), path)
    with pytest.raises(InputError, match=r"corners up to 0\.03 mm apart"):
        read_onto(path, moved(offset=(0, 0.03, 0)), "R", "MR")


def test_a_file_is_turned_with_a_warning(tmp_path):
    geometry = oblique()
    array = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    image = nibabel.Nifti1Image(array, geometry.affine)
    turn = ornt_transform(io_orientation(geometry.affine), axcodes2ornt("SPL"))
    nibabel.save(image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    nibabel.save(image, tmp_path / "plain.nii.gz")
    turned, plain = (read_onto(tmp_path / f"{n}.nii.gz", geometry, "R", "MR") for n in ("turned", "plain"))
    np.testing.assert_array_equal(turned.array, array)
    np.testing.assert_array_equal(plain.array, array)
    assert plain.warnings == ()
    assert turned.warnings == ("its axes are stored as SPL; turned to LAS, no value changed",)
