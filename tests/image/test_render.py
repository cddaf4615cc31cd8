from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsr.errors import JobError
from medsr.image import render
from medsr.image.geometry import Geometry


def marked(code: str) -> tuple[np.ndarray, Geometry]:
    """A volume stored in orientation ``code`` that grows towards the patient's left, back and head (1, 100, 10000)."""
    ras = np.zeros((12, 16, 20))
    ras += np.arange(12)[::-1, None, None] + 100 * np.arange(16)[::-1, None] + 10000 * np.arange(20)
    image = nib.Nifti1Image(ras, np.diag([1.0, 1.5, 2.0, 1.0]))
    turned = image.as_reoriented(_to(code))
    return np.asarray(turned.dataobj), Geometry(turned.shape, turned.affine)


def _to(code: str) -> np.ndarray:
    ornt = nib.orientations
    return ornt.ornt_transform(ornt.axcodes2ornt("RAS"), ornt.axcodes2ornt(code))


CODES = ["".join(p) for pair in itertools.product("RL", "AP", "SI") for p in itertools.permutations(pair)]


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_shows_the_same_radiological_picture(code: str) -> None:
    """All 48 ways to store a volume; nibabel does the turning."""
    array, geometry = marked(code)
    left, back, head = np.arange(12), 100 * np.arange(16), 10000 * np.arange(20)
    axial = render.oriented_slice(array, geometry, "axial", 0.5)
    np.testing.assert_array_equal(axial.values, left[None, :] + back[:, None] + 100000)
    assert axial.pixel_mm == pytest.approx((1.5, 1.0))
    coronal = render.oriented_slice(array, geometry, "coronal", 0.25)
    np.testing.assert_array_equal(coronal.values, left[None, :] + head[::-1, None] + 400)
    assert coronal.pixel_mm == pytest.approx((2.0, 1.0))
    sagittal = render.oriented_slice(array, geometry, "sagittal", 1.0)
    np.testing.assert_array_equal(sagittal.values, back[None, :] + head[::-1, None] + 11)
    assert sagittal.pixel_mm == pytest.approx((2.0, 1.5))


def test_oblique_volumes_use_the_nearest_axes() -> None:
    array, geometry = marked("LPS")
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    oblique = Geometry(geometry.shape, turn @ geometry.affine)
    np.testing.assert_array_equal(
        render.oriented_slice(array, oblique, "axial").values, render.oriented_slice(array, geometry, "axial").values
    )


def test_window() -> None:
    values = np.array([[-2000.0, -160.0, 40.0, 240.0, 3000.0, np.nan]])
    assert render.render_slice(values, (-160.0, 240.0)).tolist() == [[0, 0, 128, 255, 255, 0]]


def test_display_window_comes_from_the_reference() -> None:
    values = np.arange(1001, dtype=float)
    assert render.display_window(values, "MR") == pytest.approx((0, 997))
    assert render.display_window(values, "CT") == (-160, 240)


def test_contact_sheet_keeps_the_physical_size() -> None:
    """A coarse and a fine picture of one object cover the same screen area, voxel by voxel."""
    fine = np.arange(64, dtype=np.uint8).reshape(8, 8) + 100
    coarse = fine[::2, ::2]
    sheet = render.contact_sheet([(coarse, (2.0, 2.0)), (fine, (1.0, 1.0))], ["coarse", "fine"], height=32)
    top, gap = render.LABEL_HEIGHT, render.GAP
    assert sheet.shape == (32 + top, 64 + gap)
    np.testing.assert_array_equal(sheet[top:, :32], np.kron(coarse, np.ones((8, 8), np.uint8)))
    np.testing.assert_array_equal(sheet[top:, 32 + gap :], np.kron(fine, np.ones((4, 4), np.uint8)))
    assert (sheet[top:, 32 : 32 + gap] == 0).all()
    assert sheet[:top, :32].max() > 200, "the label is drawn"
    assert sheet[:top, 32 + gap :].max() > 200


def test_contact_sheet_shows_thick_slices_at_their_aspect() -> None:
    sheet = render.contact_sheet([(np.full((5, 40), 9, np.uint8), (4.0, 1.0))], ["thick"], height=20)
    assert sheet.shape == (20 + render.LABEL_HEIGHT, 40)


def test_contact_sheet_wants_a_label_for_each_panel() -> None:
    with pytest.raises(ValueError):
        render.contact_sheet([(np.zeros((4, 4), np.uint8), (1.0, 1.0))], [])


def test_stack_sheets() -> None:
    stacked = render.stack_sheets([np.full((3, 4), 7, np.uint8), np.full((2, 6), 8, np.uint8)])
    assert stacked.shape == (3 + 2 + 2 * render.GAP, 6)
    assert (stacked[:3, :4] == 7).all()
    assert (stacked[:3, 4:] == 0).all()


def test_png_round_trip(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (33, 21), dtype=np.uint8)
    render.save_png(tmp_path / "a b é.png", picture)
    with Image.open(tmp_path / "a b é.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert len(list(tmp_path.iterdir())) == 1


def test_png_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot write"):
        render.save_png(tmp_path / "missing" / "a.png", np.zeros((2, 2), np.uint8))
