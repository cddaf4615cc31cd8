"""Make the sample DICOM series head_dicom/ out of the phantom scan head_thick.nii.gz.

    python sample_data/make_dicom.py [FOLDER]

Twelve of its slices; voxels are averaged two by two in plane, so that the series stays small. Sums of integers and
fixed UIDs: the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

NAME = "head_dicom"
SOURCE = Path(__file__).parent / "head_thick.nii.gz"
FIRST, SLICES = 5, 12  # of the 22 slices of the source, the middle ones
BLOCK = 2  # voxels averaged along each axis in the plane
MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4")


def uid(*parts: object) -> UID:
    """A UID that depends on what it names alone (PS3.5, B.2: 2.25 and a number of 128 bits)."""
    digest = hashlib.sha256("/".join(("medsr sample", NAME, *map(str, parts))).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def phantom() -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Voxels (I, J, K) with i to the patient's left and j to the back, and the affine, voxel to LPS mm."""
    image = nib.load(SOURCE)
    fine = np.asarray(image.dataobj)[:, :, FIRST : FIRST + SLICES].astype(np.int64)
    i, j, k = fine.shape
    total = fine.reshape(i // BLOCK, BLOCK, j // BLOCK, BLOCK, k).sum(axis=(1, 3))
    voxels = (2 * total + BLOCK**2) // (2 * BLOCK**2)  # rounded half up
    step = np.diag([BLOCK, BLOCK, 1.0, 1.0])
    step[:3, 3] = (BLOCK - 1) / 2, (BLOCK - 1) / 2, FIRST
    # Both in-plane axes are turned round: NIfTI's grow to the right and to the front, DICOM's to the left and back.
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:2, 3] = voxels.shape[0] - 1, voxels.shape[1] - 1
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    return voxels[::-1, ::-1].astype(np.uint16), to_lps @ image.affine.astype(np.float64) @ step @ turn


def datasets() -> Iterator[Dataset]:
    """One MR image a slice, in slice order."""
    voxels, affine = phantom()
    width, height, _ = (round(float(s), 4) for s in np.linalg.norm(affine[:3, :3], axis=0))
    for k in range(SLICES):
        ds = common(k)
        ds.ImagePositionPatient = [round(float(v), 4) for v in (affine @ [0, 0, k, 1])[:3]]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [height, width]
        ds.SliceThickness = ds.SpacingBetweenSlices = round(float(affine[2, 2]), 4)
        ds.SliceLocation = ds.ImagePositionPatient[2]
        ds.Rows, ds.Columns = voxels.shape[1], voxels.shape[0]
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = int(voxels[:, :, k].min()), int(voxels[:, :, k].max())
        ds.PixelData = voxels[:, :, k].T.astype("<u2").tobytes()
        for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
            ds[keyword].VR = "US"
        ds["PixelData"].VR = "OW"
        yield ds


def common(k: int) -> Dataset:
    """All that is no geometry and no voxel. What a phantom has not, such as an echo time, is left empty."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = uid("software"), "MEDSR_SAMPLE"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MR_IMAGE
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid("instance", k)
    ds.SpecificCharacterSet, ds.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^Head", "MEDSR-SAMPLE", "", ""
    ds.PatientPosition, ds.BodyPartExamined = "HFS", "HEAD"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid("study"), uid("series"), uid("frame")
    ds.PositionReferenceIndicator = ""
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.StudyDescription, ds.SeriesDescription = "Digital phantom", "Head phantom T1w, thick slices"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "MR", "Digital phantom", "make_dicom.py"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 1, 1, k + 1
    ds.QualityControlImage, ds.SyntheticData, ds.BurnedInAnnotation = "YES", "YES", "NO"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "RM", "NONE", "", "2D"
    ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.WindowCenter, ds.WindowWidth = 110, 220
    return ds


def main(folder: Path) -> None:
    """Write the series to ``folder``/head_dicom."""
    (folder / NAME).mkdir(exist_ok=True)
    for number, ds in enumerate(datasets(), 1):
        ds.save_as(folder / NAME / f"IM{number:02d}.dcm", enforce_file_format=True)
    size = sum(path.stat().st_size for path in (folder / NAME).iterdir())
    print(f"{NAME}: {SLICES} slices, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
