from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsr.image.modality import by_header, by_voxels
from medsr.image.nifti import read


@pytest.mark.parametrize(
    ("stem", "modality"),
    [
        ("sub-01_ses-02_T1w", "MR"),
        ("sub-01_acq-ct_run-1_FLAIR", "MR"),
        ("sub-01_desc-mask_T2w", "MR"),
        ("sub-01_space-T1w_bold", "MR"),
        ("sub-01_part-mag_T2starw", "MR"),
        ("vsseg-001_T1wGd-k2", "MR"),
        ("acr-siemens-aera_MR", "MR"),
        ("brain_t1", "MR"),
        ("chest_ct", "CT"),
        ("lidc-0314_chest_CT_part-1", "CT"),
        ("CT_head", "CT"),
        ("patient.7 CTA", "CT"),
        ("scan", None),
        ("doctor_connect", None),
        ("actor", None),
        ("", None),
    ],
)
def test_modality_by_name(stem: str, modality: str | None) -> None:
    verdict = by_header(stem, {})
    assert (verdict.modality, verdict.foreign) == (modality, None)
    assert ("file name" in verdict.evidence) == (modality is not None)


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        ("sub-01_T1w_seg", "label map"),
        ("sub-01_label-GM_probseg", "label map"),
        ("sub-01_desc-brain_mask", "label map"),
        ("chest_ct_label", "label map"),
        ("aparc+aseg", "label map"),
        ("sub-01_T1map", "parameter map"),
        ("knee_T2_map", "parameter map"),
        ("sub-01_ADC", "parameter map"),
        ("sub-01_R2starmap", "parameter map"),
        ("sub-01_part-phase_bold", "phase"),
        ("sub-01_phasediff", "phase"),
        ("sub-01_pet", "PET"),
    ],
)
def test_no_image_by_name(stem: str, reason: str) -> None:
    assert reason in str(by_header(stem, {}).foreign)


@pytest.mark.parametrize(
    ("sidecar", "modality", "reason"),
    [
        ({"Modality": "CT"}, "CT", None),
        ({"Modality": "MR"}, "MR", None),
        ({"Modality": "PT"}, None, "PET"),
        ({"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "MR", "phase"),
        ({"Modality": "MR", "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "MR", "parameter map"),
        ({"Modality": "MR", "ImageType": "PHASE"}, "MR", None),
        ({"Modality": None}, None, None),
        ({"Modality": ["MR"]}, None, None),
    ],
)
def test_sidecar(sidecar: dict, modality: str | None, reason: str | None) -> None:
    verdict = by_header("scan", sidecar)
    assert verdict.modality == modality
    assert (verdict.foreign is None) == (reason is None)
    assert reason is None or reason in str(verdict.foreign)


def test_sidecar_is_above_the_name() -> None:
    assert by_header("scan_ct", {"Modality": "MR"}).modality == "MR"


def test_eight_bit_ct() -> None:
    assert "8-bit" in str(by_header("chest_ct", {}, dtype="uint8").foreign)
    assert by_header("head_T1w", {}, dtype="uint8").foreign is None


def ct_like(air: float, rng: np.random.Generator) -> np.ndarray:
    array = rng.normal(40, 20, (30, 30, 30))
    array[:8] = air
    array[20:22] = 900
    array[8, 8, :3] = -950  # a few voxels between
    return np.rint(array).astype(np.float32)


@pytest.mark.parametrize("air", [-1000, -1024, -2000, -3024])
def test_ct_by_voxels(air: float) -> None:
    verdict = by_voxels(ct_like(air, np.random.default_rng(0)), None)
    assert verdict.modality == "CT"
    assert "voxels" in verdict.evidence


def test_mr_by_voxels() -> None:
    rng = np.random.default_rng(0)
    assert by_voxels(rng.gamma(2, 200, (30, 30, 30)).astype(np.float32), None).modality == "MR"
    ringing = rng.normal(0, 60, (30, 30, 30)) + 1000 * (rng.random((30, 30, 30)) > 0.5)
    assert by_voxels(ringing.astype(np.float32), None).modality == "MR", "a few negative values are interpolation"


def test_modality_that_cannot_be_told() -> None:
    """Wrapped phase: integers evenly from -4096 to 4095 are neither."""
    phase = np.random.default_rng(0).integers(-4096, 4096, (30, 30, 30)).astype(np.float32)
    assert by_voxels(phase, None).modality is None


def test_labels_by_voxels() -> None:
    labels = np.kron(np.random.default_rng(0).integers(0, 40, (6, 6, 6)), np.ones((8, 8, 8))).astype(np.float32)
    assert "label map" in str(by_voxels(labels, "MR").foreign)
    noisy = labels + np.random.default_rng(1).integers(-2, 3, labels.shape)
    assert by_voxels(noisy.astype(np.float32), "MR").foreign is None, "few values, but texture"


# Scans cut to the body, to the lungs or to bone, and one of each kind of MR.
SCANS = {
    "test/c3l-00189_lungbase_CT": "CT",
    "train/acrinflt-001_trunk_CT": "CT",
    "train/cctumor-ccth-a01_hip_CT": "CT",
    "train/nsclcrg-r01001_shoulder_CT": "CT",
    "train/lungx-ct004_chest_CT": "CT",
    "val/kits-00072_abdomen_CT": "CT",
    "val/sts-028_CT": "CT",
    "val/scttest_T1w": "MR",
    "val/scttest_T2star": "MR",
    "val/btp-PGBM003_FLAIR": "MR",
    "train/acr-siemens-aera_MR": "MR",
}


@pytest.mark.parametrize("name", SCANS)
def test_real_scans_are_told_by_their_voxels_alone(data_dir: Path, name: str) -> None:
    verdict = by_voxels(read(data_dir / f"{name}.nii.gz").array, None)
    assert (verdict.modality, verdict.foreign) == (SCANS[name], None), verdict.evidence
