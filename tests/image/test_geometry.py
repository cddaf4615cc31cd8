from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medsr.image.geometry import Geometry

SPACING = st.floats(0.2, 8.0)
FACTOR = st.floats(0.3, 6.0)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any size, spacing, orientation, order and direction of axes, up to half a metre from the origin."""
    shape = draw(st.tuples(*[st.integers(1, 300)] * 3))
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    flips = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    order = draw(st.permutations(range(3)))
    affine = np.eye(4)
    affine[:3, :3] = (rotation * draw(st.tuples(*[SPACING] * 3)) * flips)[:, order]
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Geometry(shape, affine)


def edges(geometry: Geometry) -> np.ndarray:
    """The eight outer corners of the corner voxels, in mm."""
    index = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in geometry.shape], [1.0], indexing="ij")).reshape(4, -1)
    return (geometry.affine @ index)[:3].T


@given(geometries(), st.tuples(FACTOR, FACTOR, FACTOR))
def test_scale_keeps_the_field_of_view(geometry: Geometry, scale: tuple[float, float, float]) -> None:
    """Every outer corner stays where it is, to 1e-4 mm, for every factor, orientation and oblique affine."""
    scaled = geometry.with_scale(scale)
    np.testing.assert_allclose(edges(scaled), edges(geometry), atol=1e-4)
    assert scaled.shape == tuple(max(1, int(n * f + 0.5)) for n, f in zip(geometry.shape, scale, strict=True))


@given(geometries(), st.tuples(SPACING, SPACING, SPACING))
def test_spacing_is_exact_and_centred(geometry: Geometry, spacing: tuple[float, float, float]) -> None:
    """Exact spacing, the same centre, and a field of view that differs by less than a voxel."""
    spaced = geometry.with_spacing(spacing)
    np.testing.assert_allclose(spaced.spacing, spacing, rtol=1e-9)
    np.testing.assert_allclose(edges(spaced).mean(0), edges(geometry).mean(0), atol=1e-6)
    change = np.abs(np.asarray(spaced.field_of_view) - geometry.field_of_view)
    many = np.asarray(spaced.shape) > 1  # a single voxel cannot be made smaller
    assert (change[many] < np.asarray(spacing)[many]).all()


@given(geometries(), st.tuples(FACTOR, FACTOR, FACTOR))
def test_index_of_agrees_with_the_affines(geometry: Geometry, scale: tuple[float, float, float]) -> None:
    """first + step * index is the voxel of this grid at the place of the other grid's voxel; and back again."""
    other = geometry.with_scale(scale)
    step, first = geometry.index_of(other)
    index = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(
        geometry.affine @ [*(first + step * index), 1.0], other.affine @ [*index, 1.0], atol=1e-6
    )
    back_step, back_first = other.index_of(geometry)
    np.testing.assert_allclose(back_step * step, 1, rtol=1e-8)
    np.testing.assert_allclose(first + step * back_first, 0, atol=1e-6)


@given(geometries())
def test_axis_codes_are_those_of_nibabel(geometry: Geometry) -> None:
    assert geometry.axis_codes == "".join(nibabel.aff2axcodes(geometry.affine))


@given(geometries())
def test_spacing_is_that_of_nibabel(geometry: Geometry) -> None:
    np.testing.assert_allclose(geometry.spacing, nibabel.affines.voxel_sizes(geometry.affine), rtol=1e-12)


def test_scale_by_hand() -> None:
    """x2 on 4 voxels of 1 mm: 8 of 0.5 mm, the first centre a quarter of a millimetre towards the edge."""
    scaled = Geometry((4, 4, 4), np.eye(4)).with_scale((2, 1, 0.5))
    assert scaled.shape == (8, 4, 2)
    np.testing.assert_allclose(scaled.affine, [[0.5, 0, 0, -0.25], [0, 1, 0, 0], [0, 0, 2, 0.5], [0, 0, 0, 1]])


@given(geometries(), st.data())
def test_cropped_is_the_slicer_of_nibabel(geometry: Geometry, data: st.DataObject) -> None:
    """Shape and affine of a piece, whichever it is."""
    starts = [data.draw(st.integers(0, n - 1)) for n in geometry.shape]
    box = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, geometry.shape, strict=True))
    image = nibabel.Nifti1Image(np.zeros(geometry.shape, np.int8), geometry.affine)
    expected, piece = image.slicer[box], geometry.cropped(box)
    assert piece.shape == expected.shape
    np.testing.assert_allclose(piece.affine, expected.affine, atol=1e-9)


def test_rotated_grids_share_no_axes() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 1, degrees=True).as_matrix()
    with pytest.raises(ValueError, match="do not share"):
        Geometry((20, 20, 20), np.eye(4)).index_of(Geometry((20, 20, 20), affine))


def test_same_grid_is_measured_at_the_corners() -> None:
    affine = np.eye(4)
    affine[0, 0] += 2e-5
    assert Geometry((11, 11, 11), np.eye(4)).same_grid(Geometry((11, 11, 11), affine))
    assert not Geometry((101, 11, 11), np.eye(4)).same_grid(Geometry((101, 11, 11), affine))


def test_affine_is_read_only() -> None:
    geometry = Geometry((2, 2, 2), np.eye(4))
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 2
