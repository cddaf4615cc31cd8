"""What a worker is told of one scan, as the job list keeps it: JSON values, and the same as a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medsr.request import Request


@dataclass(frozen=True, eq=False)
class Task:
    """One scan to be upscaled.

    path: absolute. output: relative to the folder of outputs, with "/"; a .nii.gz file, or a folder for a DICOM
    series. plan: as ``Plan.to_json`` said it when the batch was planned. input_sha256: of the scan's files, as
    ``input_hash`` makes it. notes: for the sidecar, beside its own keys. template_sha256: likewise of the DICOM
    series whose tags the output takes, where the request names one.
    """

    path: Path
    output: str
    request: Request
    plan: Mapping[str, Any]
    input_sha256: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    template_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``NewJob.task``."""
        request = asdict(replace(self.request, target=None))
        del request["target"]
        if self.request.dicom_template is not None:
            request["dicom_template"] = str(self.request.dicom_template)
        return {
            "path": str(self.path),
            "output": self.output,
            "request": request,
            "plan": dict(self.plan),
            "input_sha256": self.input_sha256,
            "notes": dict(self.notes),
            "template_sha256": self.template_sha256,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Task:
        """What ``to_json`` made, after it has been through JSON."""
        request: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values["request"].items()
        }
        if request["dicom_template"] is not None:
            request["dicom_template"] = Path(request["dicom_template"])
        return cls(
            path=Path(values["path"]),
            output=values["output"],
            request=Request(**request),
            plan=values["plan"],
            input_sha256=values["input_sha256"],
            notes=values["notes"],
            template_sha256=values.get("template_sha256"),
        )
