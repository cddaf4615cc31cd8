"""From a header and a request to a plan; every refusal that needs no voxel happens here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medsr.image.geometry import Geometry
from medsr.image.volume import Modality

Consistency = Literal["auto", "hard", "soft", "off"]
SamplerName = Literal["heun", "euler", "dpmpp2m", "ancestral"]


@dataclass(frozen=True)
class Request:
    """What the user asks for; the defaults are those of ``medsr upscale`` (docs: reference)."""

    scale: tuple[float, ...] | None = None  # one number: in plane; three: i, j, k
    spacing: tuple[float, ...] | None = None  # mm; one number: all axes
    isotropic: bool = False
    texture: float = 0.0
    samples: int = 1
    steps: int = 10
    sampler: SamplerName = "heun"
    seed: int = 0
    uncertainty: bool = False
    detail_map: bool = False
    profile: str = "auto"
    consistency: Consistency = "auto"
    from_acquired: Literal["auto", "off"] = "auto"
    modality: Literal["auto", "mr", "ct"] = "auto"
    volume: int | Literal["all"] | None = None
    prefer: Literal["sform", "qform"] | None = None
    assume_spacing: tuple[float, ...] | None = None
    device: str = "auto"
    model: str = "medsr-base"
    threads: int | None = None
    target: Geometry | None = None  # an exact target grid (evaluation); excludes scale, spacing and isotropic


@dataclass(frozen=True)
class AxisProfile:
    """The assumed point-spread along one axis. kind: identity, sinc, gauss or box; width in units of LR spacing."""

    kind: Literal["identity", "sinc", "gauss", "box"]
    width: float
    evidence: str  # "user", "tags: ...", "assumed: ..."
    known: bool  # False: the network is told that the profile is a guess, and consistency is soft

    def __str__(self) -> str:
        return self.kind if self.kind in ("identity", "sinc") else f"{self.kind}:{self.width:g}"


@dataclass(frozen=True, eq=False)
class Pass:
    """One application of the model: from ``source`` to ``target``, over all slices of every plane in ``planes``."""

    source: Geometry
    target: Geometry
    planes: tuple[tuple[int, int], ...]  # the two axes that span a network slice
    profiles: tuple[AxisProfile, AxisProfile, AxisProfile]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that will be done to one scan; JSON by ``to_json``. Memory in bytes, time in seconds."""

    path: Path
    source: Geometry
    acquired: Geometry  # equals source unless k-space is cropped back first
    target: Geometry
    modality: Modality | None  # None: decided at read
    passes: tuple[Pass, ...]
    consistency: Literal["hard", "soft", "off"]
    request: Request
    model: str
    model_sha256: str
    output: Path | None
    memory_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        asked = {k: v for k, v in asdict(self.request).items() if k != "target"}
        return {
            "input": self.path.name,
            "source": self.source.to_json(),
            "acquired": self.acquired.to_json(),
            "target": self.target.to_json(),
            "modality": self.modality or "decided at read",
            "passes": [
                {
                    "from": list(p.source.shape),
                    "to": list(p.target.shape),
                    "planes": ["".join("ijk"[a] for a in plane) for plane in p.planes],
                    "profiles": [{"profile": str(a), "known": a.known, "evidence": a.evidence} for a in p.profiles],
                }
                for p in self.passes
            ],
            "consistency": self.consistency,
            "request": asked,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "output": self.output.name if self.output else None,
            "memory_bytes": self.memory_bytes,
            "estimated_seconds": self.seconds,
            "warnings": list(self.warnings),
        }
