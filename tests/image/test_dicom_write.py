"""Derived DICOM series: where their voxels are and what, what they say of themselves, and that they come out alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLSNearLossless

from medsr.errors import ConfigError, InputError, JobError, PlanError
from medsr.image.dicom_burn import mark_for
from medsr.image.dicom_read import find_series, inspect, inspect_series, read, read_scan
from medsr.image.dicom_write import check_template, series_uid, write_series
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.volume import Provenance, Volume
from tests.image.dicom_crude import DERIVATION, finer, write_crude
from tests.image.dicom_judges import dciodvfy, files_of
from tests.image.dicom_phantom import LPS_TO_RAS, Phantom, needs_tool, rotation, save

MARK = "AI SR, not acquired"


def series(folder: Path, phantom: Phantom | None = None, change: Callable[[Dataset], None] | None = None) -> Header:
    """A phantom, changed and saved as a classic series; its header."""
    datasets = (phantom or Phantom()).classic()
    for ds in datasets:
        if change is not None:
            change(ds)
    return inspect(save(folder, datasets))


def first(folder: Path) -> Dataset:
    return pydicom.dcmread(files_of(folder)[0])


def volume_of(header: Header, scale: tuple[float, float, float] = (2, 2, 2)) -> Volume:
    return finer(read(header), scale)


def target(tmp_path: Path, name: str = "out") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


# --- voxels and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    scale=st.tuples(*[st.floats(1, 3)] * 3),
    slope=st.sampled_from([1.0, 0.25, 3.7]),
)
def test_read_back(tmp_path_factory, modality, kind, angles, spacing, scale, slope) -> None:
    """Every corner within 1e-4 mm and every voxel within half a step, in any place."""
    folder = tmp_path_factory.mktemp("read_back")
    spacing = tuple(float(f"{s:.8g}") for s in spacing)
    phantom = Phantom(modality, spacing=spacing, orientation=rotation(angles), slope=slope if modality == "MR" else 1.0)
    source = inspect(save(folder / "in", phantom.classic() if kind == "classic" else [phantom.enhanced()]))
    crude = write_crude(folder / "out", source, scale)
    found = inspect(folder / "out")
    again = read(found, modality=crude.volumes[0].modality)
    assert again.geometry.same_grid(crude.volumes[0].geometry, 1e-4)
    step = 1.0 if modality == "CT" else slope
    assert np.abs(again.array - crude.volumes[0].array).max() <= step / 2 * 1.0001
    assert found.foreign == "a result of medsr, not an acquired scan"


def test_places_by_hand(tmp_path: Path) -> None:
    """Halved voxels: the first centre moves outwards by a quarter of the old spacing, along each axis."""
    header = series(tmp_path / "in", Phantom(spacing=(0.5, 0.8, 2.0), origin=(-12.5, 20.25, -100.0)))
    write_series(target(tmp_path), [volume_of(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert (ds.Rows, ds.Columns) == (12, 10)
    assert ds.PixelSpacing == [0.4, 0.25]
    assert ds.ImagePositionPatient == [-12.5 - 0.125, 20.25 - 0.2, -100 - 0.5]
    assert (ds.SpacingBetweenSlices, ds.SliceThickness, ds.SliceLocation) == (1.0, 1.0, -100.5)


def test_thickness_of_slices_that_stay(tmp_path: Path) -> None:
    """In plane only, a slice of 5 mm every 2 mm stays one of 5 mm."""
    header = series(tmp_path / "in", change=lambda ds: setattr(ds, "SliceThickness", 5))
    write_series(target(tmp_path), [volume_of(header, (2, 2, 1))], header, DERIVATION)
    assert first(tmp_path / "out").SliceThickness == 5
    assert first(tmp_path / "out").SpacingBetweenSlices == 2


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.01, 10)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
)
@settings(max_examples=20)
def test_corners_of_a_large_volume(angles, spacing, origin) -> None:
    """What 16 characters hold of the tags puts the far corner of 2048 x 2048 x 2000 voxels right to 1e-4 mm."""
    from medsr.image.dicom_copy import decimal
    from medsr.image.dicom_object import _orientation, _position, _spacing
    from medsr.image.dicom_place import places_of

    affine = np.eye(4)
    turn = np.array(rotation(angles)).reshape(2, 3)
    affine[:3, :3] = np.stack([turn[0], turn[1], np.cross(turn[0], turn[1])], axis=1) * spacing
    affine[:3, 3] = origin
    shape = (2048, 2048, 2000)
    places = places_of(Geometry(shape, LPS_TO_RAS @ affine))
    texts = [*_orientation(places), *_spacing(places), *_position(places.position[-1]), decimal(places.location[-1])]
    assert max(len(text) for text in texts) <= 16
    row, column = np.array(texts[:3], float), np.array(texts[3:6], float)
    corner = np.array(texts[8:11], float) + row * float(texts[7]) * 2047 + column * float(texts[6]) * 2047
    assert np.abs(corner - (affine @ [2047, 2047, 1999, 1])[:3]).max() <= 1e-4


def test_whole_numbers_are_not_dressed_up(tmp_path: Path) -> None:
    header = series(tmp_path / "in", Phantom(spacing=(1, 1, 2), origin=(0, 0, 0)))
    write_series(target(tmp_path), [read(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert [str(v) for v in ds.ImageOrientationPatient] == ["1", "0", "0", "0", "1", "0"]
    assert [str(v) for v in ds.ImagePositionPatient] == ["0", "0", "0"]


# --- values --------------------------------------------------------------------------------------------------------


def test_ct_is_signed_whole_hu(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    volume = volume_of(header)
    write_series(target(tmp_path), [volume], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (1, 0, "HU")
    assert (ds.PixelRepresentation, ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (1, 16, 16, 15)
    np.testing.assert_array_equal(ds.pixel_array, np.rint(volume.array[:, :, 0].T))


@pytest.mark.parametrize(
    ("low", "high", "signed", "intercept"),
    [(-32768, 32767, 1, 0), (-1024, 40000, 0, -1024), (-30000, 35535, 0, -30000), (-1024.4, 32767.4, 1, 0)],
)
def test_ct_of_any_width_that_16_bits_hold(tmp_path: Path, low: float, high: float, signed, intercept) -> None:
    header = series(tmp_path / "in")
    array = np.linspace(low, high, 210, dtype=np.float32).reshape(header.geometry.shape)
    volume = replace(read(header), array=array)
    write_series(target(tmp_path), [volume], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert (ds.PixelRepresentation, ds.RescaleIntercept) == (signed, intercept)
    again = read(inspect(tmp_path / "out"), modality="CT")
    assert np.abs(again.array - array).max() <= 0.5


@pytest.mark.parametrize("array", [(-40000.0, 30000.0), (np.nan, 1.0), (0.0, np.inf)])
def test_ct_that_cannot_be_stored(tmp_path: Path, array: tuple[float, float]) -> None:
    header = series(tmp_path / "in")
    values = np.zeros(header.geometry.shape, np.float32)
    values[0, 0, 0], values[1, 1, 1] = array
    with pytest.raises(JobError, match=r"cannot be stored in 16 bits|NaN"):
        write_series(target(tmp_path), [replace(read(header), array=values)], header, DERIVATION)
    assert list((tmp_path / "out").iterdir()) == []


def test_mr_without_a_scale_gets_none(tmp_path: Path) -> None:
    header = series(tmp_path / "in", Phantom("MR"))
    write_series(target(tmp_path), [volume_of(header)], header, DERIVATION)
    assert "RescaleSlope" not in first(tmp_path / "out")


def test_mr_with_another_scale_in_every_slice_takes_the_finest(tmp_path: Path) -> None:
    phantom = Phantom("MR", slope=2.0)
    datasets = phantom.classic()
    for number, ds in enumerate(datasets):
        ds.RescaleSlope = [2.0, 0.5, 8.0, 4.0, 2.0, 2.0, 2.0][number]
    header = inspect(save(tmp_path / "in", datasets))
    volume = volume_of(header)
    write_series(target(tmp_path), [volume], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert (ds.RescaleSlope, ds.RescaleType) == (0.5, "US")
    assert np.abs(read(inspect(tmp_path / "out"), modality="MR").array - volume.array).max() <= 0.25


@pytest.mark.parametrize("top", [1.0, 65535.0, 70000.0, 1e7])
def test_mr_of_any_size(tmp_path: Path, top: float) -> None:
    """Steps as fine as 16 bits allow where the source's scale is too fine, and finer where it is far too coarse."""
    header = series(tmp_path / "in", Phantom("MR"))
    array = np.linspace(0, top, 210, dtype=np.float32).reshape(header.geometry.shape)
    write_series(target(tmp_path), [replace(read(header), array=array)], header, DERIVATION)
    again = read(inspect(tmp_path / "out"), modality="MR").array
    assert np.abs(again - array).max() <= {1.0: 1 / 2048, 65535.0: 0.5, 70000.0: 1, 1e7: 128}[top]


