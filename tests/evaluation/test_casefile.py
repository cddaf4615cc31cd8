"""Cases survive the way to disk and back, and show the middle of the anatomy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.errors import InputError
from medsr.evaluation.casefile import Case, case_path, crop_of_case, read_case, write_case

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("largest", [1.0, 3071.0, 5e7])
def test_round_trip_to_the_precision_of_float16(tmp_path, largest):
    images = {name: RNG.uniform(-largest, largest, (9, 8, 7)).astype(np.float32) for name in ("scan", "medsr", "std")}
    path = case_path(tmp_path, "inplane-x2", "test/a b.nii.gz")
    write_case(Case(images, (0.5, 0.5, 3.0), 2, "LPS"), path)
    again = read_case(path)
    assert (again.spacing, again.slice_axis, again.axes, again.shape) == ((0.5, 0.5, 3.0), 2, "LPS", (9, 8, 7))
    assert set(again.images) == set(images)
    for name, image in images.items():
        np.testing.assert_allclose(again.images[name], image, rtol=2**-10, atol=largest * 1e-6)


def test_a_case_stays_in_the_study_whatever_its_name(tmp_path):
    path = case_path(tmp_path, "p", "../../etc/x.nii.gz")
    assert path.parent == tmp_path / "cases" / "p"


def test_damaged_cases_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"PK\x03\x04broken", b"not a case"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz is no case"):
            read_case(path)
    np.savez(path, scan=np.zeros((2, 2, 2)), medsr=np.zeros((3, 2, 2)), spacing=(1, 1, 1), slice_axis=2)
    with pytest.raises(InputError, match="shapes"):
        read_case(path)


@given(
    shape=st.tuples(*[st.integers(1, 200)] * 3),
    corner=st.tuples(*[st.floats(0, 0.9)] * 3),
    slice_axis=st.integers(0, 2),
)
def test_the_crop_lies_in_the_volume_and_holds_the_middle_of_the_mask(shape, corner, slice_axis):
    mask = np.zeros(shape, bool)
    first = [int(c * n) for c, n in zip(corner, shape, strict=True)]
    mask[first[0] :, first[1] :, first[2] :] = True
    crop = crop_of_case(mask, slice_axis)
    for axis, part in enumerate(crop):
        most = 64 if axis == slice_axis else 128
        assert 0 <= part.start < part.stop <= shape[axis]
        assert part.stop - part.start == min(most, shape[axis])
        assert part.start <= (first[axis] + shape[axis]) / 2 <= part.stop
