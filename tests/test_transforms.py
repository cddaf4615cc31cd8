"""MONAI transforms around medsr's reader and operators."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage

import medsr
from medsr.degradation import Degradation
from medsr.errors import InputError
from medsr.image.geometry import Geometry
from medsr.image.intensity import fit_intensity
from medsr.transforms import Degraded, LoadVolumed, Normalised, VolumeReader
from tests.image.dicom_phantom import Phantom
from tests.image.dicom_phantom import save as save_dicom

AFFINE = np.array([[-1.0, 0.1, 0.0, 30], [0.1, 1.0, 0.2, -40], [0.0, -0.2, 3.0, 7], [0, 0, 0, 1]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * [1.0, 1.2, 3.0]


def save(path, array, affine=AFFINE):
    image = nibabel.Nifti1Image(np.asarray(array, np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


@pytest.fixture
def mr(tmp_path):
    rng = np.random.default_rng(0)
    array = np.zeros((16, 18, 10))
    array[3:13, 3:15, 2:8] = rng.uniform(200, 900, (10, 12, 6))
    return save(tmp_path / "mr.nii.gz", array)


@pytest.fixture
def four_dimensional(tmp_path):
    return save(tmp_path / "fmri.nii.gz", np.random.default_rng(0).uniform(100, 900, (8, 8, 6, 4)))


def test_load_image_with_the_reader_is_medsr_read(mr):
    loaded = LoadImage()(mr, reader=VolumeReader())
    image = loaded[0] if isinstance(loaded, tuple) else loaded
    volume = medsr.read(mr)
    np.testing.assert_array_equal(image, volume.array)
    np.testing.assert_allclose(image.affine, volume.geometry.affine, atol=1e-6)
    assert image.meta["modality"] == "MR"


def test_a_refused_file_stays_refused(four_dimensional):
    """MONAI's own readers open it; with ours in the call they are not asked."""
    assert LoadImage()(four_dimensional).shape == (8, 8, 6, 4)
    with pytest.raises(InputError, match="4-D"):
        LoadImage()(four_dimensional, reader=VolumeReader())


def test_dicom_by_the_same_reader(tmp_path):
    """A folder of slices as one image; MONAI's own reader takes one with a slice missing without a word."""
    phantom = Phantom("CT")
    folder = save_dicom(tmp_path / "series", phantom.classic())
    image = LoadImage(image_only=True)(folder, reader=VolumeReader())
    np.testing.assert_array_equal(image, phantom.values)
    np.testing.assert_allclose(image.affine, phantom.affine, atol=1e-4)
    assert image.meta["modality"] == "CT"
    load = LoadVolumed("image")
    np.testing.assert_array_equal(load({"image": folder})["image"][0], phantom.values)
    other = Phantom("MR", series=4)
    save_dicom(folder.parent / "series", other.classic(), prefix="MR")
    with pytest.raises(InputError, match="--series"):
        LoadImage()(folder, reader=VolumeReader())
    chosen = LoadImage(image_only=True)(folder, reader=VolumeReader(series=4))
    np.testing.assert_array_equal(chosen, other.values)
    for path in folder.glob("MR*"):
        path.unlink()
    (folder / "IM3.dcm").unlink()
    assert LoadImage(image_only=True, reader="PydicomReader")(folder).shape == (5, 6, 6)
    with pytest.raises(InputError, match="missing"):
        LoadImage()(folder, reader=VolumeReader())


def test_the_reader_passes_its_options_on(four_dimensional):
    reader = VolumeReader()
    volume = reader.read(four_dimensional, volume=2)
    array, meta = reader.get_data(volume)
    np.testing.assert_array_equal(array, medsr.read(four_dimensional, volume=2).array)
    assert tuple(meta["spatial_shape"]) == (8, 8, 6)
    with pytest.raises(ValueError, match="one scan at a time"):
        reader.read([four_dimensional, four_dimensional])


def test_load_volumed_in_a_compose(mr, tmp_path):
    ct = save(tmp_path / "odd.nii.gz", np.random.default_rng(1).integers(-1000, 800, (10, 12, 8)))
    load = Compose([LoadVolumed("image"), Normalised("image")])
    made = load({"image": str(mr), "note": "kept"})
    volume = medsr.read(mr)
    intensity = fit_intensity(volume.array, "MR")
    image = made["image"]
    assert isinstance(image, MetaTensor)
    assert image.shape == (1, 16, 18, 10)
    assert made["note"] == "kept"
    np.testing.assert_allclose(image[0], intensity.apply(volume.array), atol=1e-6)
    np.testing.assert_allclose(image.affine, volume.geometry.affine, atol=1e-6)
    assert (image.meta["offset"], image.meta["scale"]) == (intensity.offset, intensity.scale)
    # the modality that is given decides
    hounsfield = load({"image": str(ct), "modality": "CT"})["image"]
    np.testing.assert_allclose(hounsfield[0], (medsr.read(ct, modality="CT").array + 1024) / 2000, atol=1e-6)
    with pytest.raises((InputError, RuntimeError)) as caught:
        load({"image": str(tmp_path / "none.nii.gz")})
    chain = [caught.value, caught.value.__cause__]
    assert any(isinstance(error, InputError) for error in chain)


def test_padding_of_ct_is_air(tmp_path):
    array = np.full((8, 8, 8), 40)
    array[:2] = -2000
    array[2:4] = -900
    path = save(tmp_path / "ct.nii.gz", array)
    made = Normalised("image")(LoadVolumed("image")({"image": path, "modality": "CT"}))["image"]
    assert made.min() == 0


def test_degraded_is_the_operator_with_its_grid(mr):
    volume = medsr.read(mr)
    image = LoadVolumed("image")({"image": mr})
    profiles = [("sinc", 1.0), ("gauss", 1.2), ("box", 1.0)]
    made = Degraded(["image"], [2.0, 1.7, 1.0], profiles)(image)["image"]
    coarse = volume.geometry.with_shape((8, 11, 10))
    assert made.shape == (1, *coarse.shape)
    np.testing.assert_allclose(made.affine, coarse.affine, atol=1e-6)
    A = Degradation.between(volume.geometry, coarse, profiles)
    torch.testing.assert_close(made[0].as_tensor(), A(torch.from_numpy(volume.array)))
    # the field of view is the same, edge to edge
    fine_geometry, coarse_geometry = volume.geometry, Geometry(tuple(made.shape[1:]), made.affine.numpy())
    for corner in ([-0.5] * 3, [n - 0.5 for n in fine_geometry.shape]):
        other = [-0.5] * 3 if corner[0] < 0 else [n - 0.5 for n in coarse_geometry.shape]
        np.testing.assert_allclose(
            fine_geometry.affine @ [*corner, 1], coarse_geometry.affine @ [*other, 1], atol=1e-4
        )  # fmt: skip
    assert image["image"].shape == (1, 16, 18, 10)  # the input is not changed


def test_degraded_spares_other_keys(mr):
    data = LoadVolumed("image")({"image": mr, "label": "unchanged"})
    made = Degraded(["image"], [2.0, 2.0, 1.0], [("box", 1.0)] * 3)(data)
    assert made["label"] == "unchanged"
    with pytest.raises(KeyError):
        Degraded(["other"], [2.0, 2.0, 1.0], [("box", 1.0)] * 3)(data)