def test_negative_mr_values(tmp_path: Path) -> None:
    header = series(tmp_path / "in", Phantom("MR"))
    array = np.linspace(-300, 900, 210, dtype=np.float32).reshape(header.geometry.shape)
    write_series(target(tmp_path), [replace(read(header), array=array)], header, DERIVATION)
    assert first(tmp_path / "out").PixelRepresentation == 1
    assert np.abs(read(inspect(tmp_path / "out"), modality="MR").array - array).max() <= 0.5


@pytest.mark.parametrize(("padding", "kept"), [(0, True), (3, False), (None, False)])
def test_padding_only_where_it_still_holds(tmp_path: Path, padding: int | None, kept: bool) -> None:
    phantom = Phantom(stored=np.where(np.indices((6, 8, 5))[0] < 2, 0, 1000 + np.indices((6, 8, 5)).sum(0)))

    def change(ds: Dataset) -> None:
        if padding is not None:
            ds.add_new(0x00280120, "US", padding)

    header = series(tmp_path / "in", phantom, change)
    write_series(target(tmp_path), [volume_of(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert ("PixelPaddingValue" in ds) is kept
    if kept:
        assert ds.PixelPaddingValue == -1024
        assert ds["PixelPaddingValue"].VR == "SS"


# --- the same again, and never another's UID -----------------------------------------------------------------------


def all_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in files_of(folder)]


def test_same_bytes_again(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    one = write_series(target(tmp_path, "a"), [volume_of(header)], header, DERIVATION)
    other = write_series(target(tmp_path, "b"), [volume_of(inspect(tmp_path / "in"))], header, DERIVATION)
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
    assert one.uid == other.uid == series_uid([volume_of(header)], header, DERIVATION)
    assert one.instances == other.instances
    assert [path.name for path in one.files[:2]] == ["IM000001.dcm", "IM000002.dcm"]


def test_uids_do_not_follow_the_clock(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    later = replace(DERIVATION, created=datetime(2030, 1, 1))
    assert series_uid([volume_of(header)], header, later) == series_uid([volume_of(header)], header, DERIVATION)


def test_another_result_is_another_series(tmp_path: Path) -> None:
    """Whatever changes the bytes, but for the time, changes every UID."""
    stored = np.random.default_rng(1).integers(24, 1200, (30, 20, 3))
    header = series(tmp_path / "in", Phantom(stored=stored))
    volume = volume_of(header)
    brighter = replace(volume, array=volume.array + np.float32(1))
    nudged = volume.geometry.affine.copy()
    nudged[0, 3] += 0.01
    uids = [
        series_uid([volume], header, DERIVATION),
        series_uid([brighter], header, DERIVATION),
        series_uid([volume_of(header, (2, 2, 1))], header, DERIVATION),
        series_uid([replace(volume, geometry=Geometry(volume.geometry.shape, nudged))], header, DERIVATION),
        series_uid([volume], series(tmp_path / "other", Phantom(stored=stored, series=2)), DERIVATION),
        *(
            series_uid([volume], header, replace(DERIVATION, **change))
            for change in (
                {"model_sha256": "1" * 64},
                {"model": "another"},
                {"parameters": {"kind": "cubic"}},
                {"software": "9"},
                {"description": "Otherwise."},
                {"series_description": "Knee"},
                {"series_number": 7},
                {"burn_in": True},
            )
        ),
    ]
    assert len(set(uids)) == len(uids)


def test_uids_are_valid_and_all_different(tmp_path: Path) -> None:
    crude = write_crude(tmp_path / "out", series(tmp_path / "in"))
    uids = [crude.written.uid, *crude.written.instances]
    assert all(UID(uid).is_valid and len(uid) <= 64 and uid.startswith("2.25.") for uid in uids)
    assert len(set(uids)) == len(uids)
    for path, uid in zip(crude.written.files, crude.written.instances, strict=True):
        ds = pydicom.dcmread(path)
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == uid
        assert ds.SeriesInstanceUID == crude.written.uid


def test_form_of_a_file(tmp_path: Path) -> None:
    crude = write_crude(tmp_path / "out", series(tmp_path / "in"))
    data = crude.written.files[0].read_bytes()
    assert data[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(crude.written.files[0]).file_meta
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert UID(meta.ImplementationClassUID).is_valid
    assert meta.ImplementationVersionName == "MEDSR"


# --- what the series says of itself --------------------------------------------------------------------------------


def test_marks(tmp_path: Path) -> None:
    crude = write_crude(tmp_path / "out", series(tmp_path / "in", Phantom(series=4)))
    for number, path in enumerate(crude.written.files, 1):
        ds = pydicom.dcmread(path)
        assert ds.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert ds.SeriesDescription == crude.written.description == f"Phantom CT - {MARK}"
        assert ds.SeriesNumber == crude.written.number == 401
        assert ds.InstanceNumber == number
        assert (ds.SyntheticData, ds.ContentQualification, ds.BurnedInAnnotation) == ("YES", "RESEARCH", "NO")
        assert ds.DerivationDescription == DERIVATION.description
        assert ds.DerivationCodeSequence[0].CodeValue == "113085"
        assert (ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions) == ("medsr", "interpolation 1.0", "0.0")
        scanner, own = ds.ContributingEquipmentSequence
        assert scanner.Manufacturer == "Phantom"
        assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert own.Manufacturer == "medsr"
        assert own.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert "not for diagnosis" in own.ContributionDescription


def test_times(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    write_series(target(tmp_path), [read(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert ds.SeriesDate == ds.ContentDate == ds.InstanceCreationDate == "20260203"
    assert ds.SeriesTime == ds.ContentTime == ds.InstanceCreationTime == "040506"
    assert (ds.StudyDate, ds.AcquisitionDate, ds.AcquisitionTime) == ("20260101", "20260101", "120000")


def test_time_zone_of_the_source(tmp_path: Path) -> None:
    header = series(tmp_path / "in", change=lambda ds: setattr(ds, "TimezoneOffsetFromUTC", "+0530"))
    made = replace(DERIVATION, created=datetime(2026, 1, 1, 20, 0, 0, tzinfo=UTC))
    write_series(target(tmp_path), [read(header)], header, made)
    ds = first(tmp_path / "out")
    assert (ds.SeriesDate, ds.SeriesTime, ds.TimezoneOffsetFromUTC) == ("20260102", "013000", "+0530")
    assert ds.ContributingEquipmentSequence[-1].ContributionDateTime == "20260101200000+0000"
    same = replace(made, created=datetime(2026, 1, 2, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))))
    assert series_uid([read(header)], header, same) == series_uid([read(header)], header, made)


def test_sources_are_the_nearest(tmp_path: Path) -> None:
    """Of slices at -0.25, 0.25, 0.75 ... old distances, the first lies before the first source slice."""
    header = series(tmp_path / "in")
    write_series(target(tmp_path), [volume_of(header)], header, DERIVATION)
    phantom = Phantom()
    for number, path in enumerate(files_of(tmp_path / "out")):
        ds = pydicom.dcmread(path)
        at = number / 2 - 0.25
        expected = [k for k in sorted(range(7), key=lambda k: abs(k - at))[:2] if abs(k - at) < 1 and 0 < at < 6]
        expected = expected or [0 if at < 0 else 6]
        assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [
            phantom.uid(3, k + 1) for k in expected
        ]
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ds.SourceImageSequence} == {"121322"}
        (within,) = ds.ReferencedSeriesSequence
        assert within.SeriesInstanceUID == phantom.uid(2)
        named = {item.ReferencedSOPInstanceUID for item in within.ReferencedInstanceSequence}
        assert named == {item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence}


def test_sources_in_an_enhanced_file(tmp_path: Path) -> None:
    """One file, two of its frames; the phantom stores the last slice first."""
    phantom = Phantom("MR")
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", [phantom.enhanced()])), (1, 1, 2))
    ds = pydicom.dcmread(crude.written.files[1])
    (item,) = ds.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == phantom.uid(5)
    assert item.ReferencedFrameNumber == [7, 6]


def test_several_volumes(tmp_path: Path) -> None:
    """Each volume has the echo of its own source, and is found again by it."""
    datasets = []
    for number, echo in enumerate((10.0, 80.0), 1):
        for ds in Phantom("MR").classic():
            ds.EchoTime = echo
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{ds.SOPInstanceUID}.{number}")
            ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") * number).tobytes()
            datasets.append(ds)
    source = inspect(save(tmp_path / "in", datasets))
    assert source.volumes == 2
    crude = write_crude(tmp_path / "out", source)
    again = inspect(tmp_path / "out")
    assert again.volumes == 2
    for index, volume in enumerate(crude.volumes):
        found = read(again, volume=index, modality="MR")
        assert np.abs(found.array - volume.array).max() <= 0.5
        assert found.geometry.same_grid(volume.geometry, 1e-4)
    assert [pydicom.dcmread(p).InstanceNumber for p in crude.written.files] == list(range(1, 29))
    alone = write_series(target(tmp_path, "alone"), [crude.volumes[1]], source, DERIVATION)
    assert pydicom.dcmread(alone.files[0]).EchoTime == 80


def test_burned_in(tmp_path: Path) -> None:
    phantom = Phantom(stored=np.random.default_rng(1).integers(24, 1200, (160, 40, 3)))
    header = series(tmp_path / "in", phantom)
    volume = read(header)
    write_series(target(tmp_path), [volume], header, replace(DERIVATION, burn_in=True))
    mark = mark_for(40, 160)
    for k, path in enumerate(files_of(tmp_path / "out")):
        ds = pydicom.dcmread(path)
        assert ds.BurnedInAnnotation == "YES"
        corner = ds.pixel_array[1 : 1 + mark.shape[0], 1 : 1 + mark.shape[1]]
        np.testing.assert_array_equal(corner == volume.array.max(), mark)
        rest = np.ones((40, 160), bool)
        rest[1 : 1 + mark.shape[0], 1 : 1 + mark.shape[1]] = False
        np.testing.assert_array_equal(ds.pixel_array[rest], volume.array[:, :, k].T[rest])
    small = series(tmp_path / "small")
    with pytest.raises(PlanError, match="no room"):
        series_uid([read(small)], small, replace(DERIVATION, burn_in=True))


@pytest.mark.parametrize("said", ["YES", "NO", None])
def test_text_burned_into_the_source(tmp_path: Path, said: str | None) -> None:
    header = series(tmp_path / "in", change=lambda ds: said and setattr(ds, "BurnedInAnnotation", said))
    write_series(target(tmp_path), [read(header)], header, DERIVATION)
    assert first(tmp_path / "out").BurnedInAnnotation == ("YES" if said == "YES" else "NO")


def test_loss_is_remembered(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        if ds.InstanceNumber == 5:
            ds.LossyImageCompression = "01"
            ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = [10.5, 2], ["ISO_10918_1", "ISO_15444_1"]

    header = series(tmp_path / "in", change=change)
    write_series(target(tmp_path), [read(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert ds.LossyImageCompression == "01"
    assert ds.LossyImageCompressionRatio == [10.5, 2]
    assert ds.LossyImageCompressionMethod == ["ISO_10918_1", "ISO_15444_1"]


@pytest.mark.parametrize(("said", "syntax", "options", "method"), [
    (None, JPEG2000, {"j2k_cr": [10]}, "ISO_15444_1"),
    ("01", JPEG2000, {"j2k_cr": [10]}, "ISO_15444_1"),
    (None, JPEGLSNearLossless, {"jls_error": 3}, "ISO_14495_1"),
])  # fmt: skip
def test_loss_that_the_source_does_not_state(
    tmp_path: Path, said: str | None, syntax: UID, options: dict[str, object], method: str
) -> None:
    """The compression in which the file is gives itself away: the ratio of its bytes, within what a header takes."""
    shades = np.add.outer(np.add.outer(np.arange(64), 3 * np.arange(64)), np.arange(3)).astype(np.int64)
    datasets = Phantom(stored=shades + np.random.default_rng(1).integers(24, 60, shades.shape)).classic()
    (tmp_path / "in").mkdir()
    for ds in datasets:
        ds.compress(syntax, generate_instance_uid=False, **options)
        ds.LossyImageCompression = said
        ds.save_as(tmp_path / "in" / f"{ds.InstanceNumber}.dcm", enforce_file_format=True)
    header = inspect(tmp_path / "in")
    assert header.warnings == (f"the series was compressed with loss ({header.extra.lossy})",)
    assert header.extra.lossy.endswith(f"method {method}")
    write_series(target(tmp_path), [read(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", method)
    assert float(ds.LossyImageCompressionRatio) == pytest.approx(2 * 64 * 64 / len(datasets[0].PixelData), rel=0.05)


def test_lossless_jpeg_2000_has_lost_nothing(tmp_path: Path) -> None:
    """In the syntax that allows both, the reversible wavelet."""
    datasets = Phantom(stored=np.random.default_rng(1).integers(24, 60, (64, 64, 2))).classic()
    (tmp_path / "in").mkdir()
    for ds in datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = JPEG2000
        ds.save_as(tmp_path / "in" / f"{ds.InstanceNumber}.dcm", enforce_file_format=True)
    header = inspect(tmp_path / "in")
    assert header.extra.lossy == ""
    assert not header.warnings


# --- text in any character set -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Люксембург"),
        ("ISO_IR 192", "王^小東"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_character_set_of_the_source_is_kept(tmp_path: Path, charset: str | list[str], name: str) -> None:
    def change(ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.PatientName = charset, name

    header = series(tmp_path / "in", change=change)
    write_series(target(tmp_path), [read(header)], header, DERIVATION)
    ds = first(tmp_path / "out")
    assert ds.SpecificCharacterSet == charset
    assert ds.PatientName == name


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO 2022 IR 6"])
def test_text_beyond_the_character_set_takes_utf8(tmp_path: Path, charset: str | None) -> None:
    def change(ds: Dataset) -> None:
        ds.SpecificCharacterSet = charset
        if charset is None:
            del ds.SpecificCharacterSet
        if charset == "ISO_IR 100":
            ds.PatientName = "Müller"

    header = series(tmp_path / "in", change=change)
    made = replace(DERIVATION, series_description="膝 Knie")
    write_series(target(tmp_path), [read(header)], header, made)
    ds = first(tmp_path / "out")
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert ds.SeriesDescription == f"膝 Knie - {MARK}"
    assert ds.PatientName == ("Müller" if charset == "ISO_IR 100" else "Phantom^Sheep")


# --- templates, and other refusals ---------------------------------------------------------------------------------


def turned(volume: Volume, order: tuple[int, int, int], signs: tuple[int, int, int]) -> Volume:
    """The same voxels in space, kept with other axes."""
    array = volume.array.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        turn[old, new] = sign
        turn[old, 3] = 0 if sign > 0 else volume.geometry.shape[old] - 1
    geometry = Geometry(array.shape, volume.geometry.affine @ turn)
    return Volume(array, geometry, volume.modality, Provenance("scan.nii"))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, -1), (1, -1, -1)])
def test_template(tmp_path: Path, order: tuple[int, int, int], signs: tuple[int, int, int]) -> None:
    """A volume with axes in any order and direction: the same files, though not by the same name."""
    template = series(tmp_path / "in", Phantom(orientation=rotation((20, -35, 70))))
    straight = volume_of(template)
    write_series(target(tmp_path, "a"), [straight], template, DERIVATION)
    write_series(target(tmp_path, "b"), [turned(straight, order, signs)], template, DERIVATION)
    for one, other in zip(files_of(tmp_path / "a"), files_of(tmp_path / "b"), strict=True):
        a, b = pydicom.dcmread(one), pydicom.dcmread(other)
        np.testing.assert_array_equal(a.pixel_array, b.pixel_array)
        np.testing.assert_allclose(a.ImagePositionPatient, b.ImagePositionPatient, atol=1e-8)
        assert a.ImageOrientationPatient == b.ImageOrientationPatient


def test_template_of_another_place(tmp_path: Path) -> None:
    template = series(tmp_path / "in")
    volume = volume_of(template)
    away = volume.geometry.affine.copy()
    away[2, 3] += 5
    oblique = volume.geometry.affine.copy()
    oblique[:3, :3] = oblique[:3, :3] @ np.array([[1, 0.002, 0], [-0.002, 1, 0], [0, 0, 1]])
    wrong = {
        "beyond the field of view": replace(volume, geometry=Geometry(volume.geometry.shape, away)),
        "not parallel": replace(volume, geometry=Geometry(volume.geometry.shape, oblique)),
        "MR image": replace(volume, modality="MR"),
    }
    for words, other in wrong.items():
        with pytest.raises(InputError, match=words):
            check_template(other.geometry, other.modality, template)
        with pytest.raises(InputError, match=words):
            write_series(target(tmp_path, words), [other], template, DERIVATION)
        assert list((tmp_path / words).iterdir()) == []
    check_template(volume.geometry, None, template)


def test_source_that_is_no_ct_or_mr(tmp_path: Path) -> None:
    """A PET read as CT on request does not become a CT image: its values are none."""

    def change(ds: Dataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.128")
        ds.Modality = "PT"

    header = series(tmp_path / "in", change=change)
    volume = read(header, modality="CT")
    with pytest.raises(InputError, match=r"a PET image.*write NIfTI"):
        write_series(target(tmp_path), [volume], header, DERIVATION)


@pytest.mark.parametrize(
    ("stated", "what"),
    [("", "has no StudyInstanceUID"), ("d6e8957745", "the StudyInstanceUID 'd6e8957745', which is none")],
)
def test_source_without_a_study(tmp_path: Path, stated: str, what: str) -> None:
    """Some anonymisers put a hash where the UID was."""
    header = series(tmp_path / "in", change=lambda ds: setattr(ds, "StudyInstanceUID", stated))
    with pytest.raises(InputError, match=what):
        write_series(target(tmp_path), [read(header)], header, DERIVATION)


def test_header_of_another_format(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    with pytest.raises(InputError, match="is no DICOM series"):
        write_series(target(tmp_path), [read(header)], replace(header, extra=None), DERIVATION)


def test_text_and_number_that_cannot_be(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    for change in ({"series_description": "a\\b"}, {"series_description": "a\nb"}, {"series_number": -1}):
        with pytest.raises(ConfigError):
            series_uid([read(header)], header, replace(DERIVATION, **change))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    out = target(tmp_path)
    (out / "IM000003.dcm").write_bytes(b"mine")
    with pytest.raises(JobError, match="cannot write the series out"):
        write_series(out, [read(header)], header, DERIVATION)
    assert (out / "IM000003.dcm").read_bytes() == b"mine"


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    with pytest.raises(JobError, match="cannot write the series"):
        write_series(tmp_path / "none", [read(header)], header, DERIVATION)


def test_full_disk(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    out = target(tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(JobError, match="No space left"):
            write_series(out, [read(header)], header, DERIVATION)


def test_volumes_that_do_not_fit_together(tmp_path: Path) -> None:
    header = series(tmp_path / "in")
    with pytest.raises(ValueError, match="expected one, or all"):
        write_series(target(tmp_path), [read(header), read(header)], header, DERIVATION)


# --- real series ---------------------------------------------------------------------------------------------------

REAL = [
    "ct_ricord-jpeglossless", "d2n_failing-slicecount-001", "d2n_failing-sliceincrement-001",
    "d2n_failing-sliceorientation-001", "d2n_ge-anatomical-001", "d2n_ge-anatomical-001_single_slice",
    "d2n_generic-anatomical-002_non_isotropic", "d2n_generic-compressed_j2k-001", "d2n_generic-compressed_jpegls-001",
    "d2n_hitachi-anatomical-001", "d2n_hyperfine-anatomical-001", "d2n_philips-anatomical-001",
    "d2n_philips_enhanced-anatomical-001", "d2n_philips_enhanced-fmri-001", "d2n_siemens-anatomical-001",
    "d2n_siemens_multiframe-anatomical-001", "dup_rider-0109", "enh_philips-fieldmap", "enh_siemens-xa10",
    "loc_philips-surview", "loc_tcga-topogram", "mr_brainix-flair", "mr_hippocrop-btp003", "tilt_ge-head",
    "tilt_philips-phantom", "ts_siemens-mosaic",
]  # fmt: skip


@needs_tool("dciodvfy")
@pytest.mark.parametrize("folder", REAL)
def test_real(data_dir: Path, tmp_path: Path, folder: str) -> None:
    """Voxels and places come back, and the validator finds no error, whatever the source was like."""
    for number, one in enumerate(find_series(data_dir / "dicom" / folder)):
        header = inspect_series(one, fill_gaps=True, deskew=True)
        crude = write_crude(tmp_path / str(number), header, (1, 1.5, 2))
        again = inspect(tmp_path / str(number))
        assert again.volumes == header.volumes
        for index, volume in enumerate(crude.volumes):
            found = read_scan(again, volume=index, modality=volume.modality).volume
            step = pydicom.dcmread(crude.written.files[0], stop_before_pixels=True).get("RescaleSlope", 1)
            rounding = 1e-6 * float(np.abs(volume.array).max())  # of float32
            assert np.abs(found.array - volume.array).max() <= float(step) / 2 + rounding
            assert found.geometry.same_grid(volume.geometry, 1e-4)
        last = tmp_path / f"{number}-some"
        last.mkdir()
        for path in (crude.written.files[0], crude.written.files[-1]):
            (last / path.name).write_bytes(path.read_bytes())
        assert dciodvfy(last) == []
