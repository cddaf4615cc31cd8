"""Debian's Orthanc on loopback: an archive that takes DICOM in by C-STORE and DICOMweb, and gives it out again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.conftest import IN_CI

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE = "ORTHANC"
_PART = 'multipart/related; type="application/dicom"'
_STARTS = 3  # another program may take a port between its choice and its use
_START_SECONDS = 30
_NO_DELAY = {"TCP_NODELAY": "1"}  # DCMTK waits for 40 ms after each message without it


def needs_orthanc() -> pytest.MarkDecorator:
    """Skip a test where Orthanc, its DICOMweb plugin or DCMTK is missing; in CI that is a failure."""
    missing = [name for name in ("Orthanc", "storescu") if shutil.which(name) is None]
    missing += [] if DICOMWEB.exists() else [DICOMWEB.name]
    if missing and IN_CI:
        raise RuntimeError(f"{', '.join(missing)} missing; see the outside tools of .ci/run")
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}")


@dataclass(frozen=True)
class Orthanc:
    """A running server, on 127.0.0.1 alone."""

    http_port: int
    dicom_port: int

    def stow(self, files: Sequence[Path]) -> Dataset:
        """Store files by STOW-RS, all in one request; gives its answer. Raises HTTPError when one is refused."""
        boundary = uuid.uuid4().hex
        parts = [
            b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n" % (boundary.encode(), file.read_bytes())
            for file in files
        ]
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"{_PART}; boundary={boundary}", "Accept": "application/dicom+json"}
        return Dataset.from_json(self._ask("dicom-web/studies", headers, body)[0])

    def wado(self, study: str, series: str) -> list[Dataset]:
        """All instances of a series by WADO-RS, as they are stored, by InstanceNumber."""
        kind, body = self._ask(f"dicom-web/studies/{study}/series/{series}", {"Accept": f"{_PART}; transfer-syntax=*"})[
            ::-1
        ]
        boundary = kind.split("boundary=")[1].split(";")[0].strip('"').encode()
        parts = body.split(b"--" + boundary)[1:-1]
        return _in_order(part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts)

    def qido(self, study: str) -> dict[str, str]:
        """Description of each series of a study by its UID, by QIDO-RS."""
        headers = {"Accept": "application/dicom+json"}
        found = json.loads(self._ask(f"dicom-web/studies/{study}/series", headers)[0])
        datasets = [Dataset.from_json(item) for item in found]
        return {ds.SeriesInstanceUID: ds.get("SeriesDescription", "") for ds in datasets}

    def c_store(self, folder: Path) -> None:
        """Store the files of a folder with DCMTK's storescu. Raises CalledProcessError when one is refused."""
        command = ["storescu", "-R", "-xe", "-aec", AE_TITLE, "127.0.0.1", str(self.dicom_port), "+sd", str(folder)]
        subprocess.run(command, env=os.environ | _NO_DELAY, check=True, capture_output=True, timeout=60)

    def rest(self, series: str) -> list[Dataset]:
        """All instances of a series by Orthanc's own interface, by InstanceNumber."""
        query = json.dumps({"Level": "Instance", "Query": {"SeriesInstanceUID": series}}).encode()
        ids = json.loads(self._ask("tools/find", {}, query)[0])
        return _in_order(self._ask(f"instances/{name}/file", {})[0] for name in ids)

    def count(self, level: str) -> int:
        """How many "patients", "studies", "series" or "instances" it holds."""
        return len(json.loads(self._ask(level, {})[0]))

    def _ask(self, path: str, headers: dict[str, str], body: bytes | None = None) -> tuple[bytes, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/{path}", body, headers)
        with _opener().open(request, timeout=60) as answer:
            return answer.read(), answer.headers.get("Content-Type", "")


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run a server whose configuration, storage and log lie in a folder. Raises RuntimeError with its log."""
    for _ in range(_STARTS):
        server = Orthanc(*_free_ports(2))
        process = _start(server, folder)
        try:
            if _is_up(server, process):
                yield server
                return
        finally:
            process.terminate()
            process.wait(timeout=30)
    raise RuntimeError(f"Orthanc did not start: {(folder / 'log').read_text(errors='replace')[-2000:]}")


def _start(server: Orthanc, folder: Path) -> subprocess.Popen[bytes]:
    configuration: dict[str, Any] = {
        "Name": "medsr tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(DICOMWEB)],
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "TcpNoDelay": True,
        "OverwriteInstances": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration), encoding="utf-8")
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(["Orthanc", str(file)], env=os.environ | _NO_DELAY, stdout=log, stderr=log)


def _is_up(server: Orthanc, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            server.count("patients")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return True
    return False


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment: it is loopback


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _in_order(files: Iterator[bytes]) -> list[Dataset]:
    return sorted((pydicom.dcmread(BytesIO(file)) for file in files), key=lambda ds: ds.InstanceNumber)
