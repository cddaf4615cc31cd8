"""Where configs/ and sample_data/ are: inside the installed package, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def config_path(name: str) -> Path:
    """Path of a file of configs/, such as ``"protocols.yaml"``. Raises FileNotFoundError naming what there is."""
    return _find("configs", name)


def sample_path(name: str) -> Path:
    """Path of a file of sample_data/, such as a phantom scan. Raises FileNotFoundError naming what there is."""
    return _find("sample_data", name)


def _find(folder: str, name: str) -> Path:
    # A wheel carries the folder inside the package; a checkout, editable installs included, has it beside the package.
    packaged = _PACKAGE / folder
    root = packaged if packaged.is_dir() else _PACKAGE.parent / folder
    path = root / name
    if path.exists():
        return path
    names = ", ".join(sorted(p.name for p in root.iterdir() if p.is_file())) if root.is_dir() else "none"
    raise FileNotFoundError(f"medsr has no {folder}/{name}; there are: {names or 'none'}")
