"""What happens in a batch as JSON, an object a line, in which no scan is named unless that is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO


class EventLog:
    """Lines such as ``{"time": "2026-01-31T12:00:00.000+00:00", "source": "w1", "event": "done", "scan": "9f86..."}``.

    Names of files often are names of patients: a scan appears as a hash of its name, and of an error only the exit
    code, unless ``names`` is true. ``scan_hash`` finds the lines of a scan whose name one knows.
    """

    def __init__(self, stream: TextIO, source: str, *, names: bool) -> None:
        self._stream, self._source, self._names = stream, source, names
        self._lock = threading.Lock()

    def write(
        self, event: str, now: float, *, scan: str = "", error: str = "", facts: Mapping[str, Any] | None = None
    ) -> None:
        """Add a line. now: seconds since 1970. scan: its name. error: may name files. facts: JSON values."""
        line: dict[str, Any] = {"time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")}
        line |= {"source": self._source, "event": event}
        if scan:
            line["scan"] = scan if self._names else scan_hash(scan)
        if error and self._names:
            line["error"] = error
        with self._lock:
            self._stream.write(json.dumps(line | dict(facts or {})) + "\n")
            self._stream.flush()


def scan_hash(name: str) -> str:
    """What stands for a scan in the log: the first 16 digits of the SHA-256 of its name."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]
