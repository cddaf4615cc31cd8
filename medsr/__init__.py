"""Super-resolution of MRI and CT volumes with a low-resolution-conditioned diffusion network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsr.diffusion.model import load_model as load_model
    from medsr.image.geometry import Geometry as Geometry
    from medsr.image.nifti import write as write
    from medsr.image.scan import inspect as inspect
    from medsr.image.scan import read as read
    from medsr.image.volume import Volume as Volume
    from medsr.request import Request as Request
    from medsr.run import upscale as upscale

__version__ = "0.1.0"

# Public names and the modules they come from; each is imported when it is first used (PEP 562).
_PUBLIC = {
    "Geometry": "medsr.image.geometry",
    "Request": "medsr.request",
    "Volume": "medsr.image.volume",
    "inspect": "medsr.image.scan",
    "load_model": "medsr.diffusion.model",
    "read": "medsr.image.scan",
    "upscale": "medsr.run",
    "write": "medsr.image.nifti",
}

__all__ = ["Geometry", "Request", "Volume", "inspect", "load_model", "read", "upscale", "write"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'medsr' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
