"""What the command says: hints that can be typed, lists that tell series apart."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path

import click
import numpy as np
import pytest

from medsr.card import read_card
from medsr.cli import cli
from medsr.errors import ConfigError, InputError
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.plan import make_plan
from medsr.request import Request
from medsr.wording import entries, entries_text, isotropic_command, options_of
from tests.image.dicom_phantom import Phantom, save

# Every field that is no grid, away from its default.
ASKED = {
    "texture": 0.5, "samples": 3, "steps": 9, "sampler": "heun", "seed": 4, "uncertainty": True, "detail_map": True,
    "report": True, "profile": "sinc,sinc,gauss:1.2", "consistency": "soft", "from_acquired": "off", "modality": "mr",
    "volume": 2, "prefer": "qform", "assume_spacing": (1.0, 1.0, 10 / 3), "series": "1.2.3/2", "deskew": True,
    "fill_gaps": True, "dicom_template": Path(__file__).parent, "series_description": "it's & more",
    "series_number": 77, "burn_in": True, "device": "cpu", "model": "my model.safetensors", "threads": 2,
}  # fmt: skip
GRID = {"scale", "spacing", "isotropic", "target"}
SAME_ALWAYS = {"keep_private"}  # has one value alone


def parsed(words: list[str]) -> Request:
    """The request that a command line asks for."""
    group = click.Context(cli, **cli.context_settings)
    given = cli.commands["upscale"].make_context("upscale", [__file__, *words], parent=group).params
    return Request(**{field.name: given[field.name] for field in fields(Request) if field.name != "target"})


def test_a_request_in_words_is_that_request():
    assert {field.name for field in fields(Request)} == ASKED.keys() | GRID | SAME_ALWAYS
    assert options_of(Request()) == []
    request = Request(**ASKED)
    assert parsed(options_of(request)) == request
    assert parsed(options_of(replace(request, scale=(2.0,), volume="all"))) == replace(request, volume="all")


@pytest.mark.parametrize("name", sorted(ASKED))
def test_each_wish_alone_in_words(name):
    request = Request(**{name: ASKED[name]})
    assert parsed(options_of(request)) == request


def test_the_hint_keeps_what_was_asked_for():
    header = Header(
        Path("a b.nii.gz"), "nifti", Geometry((64, 60, 12), np.diag([0.5, 0.5, 5.0, 1.0])), "int16", "MR", "tag", 2
    )
    request = Request(modality="mr", prefer="qform", texture=0.5)
    plan = make_plan(header, request, read_card())
    command = isotropic_command(Path("some where/a b.nii.gz"), header, plan)
    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["medsr", "upscale", "some where/a b.nii.gz"]
    assert words[-2:] == ["-o", "some where/a b_iso.nii.gz"]
    assert parsed(words[3:]) == replace(request, isotropic=True)


def test_voxels_of_the_only_series_are_read(tmp_path):
    """Only where there are several has one to be chosen."""
    save(tmp_path / "one", Phantom("MR").classic())
    assert entries(tmp_path / "one", voxels=True)[0]["acquired_by_spectrum"] == [None, None, None]
    save(tmp_path / "two", Phantom("MR", series=2).classic())
    with pytest.raises(InputError, match="choose one with --series"):
        entries(tmp_path, voxels=True)
    with pytest.raises(ConfigError, match="--prefer: only for NIfTI"):
        entries(tmp_path, prefer="sform")


def test_series_of_one_number_are_listed_with_their_uids(tmp_path):
    """Studies number their series alike; each can then be chosen by what its line says."""
    for number in (1, 2):
        slices = Phantom(series=number).classic()
        for ds in slices:
            ds.SeriesNumber = 4
        save(tmp_path / str(number), slices)
    found = entries(tmp_path)
    text = entries_text(found)
    assert len(found) == 2
    for entry in found:
        assert f"[UID {entry['uid']}]" in text
        assert len(entries(tmp_path, series=entry["uid"])) == 1
