"""The table of attributes against the standard and against real series; names, numbers and UIDs of derived series."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._dicom_dict import RepeatersDictionary
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medsr.errors import ConfigError
from medsr.image.dicom_attributes import ALLOWED, IDENTITY, MODULES, SCANNER, modules_of
from medsr.image.dicom_classic import as_classic, is_flat
from medsr.image.dicom_copy import cleaned
from medsr.image.dicom_derived import STORAGE, image_type, marked_description, number_of, uid_of
from medsr.image.dicom_read import find_series, inspect, inspect_series
from tests.conftest import ROOT
from tests.image.dicom_crude import DERIVATION, write_crude
from tests.image.dicom_judges import needs_highdicom
from tests.image.dicom_phantom import Phantom, save
from tests.image.test_dicom_write import REAL, replace

MARK = "AI SR, not acquired"
BEYOND_THE_STANDARD = {  # of MR: written by many scanners, and needed to read the values and tell volumes apart
    "RescaleSlope", "RescaleIntercept", "RescaleType", "DiffusionBValue", "DiffusionGradientOrientation",
}  # fmt: skip
RETIRED = {"OtherPatientIDs", "EthnicGroup"}


def copied(modality: str) -> set[str]:
    return {keyword for module in modules_of(modality) for keyword in module.copied}


def new(modality: str) -> set[str]:
    return {keyword for module in modules_of(modality) for keyword in module.new}


def dropped(modality: str) -> set[str]:
    return {keyword for module in modules_of(modality) for group in module.dropped.values() for keyword in group}


# --- the table -----------------------------------------------------------------------------------------------------


def test_every_keyword_is_one() -> None:
    keywords = {k for m in MODULES for k in (*m.copied, *m.required, *m.new, *sum(m.dropped.values(), ()))}
    keywords |= {*IDENTITY, *SCANNER, *ALLOWED}
    overlays = {entry[4] for entry in RepeatersDictionary.values()}
    assert [keyword for keyword in keywords - overlays if tag_for_keyword(keyword) is None] == []


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_each_attribute_has_one_fate(modality: str) -> None:
    assert copied(modality) & new(modality) == set()
    assert copied(modality) & dropped(modality) == set()
    assert new(modality) & dropped(modality) == set()
    for module in modules_of(modality):
        assert set(module.required) <= set(module.copied)


@needs_highdicom
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_standard_is_covered(modality: str) -> None:
    """Every attribute of the CT and MR Image objects is decided on, and none besides."""
    from tests.image.dicom_judges import _modules

    standard = {keyword for _, tree in _modules(STORAGE[modality]) for keyword in tree}
    decided = copied(modality) | new(modality) | dropped(modality)
    assert standard - decided == set()
    assert copied(modality) | new(modality) <= standard | (BEYOND_THE_STANDARD if modality == "MR" else set()) | RETIRED


@needs_highdicom
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_types_1_and_2_are_always_there(modality: str) -> None:
    from tests.image.dicom_judges import _modules

    needed = {
        keyword
        for usage, tree in _modules(STORAGE[modality])
        for keyword, item in tree.items()
        if usage == "M" and item["type"].value in ("1", "2")
    }
    always = new(modality) | {k for m in modules_of(modality) if not m.optional for k in m.required}
    assert needed - always == {"StudyInstanceUID", "FrameOfReferenceUID", *STUDIES[modality]}


# Refused when the source lacks it, made anew, and, in MR, filled in by _complete_mr.
STUDIES = {"CT": set(), "MR": {"ScanningSequence", "SequenceVariant"}}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dicom_table", ROOT / "docs" / "make_dicom_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_shows_the_table() -> None:
    """docs/dicom-write.md is up to date (``python docs/make_dicom_table.py`` makes it so) and names every attribute."""
    made = generator()
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.with_table(text) == text
    for module in MODULES:
        for keyword in (*module.copied, *module.new, *sum(module.dropped.values(), ())):
            assert keyword in text


# --- the table on real series --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", REAL)
def test_attribute_by_attribute(data_dir: Path, tmp_path: Path, folder: str) -> None:
    """What the table calls copied is the source's, what it drops is gone, and what it does not know is not there."""
    for number, one in enumerate(find_series(data_dir / "dicom" / folder)):
        header = inspect_series(one, fill_gaps=True, deskew=True)
        crude = write_crude(tmp_path / str(number), header, (1, 1, 1))
        modality = crude.volumes[0].modality
        frames = one.volumes[0]
        sources = {id(head): ds for head, ds in zip(_heads(frames), header.extra.datasets(0), strict=True)}
        for k in (0, len(frames) - 1):
            if header.extra.filled:
                continue  # made of other slices than the source's
            old = sources[id(frames[k].head)]
            old = old if is_flat(old) else as_classic(old, frames[k].index, "source")
            _compare(pydicom.dcmread(crude.written.files[k]), old, sources[id(frames[0].head)], modality)


