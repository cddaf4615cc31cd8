"""Bad DICOM: each case a valid series with one thing changed; refused in one line that says what to do, or repaired."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medsr.errors import InputError, MedsrError, PlanError
from medsr.image.dicom_files import Source
from medsr.image.dicom_head import read_head
from medsr.image.dicom_read import (
    Series,
    choose_series,
    find_series,
    inspect,
    inspect_series,
    read,
    read_scan,
    reason_against,
)
from medsr.image.dicom_write import Derivation, write_series
from medsr.image.volume import Volume
from tests.image.dicom_phantom import STORAGE, Phantom, rotation, save

Change = Callable[[Dataset], None]


def refusal(path: Path, **options: bool) -> str:
    """The one line with which a series is refused, when inspected or when read."""
    with pytest.raises(InputError) as caught:
        read(inspect(path, **options))
    line = str(caught.value)
    assert "\n" not in line
    assert "Traceback" not in line
    return line


def changed(**elements: object) -> Change:
    def change(ds: Dataset) -> None:
        for keyword, value in elements.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)

    return change


def raw(keyword: str, text: bytes) -> Change:
    """An element whose bytes pydicom would not write by itself."""

    def change(ds: Dataset) -> None:
        put_raw(ds, tag_for_keyword(keyword), text)

    return change


def put_raw(ds: Dataset, tag: int, value: bytes, vr: str | None = None) -> None:
    value += b" " * (len(value) % 2)
    ds[tag] = RawDataElement(Tag(tag), vr or dictionary_VR(tag), len(value), value, 0, False, True)


def encoded(values: Iterable[float]) -> bytes:
    return "\\".join(map(str, values)).encode()


class TestTags:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (changed(PixelSpacing=[0.0, 0.5]), "PixelSpacing of 0 x 0.5 mm cannot be"),
            (changed(PixelSpacing=[-0.8, 0.5]), "PixelSpacing of -0.8 x 0.5"),
            (raw("PixelSpacing", b"0,8\\0,5 "), "PixelSpacing is '0,8'; expected a number such as 0.8"),
            (raw("PixelSpacing", b"nan\\0.5 "), "PixelSpacing is 'nan'"),
            (raw("PixelSpacing", b"1e999\\.5"), "PixelSpacing holds NaN or Inf"),
            (raw("PixelSpacing", b"0.8 "), "PixelSpacing has 1 values; expected 2"),
            (changed(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no pair of unit vectors at right angles"),
            (changed(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "no pair of unit vectors"),
            (changed(ImagePositionPatient=[1e12, 0, 0]), "1e+12 mm from the origin"),
            (changed(ImagePositionPatient=[0, 0]), "ImagePositionPatient has 2 values; expected 3"),
            (changed(RescaleSlope=0.0), "RescaleSlope 0,"),
            (changed(RescaleSlope=None), "has no RescaleSlope"),
            (raw("RescaleIntercept", b""), "has no RescaleIntercept"),
            (raw("RescaleSlope", b"\x01\x02\xff\xfe"), "expected a number"),
            (changed(HighBit=12), "HighBit is 12 with 16 bits stored; expected 15"),
            (changed(BitsStored=17, HighBit=16), "BitsStored 17"),
            (changed(BitsAllocated=12), "BitsAllocated 12"),
            (changed(BitsAllocated=64), "BitsAllocated 64"),
            (changed(PixelRepresentation=7), "PixelRepresentation 7"),
            (changed(Rows=0), "0 x 5 pixels"),
            (changed(Rows=None), "no Rows, Columns or BitsAllocated"),
            (changed(Rows=60_000, Columns=60_000), "need 7200000000 bytes, the pixel data declare 60"),
            (changed(NumberOfFrames=0), "frames"),
            (changed(ModalityLUTSequence=[Dataset()]), "lookup table"),
            (changed(PixelData=b"\0" * 20), "need 60 bytes, the pixel data declare 20"),
        ],
    )
    def test_refused(self, tmp_path: Path, change: Change, words: str) -> None:
        slices = Phantom().classic()
        change(slices[3])
        if words == "frames":  # no frames: one, as the standard says of an absent number
            assert read(inspect(save(tmp_path, slices))).array.shape == (5, 6, 7)
            return
        assert words in refusal(save(tmp_path, slices))

    def test_the_file_is_named(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        slices[3].PixelSpacing = [0, 0]
        assert "IM4.dcm" in refusal(save(tmp_path, slices))

    def test_numbers_that_only_tell_images_apart(self, tmp_path: Path) -> None:
        """A scan whose images lie in places of their own needs none of them."""
        slices = Phantom("MR").classic()
        for ds in slices:
            for keyword in ("EchoTime", "AcquisitionNumber", "InstanceNumber", "TriggerTime", "FlipAngle"):
                raw(keyword, b"n/a ")(ds)
        np.testing.assert_array_equal(read(inspect(save(tmp_path, slices))).array, Phantom("MR").values)

    def test_elements_of_unknown_vr(self, tmp_path: Path) -> None:
        """UN, as a system writes what it has taken from implicit VR."""
        slices = Phantom().classic()
        for ds in slices:
            for keyword in ("Rows", "Columns", "BitsAllocated", "ImagePositionPatient", "PixelSpacing"):
                element = ds[keyword]
                value = element.value.to_bytes(2, "little") if element.VR == "US" else encoded(element.value)
                put_raw(ds, element.tag, value, "UN")
        np.testing.assert_array_equal(read(inspect(save(tmp_path, slices))).array, Phantom().values)

    def test_text_in_a_wrong_character_set(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        for ds in slices:
            raw("SpecificCharacterSet", b"ISO_IR 999\\FANTASY ")(ds)
            raw("SeriesDescription", b"Sch\xe4del\x1b$B\x00\nnative ")(ds)
        header = inspect(save(tmp_path, slices))
        np.testing.assert_array_equal(read(header).array, Phantom().values)
        assert header.extra.series.description.startswith("Sch")
        assert "\n" not in str(header.extra.series)

    def test_uids_are_only_text(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        for ds in slices:
            raw("SeriesInstanceUID", b"../../etc/x\x1b]0;a\x07")(ds)
            raw("SOPInstanceUID", b"../../etc/passwd")(ds)
        folder = save(tmp_path, slices)
        before = sorted(tmp_path.rglob("*"))
        header = inspect(folder)
        np.testing.assert_array_equal(read(header).array, Phantom().values)
        assert sorted(tmp_path.rglob("*")) == before
        assert str(header.extra.series).isprintable()


class TestSlices:
    def test_missing(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        line = refusal(save(tmp_path, [*slices[:3], *slices[4:]]))
        assert "1 of its slices missing: 4 mm between IM3.dcm and IM4.dcm, elsewhere 2 mm" in line
        assert "--fill-gaps" in line

    @settings(max_examples=25)
    @given(
        gone=st.sets(st.integers(1, 12), min_size=1, max_size=4),
        angles=st.tuples(*[st.floats(-180, 180)] * 3),
        spacing=st.floats(0.4, 8),
    )
    def test_filled_by_interpolation(
        self, tmp_path_factory: pytest.TempPathFactory, gone: set[int], angles: tuple[float, ...], spacing: float
    ) -> None:
        """Values that grow evenly from slice to slice come back as they were, wherever slices were taken out."""
        stored = np.add.outer(Phantom().stored[:, :, 0], 40 * np.arange(14))
        phantom = Phantom(stored=stored, spacing=(0.5, 0.8, spacing), orientation=rotation(angles))
        slices = [ds for k, ds in enumerate(phantom.classic()) if k not in gone]
        folder = save(tmp_path_factory.mktemp("gaps"), slices)
        with pytest.raises(InputError, match=r"missing|uneven"):
            inspect(folder)
        scan = read_scan(inspect(folder, fill_gaps=True))
        np.testing.assert_allclose(scan.volume.array, phantom.values, atol=0.05)
        np.testing.assert_allclose(scan.volume.geometry.affine, phantom.affine, atol=1e-4)
        assert any("interpolated slices hold nothing that was measured" in w for w in scan.warnings)
        assert scan.volume.provenance.steps[-1]["step"] == "filled gaps"
        kept = [k for k in range(14) if k not in gone]
        np.testing.assert_array_equal(scan.volume.array[:, :, kept], phantom.values[:, :, kept])

    def test_too_much_missing(self, tmp_path: Path) -> None:
        slices = Phantom(stored=np.tile(Phantom().stored, (1, 1, 6))).classic()
        folder = save(tmp_path, [*slices[:3], slices[40]])
        assert "41 slices out of 4" in refusal(folder, fill_gaps=True)

    def test_uneven(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        slices[4].ImagePositionPatient[2] += 0.7
        line = refusal(save(tmp_path, slices))
        assert "uneven gaps between its slices: 2.7 mm between IM4.dcm and IM5.dcm; 1.3 mm between" in line

    def test_slightly_uneven_is_said(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        slices[4].ImagePositionPatient[2] += 0.15
        header = inspect(save(tmp_path, slices))
        assert any("mm from their place at an even distance of 2" in w for w in header.warnings)
        np.testing.assert_array_equal(read(header).array, Phantom().values)

    def test_positions_rounded_to_a_tenth(self, tmp_path: Path) -> None:
        """0.625 mm written with one decimal: gaps of 0.6 and 0.7 mm, and still a regular grid."""
        phantom = Phantom(stored=np.tile(Phantom().stored, (1, 1, 6)), spacing=(0.5, 0.8, 0.625), origin=(0, 0, 0))
        slices = phantom.classic()
        for ds in slices:
            ds.ImagePositionPatient[2] = round(float(ds.ImagePositionPatient[2]), 1)
        header = inspect(save(tmp_path, slices))
        assert header.geometry.spacing[2] == pytest.approx(0.625, abs=0.002)

    def test_beside_the_others(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        slices[2].ImagePositionPatient[0] += 3
        assert "IM3.dcm lies 3 mm beside the line of the other slices" in refusal(save(tmp_path, slices))

    def test_same_slice_twice(self, tmp_path: Path) -> None:
        slices = [*Phantom().classic(), Phantom().classic()[2]]
        header = inspect(save(tmp_path, slices))
        assert any("1 slices are there twice" in w for w in header.warnings)
        scan = read_scan(header)
        np.testing.assert_array_equal(scan.volume.array, Phantom().values)
        assert scan.volume.provenance.steps[0]["dropped_duplicates"] == 1

    @pytest.mark.parametrize("k", [0, 3, 6])
    def test_slice_without_a_place(self, tmp_path: Path, k: int) -> None:
        """At an end nothing else would tell that it is missing."""
        slices = Phantom().classic()
        del slices[k].ImagePositionPatient
        line = refusal(save(tmp_path, slices))
        assert f"IM{k + 1}.dcm is an image without place in the patient (no ImagePositionPatient); it may be a" in line

    def test_report_page_without_a_place(self, tmp_path: Path) -> None:
        page = Phantom().classic()[0]
        page.ImageType, page.SOPInstanceUID = ["DERIVED", "SECONDARY", "OTHER"], Phantom().uid(9)
        del page.ImagePositionPatient
        header = inspect(save(tmp_path, [*Phantom().classic(), page]))
        assert any("left out of the series: 1 file, an image without place" in w for w in header.warnings)
        np.testing.assert_array_equal(read(header).array, Phantom().values)

    def test_two_images_of_one_place(self, tmp_path: Path) -> None:
        other = Phantom().classic()[2]
        other.PixelData = Phantom().classic()[3].PixelData
        line = refusal(save(tmp_path, [*Phantom().classic(), other]))
        assert "IM3.dcm and IM8.dcm are different images of one place" in line

    def test_time_points_that_moved(self, tmp_path: Path) -> None:
        slices = []
        for n in range(2):
            for ds in Phantom("MR", origin=(3 * n, 0, 0)).classic():
                ds.TemporalPositionIdentifier = n
                slices.append(ds)
        assert "3 mm from the slice of another volume in its place" in refusal(save(tmp_path, slices))

    def test_radial_slices(self, tmp_path: Path) -> None:
        slices = [Phantom(orientation=rotation((15 * n, 0, 0))).classic()[0] for n in range(12)]
        assert "lie in 12 directions" in refusal(save(tmp_path, slices))

    def test_a_damaged_slice_is_not_left_out_silently(self, tmp_path: Path) -> None:
        folder = save(tmp_path, Phantom().classic())
        last = folder / "IM7.dcm"
        last.write_bytes(last.read_bytes()[:-10])
        assert "IM7.dcm is truncated: 60 bytes of voxels declared, 50 there" in refusal(folder)
        last.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
        assert re.search(r"IM7\.dcm .*; it may be a slice of this series", refusal(folder))
        last.unlink()
        assert inspect(folder).geometry.shape == (5, 6, 6)


class TestGantryTilt:
    @pytest.mark.parametrize("slide", [(0.0, 0.61), (0.0, -0.61), (0.35, 0.2)])
    def test_refused_and_slid_back(self, tmp_path: Path, slide: tuple[float, float]) -> None:
        """A field that is linear in space is the same field on the upright grid: linear interpolation is exact."""
        phantom = Phantom(slide=slide, orientation=rotation((10, 5, -20)), stored=np.zeros((16, 18, 7), int))
        gradient = np.array([3.0, -4.0, 5.0])

        def field(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
            return (index @ affine[:3, :3].T + affine[:3, 3]) @ gradient

        values = field(phantom.affine, phantom.stored.shape)
        phantom.stored = np.rint((values - values.min()) * 40).astype(int) + 1
        slices = phantom.classic()
        for ds in slices:
            ds.RescaleSlope, ds.RescaleIntercept = 1 / 40, float(values.min()) - 1 / 40
        folder = save(tmp_path, slices)
        degrees = np.degrees(np.arctan(np.hypot(*slide) / 2))
        assert f"tilted by {degrees:.1f} degrees" in refusal(folder)
        scan = read_scan(inspect(folder, deskew=True), modality="MR")
        geometry = scan.volume.geometry
        cosines = geometry.affine[:3, :3] / geometry.spacing
        np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-6)
        expected = field(geometry.affine, geometry.shape)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
        to_source = np.linalg.inv(phantom.affine) @ geometry.affine
        acquired = index @ to_source[:3, :3].T + to_source[:3, 3]
        inside = ((acquired > -1e-6) & (acquired < np.array(phantom.stored.shape) - 1 + 1e-6)).all(-1)
        assert inside.mean() > 0.6
        assert np.abs(scan.volume.array - expected)[inside].max() < 0.03
        assert any("slid back" in w for w in scan.warnings)
        assert scan.volume.provenance.steps[-1]["step"] == "deskewed"

    def test_rounding_is_no_tilt(self, tmp_path: Path) -> None:
        phantom = Phantom(slide=(0.0, 0.004))
        header = inspect(save(tmp_path, phantom.classic()))
        np.testing.assert_allclose(header.geometry.affine, phantom.affine, atol=1e-6)


class TestForeign:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
            (changed(SOPClassUID=UID(STORAGE + "7")), "a secondary capture"),
            (changed(SOPClassUID=UID(STORAGE + "128"), Modality="PT"), "a PET image"),
            (changed(Manufacturer="medsr"), "a result of medsr"),
            (changed(SeriesDescription="Sheep AI SR, not acquired"), "a result of medsr"),
            (changed(ImageType=["DERIVED", "PRIMARY", "ADC"]), "a parameter map"),
            (changed(ImageType=["DERIVED", "SECONDARY", "PROJECTION IMAGE"]), "a projection"),
            (changed(RescaleType="Z_EFF"), "a CT map in Z_EFF"),
        ],
    )
    def test_exit_4_unless_told(self, tmp_path: Path, change: Change, words: str) -> None:
        slices = Phantom().classic()
        for ds in slices:
            change(ds)
        header = inspect(save(tmp_path, slices))
        assert header.foreign is not None
        assert header.foreign.startswith(words)
        with pytest.raises(PlanError, match=words):
            read(header)
        np.testing.assert_array_equal(read(header, modality="CT").array, Phantom().values)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (changed(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "a colour image (RGB)"),
            (changed(PhotometricInterpretation="PALETTE COLOR"), "a colour image (PALETTE COLOR)"),
            (changed(ImagePositionPatient=None), "without place in the patient (no ImagePositionPatient)"),
            (changed(SOPClassUID=UID(STORAGE + "1")), "Computed Radiography Image Storage, neither CT nor MR"),
            (changed(NumberOfFrames=2, PixelData=b"\1" * 120), "2 frames in one CT Image Storage"),
        ],
    )
    def test_no_volume_at_all(self, tmp_path: Path, change: Change, words: str) -> None:
        slices = Phantom().classic()
        for ds in slices:
            change(ds)
        assert words in refusal(save(tmp_path, slices))

    def test_left_out_of_a_series_with_the_reason(self, tmp_path: Path) -> None:
        slices = Phantom().classic()
        page = Phantom().classic()[0]
        changed(SamplesPerPixel=3, PhotometricInterpretation="RGB", SOPClassUID=UID(STORAGE + "7"))(page)
        header = inspect(save(tmp_path, [*slices, page]))
        np.testing.assert_array_equal(read(header).array, Phantom().values)
        assert any("left out of the series: 1 file, a colour image (RGB)" in w for w in header.warnings)

    def test_a_list_of_series_says_why(self, tmp_path: Path) -> None:
        surview = Phantom(series=2).classic()[:1]
        surview[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        gap = Phantom(series=3).classic()
        save(tmp_path / "1", Phantom(series=1).classic())
        save(tmp_path / "2", surview)
        save(tmp_path / "3", [gap[0], gap[2], gap[3], gap[4]])
        found = find_series(tmp_path)
        assert [s.foreign for s in found] == [None, "a localizer", None]
        with pytest.raises(InputError, match="2 series"):
            choose_series(found)
        assert choose_series(found, 2) is found[1]
        with pytest.raises(InputError, match="missing"):
            inspect_series(found[2])
        reasons = [reason_against(s) for s in found]
        assert reasons[:2] == [None, "a localizer"]
        assert str(reasons[2]).startswith("1 of its slices missing: 4 mm between 3/IM1.dcm and 3/IM2.dcm")


class TestHostile:
    def test_not_dicom(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("hello")
        assert "holds no DICOM file (1 files looked at)" in refusal(tmp_path)
        assert "folder without files" in refusal(tmp_path_of(tmp_path / "empty"))
        with pytest.raises(InputError, match="does not exist"):
            find_series(tmp_path / "nowhere")

    def test_no_preamble(self, tmp_path: Path) -> None:
        folder = save(tmp_path, Phantom().classic()[:1])
        path = folder / "IM1.dcm"
        path.write_bytes(path.read_bytes()[132:])
        assert "IM1.dcm has no DICOM preamble" in refusal(folder)

    def test_ten_to_the_nine_frames(self, tmp_path: Path) -> None:
        ds = Phantom("MR").enhanced()
        ds.NumberOfFrames = 1_000_000_000
        assert "1000000000 frames of 6 x 5 need 60000000000 bytes" in refusal(save(tmp_path / "a", [ds]))
        ds = Phantom("MR", stored=np.tile(Phantom().stored, (8, 8, 1))).enhanced()
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.NumberOfFrames = 1_000_000_000
        assert "cannot hold 1000000000 compressed frames" in refusal(save(tmp_path / "b", [ds]))

    def test_frames_without_places(self, tmp_path: Path) -> None:
        ds = Phantom("CT").enhanced()
        del ds.PerFrameFunctionalGroupsSequence[3]
        assert "7 frames, and places for 6" in refusal(save(tmp_path, [ds]))

    @pytest.mark.parametrize("wanted", [True, False])
    def test_nested_sequences(self, tmp_path: Path, wanted: bool) -> None:
        """2,000 sequences in one another, of undefined length: deeper than Python's stack. Unwanted, stepped over."""
        keyword, before = ("ModalityLUTSequence", 0x7FE0) if wanted else ("ReferencedImageSequence", 0x0010)
        nested = tag_for_keyword("ReferencedImageSequence")
        tags = [tag_for_keyword(keyword), *[nested] * 1999]
        begin = b"SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
        sequences = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + begin for tag in tags)
        end = (b"\xfe\xff\x0d\xe0" + b"\0" * 4 + b"\xfe\xff\xdd\xe0" + b"\0" * 4) * 2000
        path = save(tmp_path, Phantom().classic()) / "IM1.dcm"
        data = path.read_bytes()
        at = data.index(struct.pack("<HH", before, 0x0010))
        path.write_bytes(data[:at] + sequences + end + data[at:])
        if wanted:
            assert "IM1.dcm holds its values in a lookup table" in refusal(tmp_path)
        else:
            np.testing.assert_array_equal(read(inspect(tmp_path)).array, Phantom().values)
        with pytest.raises(InputError, match=r"IM1\.dcm is damaged DICOM \(RecursionError\)"):
            read_head(Source(path, "IM1.dcm"))

    @pytest.mark.parametrize("keyword", ["PatientName", "SeriesDescription", "PerFrameFunctionalGroupsSequence"])
    def test_four_gigabytes_in_a_short_file(self, tmp_path: Path, keyword: str) -> None:
        """A length is a claim: no memory is set aside for it."""
        import tracemalloc

        ds = Phantom("MR").enhanced()
        folder = save(tmp_path, [ds])
        data = bytearray((folder / "IM1.dcm").read_bytes())
        at = data.index(struct.pack("<HH", ds[keyword].tag.group, ds[keyword].tag.elem))
        data[at + 4 : at + 12] = b"UN\0\0" + struct.pack("<I", 0xFFFFFFF0)
        (folder / "IM1.dcm").write_bytes(data)
        tracemalloc.start()
        assert refusal(folder)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000

    def test_deflate_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from medsr.image import dicom_head

        slices = Phantom().classic()[:1]
        slices[0].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        folder = save(tmp_path, slices)
        data = (folder / "IM1.dcm").read_bytes()
        at = data.index(b"1.2.840.10008.1.2.1.99") + 22
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        (folder / "IM1.dcm").write_bytes(data[:at] + deflater.compress(b"\0" * 50_000_000) + deflater.flush())
        monkeypatch.setattr(dicom_head, "_MAX_INFLATED", 1 << 20)
        assert "inflates to more than 1 MB" in refusal(folder)

    def test_compressed_image_of_another_size(self, tmp_path: Path) -> None:
        """A stream of 4,000 x 4,000 pixels under a header of 44 x 40: refused by the stream's own header."""
        for syntax in (JPEG2000Lossless, JPEGLSLossless):
            small = Phantom(stored=np.arange(44 * 40 * 1).reshape(40, 44, 1)).classic()[0]
            large = Phantom(stored=np.zeros((400, 440, 1), int)).classic()[0]
            large.compress(syntax, generate_instance_uid=False)
            large.Rows, large.Columns = small.Rows, small.Columns
            line = refusal(save(tmp_path / syntax, [large]))
            assert "the compressed image is 440 x 400, the header says 44 x 40" in line

    def test_missing_codec(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from pydicom.pixels.decoders import JPEGLSLosslessDecoder

        import medsr.image.dicom_codecs as codecs

        slices = Phantom(stored=np.tile(Phantom().stored, (8, 8, 1))).classic()
        for ds in slices:
            ds.compress(JPEGLSLossless, generate_instance_uid=False)
        folder = save(tmp_path, slices)
        monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
        codecs._plugin.cache_clear()
        try:
            assert "no codec for it is installed: pip install 'medsr[codecs]'" in refusal(folder)
        finally:
            codecs._plugin.cache_clear()

    def test_unknown_transfer_syntax(self, tmp_path: Path) -> None:
        ds = Phantom(stored=np.tile(Phantom().stored, (8, 8, 1))).classic()[0]
        ds.compress(RLELossless, generate_instance_uid=False)
        path = save(tmp_path, [ds]) / "IM1.dcm"
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0"))
        assert "1.2.840.10008.1.2.9, which medsr does not read" in refusal(tmp_path)

    def test_truncated_compressed_frames(self, tmp_path: Path) -> None:
        ds = Phantom("MR", stored=np.tile(Phantom().stored, (8, 8, 1))).enhanced()
        ds.compress(RLELossless, generate_instance_uid=False)
        folder = save(tmp_path, [ds])
        path = folder / "IM1.dcm"
        path.write_bytes(path.read_bytes()[:-4000])
        assert "IM1.dcm" in refusal(folder)

    def test_file_changed_between_inspect_and_read(self, tmp_path: Path) -> None:
        folder = save(tmp_path, Phantom().classic())
        header = inspect(folder)
        path = folder / "IM3.dcm"
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(InputError, match=r"IM3\.dcm has changed"):
            read(header)
        path.unlink()
        with pytest.raises(InputError, match=r"IM3\.dcm"):
            read(header)

    def test_constant(self, tmp_path: Path) -> None:
        assert "constant" in refusal(save(tmp_path, Phantom(stored=np.full((5, 6, 4), 3)).classic()))

    def test_dicomdir_that_leads_outside(self, tmp_path: Path) -> None:
        from pydicom.fileset import FileSet

        files = FileSet()
        for ds in Phantom().classic()[:2]:
            ds.StudyID = "1"
            files.add(ds)
        files.write(tmp_path)
        path = tmp_path / "DICOMDIR"
        data = path.read_bytes()
        at = data.index(b"\x04\x00\x00\x15CS") + 8
        length = struct.unpack("<H", data[at - 2 : at])[0]
        path.write_bytes(data[:at] + b"..\\..\\ETC\\PASSWD".ljust(length)[:length] + data[at + length :])
        assert "outside its own folder" in refusal(path)


class TestZip:
    def zipped(self, tmp_path: Path, **kind: int) -> Path:
        folder = save(tmp_path / "in", Phantom().classic())
        path = tmp_path / "scan.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
        return path

    def test_damaged(self, tmp_path: Path) -> None:
        path = self.zipped(tmp_path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        assert "damaged zip" in refusal(path)
        flipped = bytearray(data)
        for at in range(200, len(data) // 2, 97):
            flipped[at] ^= 0x55
        path.write_bytes(flipped)
        assert refusal(path)

    def test_claims_more_than_can_be(self, tmp_path: Path) -> None:
        path = self.zipped(tmp_path)
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\1\2") + 24  # uncompressed size in the directory
        data[at : at + 4] = struct.pack("<I", 4_000_000_000)
        path.write_bytes(data)
        assert "more than any data can shrink" in refusal(path)

    def test_encrypted(self, tmp_path: Path) -> None:
        path = self.zipped(tmp_path)
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(data)
        assert "encrypted" in refusal(path)


def tmp_path_of(path: Path) -> Path:
    path.mkdir()
    return path


# --- many damaged headers ------------------------------------------------------------------------------------------

HOSTILE = (
    b"", b"\0", b"0", b"-1", b"1e999", b"nan", b"0,8\\0,5", b"\\\\\\", b"\xff" * 8, b"99999999999999999999",
    b"1\\2\\3\\4", b"../../etc/x", b"\x1b$B", b"\xfe\xff\x00\xe0", b"1" * 300, b"0.0000000001", b"-32769", b"65536",
    b"LOCALIZER", b"1_000",
)  # fmt: skip


def mutated(rng: random.Random, ds: Dataset) -> bytes:
    """One file with some of its elements or bytes changed at random."""
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    data = bytearray(stream.getvalue())
    for _ in range(rng.randrange(3)):
        element = rng.choice([e for e in ds if e.tag.group < 0x7FE0 and e.VR != "SQ"])
        at = data.find(struct.pack("<HH", element.tag.group, element.tag.elem) + str(element.VR).encode(), 132)
        if at < 0:
            continue
        end = at + 8 + struct.unpack("<H", data[at + 6 : at + 8])[0]
        value = rng.choice(HOSTILE)
        value += b" " * (len(value) % 2)
        vr = rng.choice([b"DS", b"US", b"LO", b"FD", b"IS"]) if rng.random() < 0.2 else data[at + 4 : at + 6]
        data[at:end] = b"" if rng.random() < 0.3 else data[at : at + 4] + vr + struct.pack("<H", len(value)) + value
    for _ in range(rng.randrange(4)):
        at = rng.randrange(128, len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, struct.pack("<I", 1 << 31), b"SQ\0\0", b"UN\0\0"])
        elif kind == 2:
            del data[at : at + rng.randrange(1, 30)]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


DERIVATION = Derivation(
    model="tiny 0",
    model_sha256="0" * 64,
    parameters={},
    description="a test",
    software="0",
    created=datetime(2026, 1, 1),
)


def outcome(series: Series, folder: Path) -> MedsrError | Volume:
    """A volume that is whole and, with the damaged tags, a series derived from it in ``folder``; or the refusal."""
    assert str(series).isprintable()
    try:
        header = inspect_series(series, fill_gaps=True, deskew=True)
        volume = read(header, volume=0, modality="MR" if header.foreign else None)
    except MedsrError as error:
        return error
    assert volume.array.shape == header.geometry.shape
    assert np.isfinite(volume.array).all()
    assert np.isfinite(volume.geometry.affine).all()
    folder.mkdir()
    try:
        written = write_series(folder, [volume], header, DERIVATION)
    except MedsrError as error:
        return error
    finally:
        shutil.rmtree(folder)
    assert len(written.files) == volume.array.shape[2]
    return volume


def try_damaged(folder: Path, seeds: range) -> tuple[int, int]:
    """How many damaged series were refused, and how many read; any other exception fails the test."""
    refused = answered = 0
    derived = folder.with_name(f"{folder.name}_derived")
    for seed in seeds:
        rng = random.Random(seed)
        phantom = Phantom(rng.choice(["CT", "MR"]), stored=np.tile(Phantom().stored[:, :, :3], (4, 4, 1)))
        slices = [phantom.enhanced()] if rng.random() < 0.4 else phantom.classic()
        if rng.random() < 0.3:
            for ds in slices:
                ds.compress(rng.choice([RLELossless, JPEGLSLossless]), generate_instance_uid=False)
        for old in folder.iterdir():
            old.unlink()
        save(folder, slices)
        (folder / "IM1.dcm").write_bytes(mutated(rng, slices[0]))
        try:
            read_all = [outcome(series, derived) for series in find_series(folder)]
        except InputError as error:
            read_all = [error]
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        for result in read_all:
            assert not isinstance(result, MedsrError) or str(result).isprintable(), f"seed {seed}: {result}"
            refused += isinstance(result, MedsrError)
            answered += not isinstance(result, MedsrError)
    return refused, answered


def test_damaged_headers(tmp_path: Path) -> None:
    refused, answered = try_damaged(tmp_path, range(200))
    assert refused > 20
    assert answered > 20


@pytest.mark.soak
def test_thousands_of_damaged_headers(tmp_path: Path) -> None:
    seeds = range(1000, 9000)
    refused, answered = try_damaged(tmp_path, seeds)
    assert refused > 800
    assert answered > 800
    if results := os.environ.get("MEDSR_RESULTS"):
        text = (
            "# Damaged DICOM headers\n\n"
            f"Made by `make soak`: {len(seeds)} folders with a series of a phantom each, one file of it with mutated "
            f"elements, bytes or length. In them {refused + answered} series were found, since a changed tag can make "
            f"two of one. {refused} were refused in one line, {answered} gave a whole volume, and a derived series was "
            "written from it with the damaged tags. None ended in another exception.\n"
        )
        (Path(results) / "dicom-damage.md").write_text(text, encoding="utf-8")
