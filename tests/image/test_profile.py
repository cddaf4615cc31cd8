"""Profiles by evidence: the user before tags, tags before assumptions, and a guess is called a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsr.errors import ConfigError
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.profile import AxisProfile, choose_profiles, condition, is_thick_slice, parse_profile


def header(spacing=(1.0, 1.0, 1.0), shape=(64, 64, 40), **fields) -> Header:
    geometry = Geometry(shape, np.diag([*spacing, 1.0]))
    values = {"dtype": "int16", "modality": "MR", "modality_evidence": "test", "slice_axis": 2} | fields
    return Header(path=Path("scan.nii.gz"), format="nifti", geometry=geometry, **values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gauss:1.0", ["gauss:1"] * 3),
        ("sinc", ["sinc"] * 3),
        ("box:1.3", ["box:1.3"] * 3),
        ("box", ["box:1"] * 3),
        (" SINC , sinc,gauss:0.8", ["sinc", "sinc", "gauss:0.8"]),
    ],
)
def test_parse(text, expected):
    profiles = parse_profile(text)
    assert profiles is not None
    assert [str(p) for p in profiles] == expected
    assert all(p.known and p.evidence == "user" for p in profiles)


def test_auto_leaves_the_choice():
    assert parse_profile("auto") is None


@pytest.mark.parametrize(
    "text",
    ["", "gaus:1", "gauss:", "gauss:x", "gauss:0", "gauss:-1", "box:nan", "box:inf", "sinc:2", "sinc,sinc", "identity",
     "sinc,sinc,sinc,sinc", "gauss:1:2", "gauss:1,,sinc"],
)  # fmt: skip
def test_parse_refuses(text):
    with pytest.raises(ConfigError, match="profile") as caught:
        parse_profile(text)
    assert caught.value.exit_code == 2


def chosen(scan, modality="MR", axes=(0, 1, 2), text="auto", **kwargs):
    return choose_profiles(scan, modality, axes, text, **kwargs)


def test_user_overrules_tags():
    scan = header((1, 1, 5), slice_thickness=4.0, acquisition_type="2D")
    assert [str(p) for p in chosen(scan, text="sinc,sinc,box:0.7")] == ["sinc", "sinc", "box:0.7"]


def test_axis_that_is_not_scaled_is_identity_whatever_is_asked():
    assert [p.kind for p in chosen(header(), axes=[1], text="gauss:1")] == ["identity", "gauss", "identity"]


@pytest.mark.parametrize(
    ("scan", "modality", "expected"),
    [
        (header(), "MR", [("sinc", False)] * 3),
        (header((1, 1, 5)), "MR", [("sinc", False), ("sinc", False), ("gauss:1", False)]),
        (header((1, 1, 5), slice_thickness=4.0), "MR", [("sinc", False), ("sinc", False), ("gauss:0.8", True)]),
        (header((1, 1, 1), acquisition_type="2D"), "MR", [("sinc", False), ("sinc", False), ("gauss:1", False)]),
        (header((1, 1, 3), acquisition_type="3D"), "MR", [("sinc", False), ("sinc", False), ("sinc", True)]),
        (
            header((1, 1, 1), acquisition_type="3D", slice_thickness=2.0),
            "MR",
            [("sinc", False), ("sinc", False), ("sinc", False)],
        ),
        (header(acquired=(64, 32, None)), "MR", [("sinc", True), ("sinc", False), ("sinc", False)]),
        (header((0.7, 0.7, 2.5)), "CT", [("gauss:1", False), ("gauss:1", False), ("box:1", False)]),
        (
            header((0.7, 0.7, 2.5), slice_thickness=3.0),
            "CT",
            [("gauss:1", False), ("gauss:1", False), ("box:1.2", True)],
        ),
        # A thickness of 0 or of a whole stack is a fault of the file.
        (header((1, 1, 5), slice_thickness=0.0), "MR", [("sinc", False), ("sinc", False), ("gauss:1", False)]),
        (header((1, 1, 5), slice_thickness=150.0), "CT", [("gauss:1", False), ("gauss:1", False), ("box:1", False)]),
        # Sagittal storage: the slice axis is i.
        (
            header((5, 1, 1), slice_axis=0, slice_thickness=5.0),
            "MR",
            [("gauss:1", True), ("sinc", False), ("sinc", False)],
        ),
        (header(), None, [("sinc", False)] * 3),
    ],
)
def test_evidence(scan, modality, expected):
    profiles = chosen(scan, modality)
    assert [(str(p), p.known) for p in profiles] == expected
    for profile in profiles:
        assert profile.evidence.split(":")[0] == ("tags" if profile.known else "assumed")


def test_cropped_k_space_is_known_to_be_a_sinc():
    profiles = chosen(header(acquired=(32, 32, None)), axes=[0, 1], acquired=(True, True, False))
    assert [(p.kind, p.known) for p in profiles] == [("sinc", True), ("sinc", True), ("identity", True)]


def test_thick_slice():
    assert is_thick_slice(header((1, 1, 1.5)))
    assert not is_thick_slice(header((1, 1, 1.4)))
    assert not is_thick_slice(header((3, 1, 3)))


@pytest.mark.parametrize(
    ("kind", "width"), [("box", 0.5), ("box", 1.0), ("box", 1.6), ("gauss", 0.6), ("gauss", 1.0), ("gauss", 1.3)]
)
def test_condition_against_the_spectrum_of_a_circulant(kind, width):
    """Largest over smallest eigenvalue of A A^T of a periodic scan with 60 fine samples in each coarse one."""
    coarse, ratio = 32, 60
    offset = (np.arange(coarse * ratio) + 0.5) / ratio  # coarse spacings from the edge
    offset = np.minimum(offset, coarse - offset)
    shape = (offset <= width / 2) if kind == "box" else np.exp(-4 * np.log(2) * (offset / width) ** 2)
    kernel = shape / shape.sum()
    rows = np.stack([np.roll(kernel, m * ratio) for m in range(coarse)])
    eigenvalues = np.linalg.eigvalsh(rows @ rows.T)
    measured = eigenvalues.max() / eigenvalues.min()
    predicted = condition(AxisProfile(kind, width, "user", known=True))
    assert measured == pytest.approx(predicted, rel=0.03)


def test_box_of_two_spacings_has_no_inverse():
    assert condition(AxisProfile("box", 2.0, "user", known=True)) == float("inf")
    assert condition(AxisProfile("sinc", 1.0, "user", known=True)) == 1