def _heads(frames: tuple) -> list:
    return list({id(frame.head): frame.head for frame in frames}.values())


def _compare(made: Dataset, old: Dataset, first: Dataset, modality: str) -> None:
    known = copied(modality) | new(modality)
    assert [str(e.tag) for e in made if e.keyword not in known or e.tag.is_private] == []
    assert [str(e.tag) for e in made.iterall() if e.tag.is_private] == []
    for module in modules_of(modality):
        source = old if module.level == "slice" or not is_flat(first) else first
        for keyword in module.copied:
            expected = cleaned(source[keyword]) if keyword in source else None
            if expected is None:
                assert keyword not in made or made[keyword].is_empty or keyword in FILLED, keyword
            elif keyword not in ("InversionTime", "ScanningSequence", "GantryDetectorTilt"):
                assert _plain(made[keyword]) == _plain(expected), keyword


# Made where the source has none.
FILLED = {"FrameOfReferenceUID", "ScanningSequence", "SequenceVariant", "DeidentificationMethod"}


def _plain(element: pydicom.DataElement) -> object:
    if element.VR == "SQ":
        return [{e.keyword: _plain(e) for e in item} for item in element.value]
    return [str(v) for v in element.value] if element.VM > 1 else str(element.value)


def test_private_curves_overlays_and_icons_are_gone(tmp_path: Path) -> None:
    def spoil(ds: Dataset) -> None:
        ds.private_block(0x0029, "VENDOR", create=True).add_new(1, "LO", "secret")
        ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.01)
        ds.add_new(0x60000010, "US", 8)  # OverlayRows
        ds.add_new(0x60003000, "OW", b"\0" * 8)  # OverlayData
        ds.add_new(0x50000005, "US", 1)  # a curve
        ds.IconImageSequence = [Dataset()]
        ds.IconImageSequence[0].Rows = 4
        ds.SmallestImagePixelValue = 3
        ds.VOILUTSequence = [Dataset()]
        ds.VOILUTSequence[0].LUTExplanation = "bone"
        ds.RequestAttributesSequence = [Dataset()]
        ds.RequestAttributesSequence[0].RequestedProcedureID = "17"
        ds.RequestAttributesSequence[0].private_block(0x0029, "VENDOR", create=True).add_new(2, "LO", "secret")

    datasets = Phantom("MR").classic()
    for ds in datasets:
        spoil(ds)
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", datasets)))
    ds = pydicom.dcmread(crude.written.files[3])
    known = copied("MR") | new("MR")
    assert {e.keyword for e in ds} <= known
    assert b"secret" not in crude.written.files[3].read_bytes()
    assert ds.RequestAttributesSequence[0].RequestedProcedureID == "17"


