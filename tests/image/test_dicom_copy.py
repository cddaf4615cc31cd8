"""Attributes of a source on their way out: valid, or gone; and nothing that a file can hold stops the writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from medsr.errors import MedsrError
from medsr.image.dicom_attributes import IDENTITY, modules_of
from medsr.image.dicom_copy import Copier, Encoder, cleaned, decimal, decimal_of_any_size, encode
from medsr.image.dicom_read import inspect, read
from medsr.image.dicom_tags import quiet, tag_of
from medsr.image.dicom_write import write_series
from tests.image.dicom_crude import DERIVATION
from tests.image.dicom_phantom import Phantom, save

COPIED = sorted({k for m in ("CT", "MR") for module in modules_of(m) for k in module.copied})


def element(keyword: str, value: object) -> DataElement:
    with quiet():
        return DataElement(tag_of(keyword), dictionary_VR(keyword), value, validation_mode=config.IGNORE)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("AcquisitionDate", "2026.01.31", "20260131"),
        ("AcquisitionDate", "20260231", None),
        ("AcquisitionTime", "12:30:15", "123015"),
        ("AcquisitionTime", "250000", None),
        ("ScanOptions", "fat_sat", "FAT_SAT"),
        ("ScanOptions", "no code!", None),
        ("EchoTime", "12.3456789012345678", "12.3456789012346"),
        ("EchoTime", "", None),
        ("PatientAge", "45", None),
        ("PatientAge", "045Y", "045Y"),
        ("PatientSex", "W", None),
        ("PatientSex", "F", "F"),
        ("AngioFlag", "N", "N"),
        ("SequenceName", "a name of more than sixteen", "a name of more t"),
        ("StudyDescription", "two\nlines", "two lines"),
        ("PatientComments", "two\nlines", "two\nlines"),
        ("AcquisitionMatrix", [0, 64, 48, 0], [0, 64, 48, 0]),
        ("AcquisitionMatrix", [64, 48], None),
        ("AcquisitionUID", "1.2.03", None),
        ("AcquisitionUID", "1.2.3", "1.2.3"),
        ("ImageLaterality", "left", None),
    ],
)
def test_values_made_valid(keyword: str, value: object, expected: object) -> None:
    made = cleaned(element(keyword, value))
    if expected is None:
        assert made is None
    else:
        assert made is not None
        found = list(made.value) if made.VM > 1 else made.value
        assert found == expected or str(found) == expected


@given(keyword=st.sampled_from(COPIED), value=st.text(max_size=80) | st.floats() | st.integers(-10, 1 << 40))
@settings(max_examples=300)
def test_what_is_copied_is_valid(keyword: str, value: object) -> None:
    """By pydicom's own rules, whatever stood there."""
    vr = dictionary_VR(keyword)
    if vr == "SQ" or keyword in IDENTITY:
        return
    if vr in ("US", "FD", "FL", "SS") and isinstance(value, str):
        return
    try:
        given_element = element(keyword, value)
    except Exception:  # not even pydicom makes an element of it
        return
    try:
        made = cleaned(given_element)
    except (ValueError, OverflowError):
        return  # left out by Copier, as every element that cannot be read
    if made is not None and vr != "PN":
        for one in made.value if made.VM > 1 else [made.value]:
            validate_value(vr, one if vr in ("US", "FD", "FL", "SS") else str(one), config.RAISE)
            assert vr not in ("FD", "FL", "DS") or np.isfinite(float(one))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    keywords=st.lists(st.sampled_from(COPIED), min_size=1, max_size=12),
    value=st.binary(max_size=40),
    vr=st.sampled_from(["", "LO", "SQ", "UN", "US", "DS", "OB", "UI"]),
    charset=st.sampled_from(["ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "nonsense"]),
    enhanced=st.booleans(),
    modality=st.sampled_from(["CT", "MR"]),
)
def test_any_bytes_end_in_a_series_or_one_line(
    tmp_path_factory, keywords: list[str], value: bytes, vr: str, charset: str, enhanced: bool, modality: str
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    phantom = Phantom(modality)
    datasets = [phantom.enhanced()] if enhanced else phantom.classic()
    for ds in datasets:
        ds["SpecificCharacterSet"] = element("SpecificCharacterSet", charset)
        for keyword in keywords:
            tag = Tag(tag_of(keyword))
            padded = value + b"\0" * (len(value) % 2)
            ds[tag] = RawDataElement(tag, vr or dictionary_VR(tag), len(padded), padded, 0, False, True)
    try:
        with quiet():
            save(folder / "in", datasets)
    except Exception:  # pydicom cannot write it
        return
    (folder / "out").mkdir()
    try:
        header = inspect(folder / "in")
        volume = read(header, modality=modality)
        written = write_series(folder / "out", [volume], header, DERIVATION)
    except MedsrError as error:
        said = str(error).splitlines()
        assert len(said) == 1
        return
    ds = pydicom.dcmread(written.files[0])
    with quiet():
        assert [e.tag for e in ds.iterall() if e.tag.is_private] == []
    assert inspect(folder / "out").geometry.same_grid(volume.geometry, 1e-4)


def test_patient_stays_as_it_is(tmp_path: Path) -> None:
    """An identity that breaks a rule is kept: made valid, it would be another patient."""
    datasets = Phantom().classic()
    with quiet():
        for ds in datasets:
            ds["PatientID"] = element("PatientID", "x" * 80)
            ds["PatientBirthDate"] = element("PatientBirthDate", "1970")
            ds["AccessionNumber"] = element("AccessionNumber", "more than 16 characters")
        header = inspect(save(tmp_path / "in", datasets))
    (tmp_path / "out").mkdir()
    written = write_series(tmp_path / "out", [read(header)], header, DERIVATION)
    with quiet():
        ds = pydicom.dcmread(written.files[0])
        assert (ds.PatientID, ds.PatientBirthDate) == ("x" * 80, "1970")
        assert ds.AccessionNumber == "more than 16 characters"


def test_codes_without_meaning_and_private_items_go() -> None:
    good, bare, empty = Dataset(), Dataset(), Dataset()
    good.CodeValue, good.CodingSchemeDesignator, good.CodeMeaning = "T-A0100", "SRT", "Brain"
    good.private_block(0x0029, "VENDOR", create=True).add_new(1, "LO", "secret")
    bare.CodeValue = "1"
    made = cleaned(element("ProcedureCodeSequence", [good, bare, empty]))
    assert made is not None
    (item,) = made.value
    assert [e.keyword for e in item] == ["CodeValue", "CodingSchemeDesignator", "CodeMeaning"]
    assert cleaned(element("ProcedureCodeSequence", [bare])) is None


def test_what_stands_alike_in_many_files_is_one_object() -> None:
    copier, found = Copier(), []
    for echo in (b"90 ", b"90 ", b"91 "):
        ds = Dataset()
        ds[0x00180081] = RawDataElement(Tag(0x00180081), "DS", 3, echo, 0, False, True)
        found.append(copier.element(ds, "EchoTime", "file"))
    assert found[0] is found[1]
    assert found[2] is not None
    assert found[2].value == 91


def test_an_element_is_encoded_as_pydicom_does() -> None:
    one = element("ProtocolName", "Müller")
    assert Encoder(["ISO_IR 192"]).encoded(one) == encode(one, ["utf8"]) == b"\x18\x00\x30\x10LO\x08\x00M\xc3\xbcller "


@given(value=st.floats(-1e9, 1e9))
def test_decimal_strings(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 16
    assert abs(float(text) - value) <= max(1e-10, abs(value) * 1e-13)


@given(value=st.floats(1e-30, 1e30))
def test_decimal_strings_of_any_size(value: float) -> None:
    text = decimal_of_any_size(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-9)
