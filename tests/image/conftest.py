"""A valid small NIfTI file, and readable ways to spoil it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

NiftiFile = Callable[..., Path]

AFFINE = np.array([[0, 0, 3.0, -20], [-1, 0, 0, 30], [0, 1.5, 0, -40], [0, 0, 0, 1]])  # spacing 1 x 1.5 x 3 mm, P-S-R


@pytest.fixture
def voxels() -> np.ndarray:
    """(7, 6, 5) int16 without symmetry, so that a wrong axis order or offset shows."""
    return np.arange(210).reshape(7, 6, 5).astype(np.int16) ** 2 % 997


@pytest.fixture
def nifti_file(tmp_path: Path, voxels: np.ndarray) -> NiftiFile:
    """Write a file from raw bytes: a sound header, then ``fields`` set as given, unchecked; returns its path."""

    def make(
        name: str = "scan.nii",
        *,
        array: np.ndarray | None = None,
        affine: np.ndarray = AFFINE,
        version: int = 1,
        endianness: str = "<",
        packed: bool | None = None,
        codes: tuple[int, int] = (1, 1),
        extensions: bytes = b"\0\0\0\0",
        tail: bytes = b"",
        **fields: Any,
    ) -> Path:
        array = voxels if array is None else array
        header = (nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header)(endianness=endianness)
        header.set_data_dtype(array.dtype)
        header.set_data_shape(array.shape)
        header.set_sform(affine, codes[0])
        header.set_qform(affine, codes[1])
        header["xyzt_units"] = 2
        header["scl_slope"], header["scl_inter"] = 1, 0
        header["vox_offset"] = int(header["sizeof_hdr"]) + len(extensions)
        for field, value in fields.items():
            header[field] = value
        content = header.binaryblock + extensions
        content += array.astype(array.dtype.newbyteorder(endianness)).tobytes(order="F") + tail
        path = tmp_path / name
        packed = name.lower().endswith(".gz") if packed is None else packed
        path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
        return path

    return make
