"""Small reference volumes: pieces of the phantoms in sample_data/."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsr.crops import middle
from medsr.image.nifti import read, write
from medsr.resources import sample_path


@pytest.fixture(scope="session")
def fine_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index: two MR volumes of one subject, one CT, all of the split test, and a val subject."""
    folder = tmp_path_factory.mktemp("fine")
    head = read(sample_path("head_fine.nii.gz"), modality="MR")
    trunk = read(sample_path("trunk_ct_fine.nii.gz"), modality="CT")
    for name, volume, size in (
        ("test/head_T1w.nii.gz", head, (72, 66, 12)),
        ("test/head_T2w.nii.gz", head, (64, 70, 14)),
        ("test/trunk_CT.nii.gz", trunk, (70, 68, 11)),
        ("val/other_T1w.nii.gz", head, (64, 64, 8)),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name, middle(volume, size))
    native = "native/native/native"
    (folder / "INDEX.csv").write_text(
        "file,subject,split,modality,native,phantom\n"
        f"test/head_T1w.nii.gz,head,test,MR,{native},no\n"
        f"test/head_T2w.nii.gz,head,test,MR,{native},no\n"
        f"test/trunk_CT.nii.gz,trunk,test,CT,{native},yes\n"
        f"val/other_T1w.nii.gz,other,val,MR,{native},no\n"
    )
    return folder
