"""What the viewer is given: every voxel to within half a grey level, turned as a radiologist looks at it."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from io import BytesIO
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel import orientations
from PIL import Image

from medsr.page.viewer import MIN_SLICES, Exhibit, Picture, _in_display_order, middle, viewer

CODES = ["".join(p) for axes in permutations(("RL", "AP", "SI")) for p in product(*axes)]


def unpacked(html: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Facts and values by picture, decoded voxel by voxel as the format is described."""
    facts = json.loads(re.search(r'class="facts">(.*?)</script>', html)[1])
    data = gzip.decompress(base64.b64decode(re.search(r'class="data">(.*?)</script>', html)[1]))
    nx, ny, nz = facts["shape"]
    count = nx * ny * nz
    assert len(data) == 2 * count * len(facts["pictures"])
    found = {}
    for number, picture in enumerate(facts["pictures"]):
        block = np.frombuffer(data, np.uint8, 2 * count, 2 * count * number).astype(int)
        codes = (block[:count] + 256 * block[count:]).reshape(nz, ny, nx)
        values = np.zeros((nz, ny + 1, nx + 1), int)
        for z, y, x in np.ndindex(nz, ny, nx):
            left, up, corner = values[z, y + 1, x], values[z, y, x + 1], values[z, y, x]
            guess = sorted((left, up, left + up - corner))[1]
            code = codes[z, y, x]
            values[z, y + 1, x + 1] = guess + (-(code + 1) // 2 if code % 2 else code // 2)
        stored = values[:, 1:, 1:].transpose(2, 1, 0)
        found[picture["name"]] = picture["offset"] + picture["step"] * stored
    return facts, found


def test_every_voxel_within_half_a_grey_level(exhibit):
    facts, found = unpacked(viewer(exhibit, "caption"))
    steps = {p["name"]: p["step"] for p in facts["pictures"]}
    for picture in exhibit.pictures:
        low, high = np.percentile(picture.array, [0.2, 99.8])  # a few voxels beyond may be cut off
        inner = (picture.array >= low) & (picture.array <= high)
        difference = np.abs(found[picture.name] - picture.array)
        assert difference[inner].max() <= 0.51 * steps[picture.name], picture.name
    assert steps["medsr"] == steps["reference"] == steps["cubic"], "a difference of images needs one scale"
    assert steps["medsr"] < 0.003 * np.ptp(exhibit.pictures[0].array)


def test_ct_keeps_its_numbers():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1024, 1500, (16, 15, 14)).round()
    pictures = (Picture("cubic", "cubic", image), Picture("medsr", "medsr", image + rng.normal(0, 5, image.shape)))
    facts, found = unpacked(viewer(Exhibit(pictures, (1, 1, 1), "LPS", "CT", "cubic", "medsr"), ""))
    assert facts["unit"] == "HU"
    assert np.abs(found["cubic"] - image)[image < 1490].max() < 2
    assert [w["label"] for w in facts["windows"]] == ["soft tissue", "lung", "bone", "all"]
    assert facts["windows"][0] == {"label": "soft tissue", "low": -160, "high": 240}


@pytest.mark.parametrize("codes", CODES)
def test_display_order_is_left_posterior_superior(codes):
    """nibabel turns the same array to LPS."""
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    turned = _in_display_order(Exhibit((Picture("a", "a", array),), (1.0, 2.0, 3.0), codes, "MR", "a", "a"))
    transform = orientations.ornt_transform(
        orientations.axcodes2ornt(tuple(codes)), orientations.axcodes2ornt(("L", "P", "S"))
    )
    expected = orientations.apply_orientation(array, transform)
    np.testing.assert_array_equal(turned.pictures[0].array, expected)
    sizes = [0.0, 0.0, 0.0]
    for axis, (world, _) in enumerate(transform):
        sizes[int(world)] = (1.0, 2.0, 3.0)[axis]
    assert turned.spacing == tuple(sizes)
    assert nibabel.aff2axcodes(orientations.inv_ornt_aff(transform, array.shape)) is not None


def test_stills_have_the_right_aspect(exhibit):
    for still, (wide, tall) in enumerate([(20, 24), (20, 36), (24, 36)]):
        html = viewer(Exhibit(exhibit.pictures, exhibit.spacing, "LPS", "MR", "cubic", "medsr", still), "")
        images = re.findall(
            r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)" height="(\d+)" width="(\d+)">', html
        )
        assert [alt.partition(":")[0] for _, alt, *_ in images] == ["scan, nearest", "cubic", "medsr", "reference"]
        for source, _, height, width in images:
            assert int(width) / int(height) == pytest.approx(wide / tall, rel=0.02)
            pixels = np.asarray(Image.open(BytesIO(base64.b64decode(source))))
            assert pixels.ndim == 2
    coronal = np.asarray(Image.open(BytesIO(base64.b64decode(images[-1][0]))))
    assert coronal[0, 0] > coronal[-1, 0], "superior, where this reference is brighter, is on top"


def test_overlays_by_what_there_is(exhibit):
    facts, _ = unpacked(viewer(exhibit, ""))
    assert [o["name"] for o in facts["overlays"]] == ["error-left", "error-right", "difference", "std", "detail"]
    bare = Exhibit(exhibit.pictures[1:3], exhibit.spacing, None, "MR", "cubic", "medsr")
    facts, _ = unpacked(viewer(bare, ""))
    assert [o["name"] for o in facts["overlays"]] == ["difference"]
    assert [p["name"] for p in facts["planes"]] == ["across k", "across j", "across i"]
    assert all(o["full"] > 0 for o in facts["overlays"])


def test_a_constant_or_empty_map_does_no_harm():
    zero = np.zeros((6, 5, 4), np.float32)
    pictures = (Picture("a", "a", zero), Picture("b", "b", zero), Picture("std", "std", zero, "std"))
    facts, found = unpacked(viewer(Exhibit(pictures, (1, 1, 1), "RAS", "MR", "a", "b"), ""))
    assert math.isfinite(facts["overlays"][0]["full"])
    assert np.abs(found["a"]).max() == 0


def test_voxels_that_are_no_number_are_dark():
    array = np.linspace(10, 20, 120, dtype=np.float32).reshape(6, 5, 4)
    array[0, 0, 0] = np.nan
    _, found = unpacked(viewer(Exhibit((Picture("a", "a", array),), (1, 1, 1), "LPS", "MR", "a", "a"), ""))
    assert found["a"][0, 0, 0] == found["a"].min()


@given(
    shape=st.tuples(*[st.integers(1, 300)] * 3),
    most=st.integers(1, 500_000),
    through=st.sampled_from([None, 0, 1, 2]),
)
def test_the_middle_is_in_the_middle_and_small_enough(shape, most, through):
    crop = middle(shape, most, through)
    sizes = [part.stop - part.start for part in crop]
    assert all(size >= 1 for size in sizes)
    assert math.prod(sizes) <= most
    for part, n in zip(crop, shape, strict=True):
        assert 0 <= part.start <= part.stop <= n
        assert abs((part.start + part.stop) - n) <= 1
    if math.prod(shape) <= most:
        assert sizes == list(shape)


def test_slices_give_way_before_their_pixels():
    sizes = [part.stop - part.start for part in middle((100, 100, 60), 400_000, through=2)]
    assert sizes == [100, 100, 40]
    sizes = [part.stop - part.start for part in middle((100, 100, 60), 100_000, through=2)]
    assert sizes[2] == MIN_SLICES