def test_scanner_moves_to_the_contributing_equipment(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        ds.InstitutionName, ds.StationName, ds.DeviceSerialNumber = "Clinic", "MR1", "4711"
        ds.SoftwareVersions = ["VE11", "B"]
        earlier = Dataset()
        earlier.Manufacturer, earlier.PurposeOfReferenceCodeSequence = "Gateway", [Dataset()]
        earlier.PurposeOfReferenceCodeSequence[0].CodeValue = "109103"
        earlier.PurposeOfReferenceCodeSequence[0].CodingSchemeDesignator = "DCM"
        earlier.PurposeOfReferenceCodeSequence[0].CodeMeaning = "Modifying Equipment"
        ds.ContributingEquipmentSequence = [earlier]

    datasets = Phantom("MR").classic()
    for ds in datasets:
        change(ds)
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", datasets)))
    ds = pydicom.dcmread(crude.written.files[0])
    assert "InstitutionName" not in ds
    earlier, scanner, own = ds.ContributingEquipmentSequence
    assert (earlier.Manufacturer, own.Manufacturer) == ("Gateway", "medsr")
    assert (scanner.Manufacturer, scanner.InstitutionName, scanner.StationName) == ("Phantom", "Clinic", "MR1")
    assert (scanner.DeviceSerialNumber, scanner.SoftwareVersions) == ("4711", ["VE11", "B"])


# --- attributes of an enhanced source ------------------------------------------------------------------------------


def test_groups_become_attributes(tmp_path: Path) -> None:
    source = Phantom("MR").enhanced()
    source.EchoPulseSequence, source.EchoPlanarPulseSequence = "GRADIENT", "YES"
    source.SegmentedKSpaceTraversal, source.ResonantNucleus = "SINGLE", "1H"
    source.AcquisitionDuration, source.AcquisitionDateTime = 229.5, "20260101110000"
    shared = source.SharedFunctionalGroupsSequence[0]
    groups = {
        "MREchoSequence": {"EffectiveEchoTime": 30.5},
        "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 500.0, "FlipAngle": 52.0, "EchoTrainLength": 56},
        "MRModifierSequence": {
            "InversionRecovery": "YES", "InversionTimes": [1400.0], "Spoiling": "RF", "FlowCompensation": "SLICE",
            "PartialFourier": "YES", "PartialFourierDirection": "PHASE",
        },
        "MRImagingModifierSequence": {"TransmitterFrequency": 123.21, "PixelBandwidth": 2298.0},
        "MRFOVGeometrySequence": {
            "InPlanePhaseEncodingDirection": "COLUMN", "MRAcquisitionFrequencyEncodingSteps": 64,
            "MRAcquisitionPhaseEncodingStepsInPlane": 48,
        },
        "FrameVOILUTSequence": {"WindowCenter": 625.0, "WindowWidth": 1361.0},
    }  # fmt: skip
    for keyword, values in groups.items():
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        setattr(shared, keyword, [item])
    for number, frame in enumerate(source.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].FrameAcquisitionDateTime = f"2026010112000{number}"
        frame.FrameContentSequence[0].TemporalPositionIndex = 1
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", [source])), (1, 1, 1))
    ds = pydicom.dcmread(crude.written.files[0])  # the last frame of the file
    assert ds.SOPClassUID == STORAGE["MR"]
    assert (ds.EchoTime, ds.RepetitionTime, ds.FlipAngle, ds.EchoTrainLength) == (30.5, 500, 52, 56)
    assert (ds.ScanningSequence, ds.SequenceVariant) == (["GR", "IR", "EP"], "SP")
    assert ds.ScanOptions == ["FC", "PFP"]
    assert (ds.InversionTime, ds.ImagingFrequency, ds.PixelBandwidth, ds.ImagedNucleus) == (1400, 123.21, 2298, "1H")
    assert (ds.InPlanePhaseEncodingDirection, ds.AcquisitionMatrix) == ("COL", [0, 64, 48, 0])
    assert (ds.WindowCenter, ds.WindowWidth) == (625, 1361)
    assert (ds.AcquisitionDateTime, ds.TemporalPositionIdentifier) == ("20260101120006", 1)
    assert ds.AcquisitionDuration == 229.5
    other = pydicom.dcmread(crude.written.files[2])
    assert (other.AcquisitionDateTime, other.AcquisitionMatrix) == ("20260101120004", [0, 64, 48, 0])
    assert "NumberOfFrames" not in ds
    assert "SharedFunctionalGroupsSequence" not in ds


def test_legacy_converted_attributes_come_back(tmp_path: Path) -> None:
    source = Phantom("CT").enhanced()
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.2")
    shared, item = source.SharedFunctionalGroupsSequence[0], Dataset()
    item.KVP, item.ConvolutionKernel, item.TableHeight = 120, "B30f", 150.5
    shared.UnassignedSharedConvertedAttributesSequence = [item]
    for number, frame in enumerate(source.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.Exposure = 100 + number
        frame.UnassignedPerFrameConvertedAttributesSequence = [item]
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", [source])), (1, 1, 1))
    ds = pydicom.dcmread(crude.written.files[0])
    assert (ds.KVP, ds.ConvolutionKernel, ds.TableHeight, ds.Exposure) == (120, "B30f", 150.5, 106)


@pytest.mark.parametrize(
    ("inversion", "sequence", "expected"),
    [
        (450.0, ["GR"], (["GR", "IR"], 450)),
        (0.0, ["SE"], ("SE", None)),
        (None, ["IR", "SE"], (["IR", "SE"], "")),
        (1400.0, ["IR"], ("IR", 1400)),
        (None, None, ("RM", None)),
        (2000.0, None, ("IR", 2000)),
    ],
)
def test_inversion_time_and_sequence(tmp_path: Path, inversion, sequence, expected) -> None:
    datasets = Phantom("MR").classic()
    for ds in datasets:
        if inversion is not None:
            ds.InversionTime = inversion
        if sequence is not None:
            ds.ScanningSequence = sequence
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", datasets)), (1, 1, 1))
    ds = pydicom.dcmread(crude.written.files[0])
    found = ("" if ds["InversionTime"].is_empty else ds.InversionTime) if "InversionTime" in ds else None
    assert (ds.ScanningSequence, found) == expected


def test_window_of_a_negative_is_dropped(tmp_path: Path) -> None:
    datasets = Phantom("MR").classic()
    for ds in datasets:
        ds.WindowCenter, ds.WindowWidth = 600, 1200
        ds.PhotometricInterpretation = "MONOCHROME1"
    crude = write_crude(tmp_path / "out", inspect(save(tmp_path / "in", datasets)), (1, 1, 1))
    ds = pydicom.dcmread(crude.written.files[0])
    assert "WindowCenter" not in ds
    assert ds.PhotometricInterpretation == "MONOCHROME2"


# --- names, numbers, UIDs ------------------------------------------------------------------------------------------


@given(text=st.text(max_size=100))
def test_the_mark_is_never_cut(text: str) -> None:
    made = marked_description(text, DERIVATION)
    assert made.endswith(MARK)
    assert len(made) <= 64
    assert "\\" not in made
    assert not any(ord(c) < 32 or ord(c) == 127 for c in made)
    assert marked_description(made, DERIVATION) == made


@pytest.mark.parametrize(
    ("source", "own", "expected"),
    [
        ("T2 FLAIR", None, f"T2 FLAIR - {MARK}"),
        ("", None, MARK),
        ("T2 FLAIR", "Knee", f"Knee - {MARK}"),
        ("T2 FLAIR", "", MARK),
        ("x" * 64, None, f"{'x' * 42} - {MARK}"),
        ("a\\b\nc", None, f"a/b c - {MARK}"),
    ],
)
def test_description(source: str, own: str | None, expected: str) -> None:
    assert marked_description(source, replace(DERIVATION, series_description=own)) == expected


@pytest.mark.parametrize(
    ("source", "own", "expected"),
    [(4, None, 401), (0, None, 9901), (-3, None, 9901), (None, None, 9901), (21474837, None, 9901), (4, 77, 77),
     (21474836, None, 2147483601), (4, 0, 0)],
)  # fmt: skip
def test_number(source: int | None, own: int | None, expected: int) -> None:
    assert number_of(source, replace(DERIVATION, series_number=own)) == expected


@pytest.mark.parametrize(("part", "expected"), [(None, 401), (1, 401), (2, 411), (10, 491), (11, 401)])
def test_number_of_a_part(part: int | None, expected: int) -> None:
    """Parts of one series become several series of one study, each with room for its maps."""
    assert number_of(4, DERIVATION, part) == expected


def test_number_beyond_the_standard() -> None:
    with pytest.raises(ConfigError, match="series number"):
        number_of(1, replace(DERIVATION, series_number=1 << 31))


@pytest.mark.parametrize(
    ("source", "modality", "third"),
    [
        (["ORIGINAL", "PRIMARY", "AXIAL"], "CT", "AXIAL"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "CT", "LOCALIZER"),
        (["ORIGINAL", "PRIMARY", "CSA MPR"], "CT", "AXIAL"),
        (["ORIGINAL"], "CT", "AXIAL"),
        (["ORIGINAL", "PRIMARY", "m_se", "M", "SE"], "MR", "M_SE"),
        (["DERIVED", "SECONDARY", ""], "MR", "OTHER"),
        (["DERIVED", "SECONDARY", "T2*"], "MR", "OTHER"),
    ],
)
def test_image_type(source: list[str], modality: str, third: str) -> None:
    assert image_type(source, modality) == ["DERIVED", "SECONDARY", third]


@given(value=st.recursive(st.integers() | st.text() | st.booleans() | st.none(), st.lists, max_leaves=5))
def test_uids_follow_from_values(value: object) -> None:
    """Any JSON value gives one valid UID, of the form of a UUID, which its equal gives again."""
    uid = uid_of("test", value)
    assert UID(uid).is_valid
    assert uid == uid_of("test", json.loads(json.dumps(value)))
    assert uid != uid_of("test", [value])
    number = int(uid.removeprefix("2.25."))
    assert (number >> 76) & 0xF == 8
    assert (number >> 62) & 0x3 == 2
