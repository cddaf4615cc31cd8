"""The public names: all there, typed, and none of them paid for before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import medsr

HEAVY = ("torch", "monai", "nibabel", "numpy", "scipy", "skimage", "pydantic", "rich")


def test_public_names_are_there():
    for name in medsr.__all__:
        assert getattr(medsr, name).__module__.startswith("medsr"), name
        assert name in dir(medsr)
    with pytest.raises(AttributeError, match="no attribute 'upscal'"):
        _ = medsr.upscal


def test_import_is_cheap():
    code = f"import medsr, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
