"""A derived series in an archive, and out of it again: nothing is lost, and it lies beside its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medsr.image.dicom_map import write_map
from medsr.image.dicom_read import inspect, read
from tests.image.dicom_crude import DERIVATION, Crude, write_crude
from tests.image.dicom_phantom import Phantom, save
from tests.image.orthanc import Orthanc, needs_orthanc, orthanc

SOURCES = {
    "CT": lambda: Phantom("CT").classic(),
    "MR": lambda: Phantom("MR", series=2, slope=0.5).classic(),
    "enhanced MR": lambda: [Phantom("MR", series=3).enhanced()],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module", params=SOURCES)
def series(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crude:
    folder = tmp_path_factory.mktemp("series")
    source = inspect(save(folder / "source", SOURCES[request.param]()))
    return write_crude(folder / "derived", source)


@needs_orthanc()
def test_dicomweb(server: Orthanc, series: Crude) -> None:
    """What STOW-RS stored, WADO-RS gives back: every element, pixels and file meta information."""
    sent = [pydicom.dcmread(file) for file in series.written.files]
    stored = server.stow([*series.written.files, *sorted(series.source.path.iterdir())])
    assert "FailedSOPSequence" not in stored or not stored.FailedSOPSequence
    received = server.wado(sent[0].StudyInstanceUID, series.written.uid)
    assert len(received) == len(sent)
    for ours, theirs in zip(sent, received, strict=True):
        assert ours == theirs
        assert ours.file_meta == theirs.file_meta
    assert server.qido(sent[0].StudyInstanceUID)[series.written.uid] == series.written.description


@needs_orthanc()
def test_c_store(server: Orthanc, series: Crude, tmp_path: Path) -> None:
    """By storescu, into the same study; what Orthanc's own interface gives is the series that was sent."""
    before = server.count("instances")
    server.c_store(series.folder)
    received = server.rest(series.written.uid)
    sent = [pydicom.dcmread(file) for file in series.written.files]
    assert received == sent
    assert server.count("instances") in (before, before + len(sent))  # the same instance twice is one
    fetched = tmp_path / "fetched"
    save(fetched, received)
    ours, theirs = (read(inspect(folder), modality=series.volumes[0].modality) for folder in (series.folder, fetched))
    assert (ours.array == theirs.array).all()
    assert ours.geometry.same_grid(theirs.geometry, 0)


@needs_orthanc()
def test_a_map(server: Orthanc, series: Crude, tmp_path: Path) -> None:
    """A Parametric Map goes to the same study, and its float32 values come back as they are."""
    path = tmp_path / "map" / "map.dcm"
    path.parent.mkdir()
    volume = series.volumes[0]
    noisy = replace(volume, array=volume.array + np.float32(0.1))
    write_map(path, [noisy], series.source, DERIVATION, series.written, kind="std")
    sent = pydicom.dcmread(path)
    server.stow([path])
    server.c_store(path.parent)
    for received in (server.wado(sent.StudyInstanceUID, sent.SeriesInstanceUID), server.rest(sent.SeriesInstanceUID)):
        assert received == [sent]
        np.testing.assert_array_equal(received[0].pixel_array, sent.pixel_array)


@needs_orthanc()
def test_in_the_study_of_its_source(tmp_path: Path) -> None:
    source = inspect(save(tmp_path / "source", Phantom("CT").classic()))
    derived = write_crude(tmp_path / "derived", source)
    (tmp_path / "server").mkdir()
    with orthanc(tmp_path / "server") as server:
        server.c_store(tmp_path / "source")
        server.c_store(derived.folder)
        assert [server.count(level) for level in ("patients", "studies", "series")] == [1, 1, 2]
        assert server.count("instances") == len(list((tmp_path / "source").iterdir())) + len(derived.written.files)
