"""The model card: the JSON text that a weights file carries in its safetensors header, readable without torch."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medsr.errors import ModelError
from medsr.image.files import display_name

FORMAT: Literal["medsr-model/1"] = "medsr-model/1"
WEIGHTS_DIR = Path(__file__).parent / "weights"
DEFAULT_MODEL = "medsr-base"
_HEADER_LIMIT = 4 << 20  # bytes; a card with its tensor table is a few tens of kilobytes


class NetworkSpec(BaseModel):
    """Shape of the slice network; ``image_channels`` differ between the mean and the sampler instance."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # the bounds keep a forged card from asking for endless layers before one tensor has been looked at
    width: int = Field(default=64, ge=1, le=1024)
    blocks_top: int = Field(default=12, ge=1, le=256)
    blocks_bottom: int = Field(default=6, ge=1, le=256)
    embedding: int = Field(default=128, ge=1, le=4096)


class ModelCard(BaseModel):
    """What a weights file says of itself. Every number here is written by training or by a measurement."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["medsr-model/1"] = FORMAT
    name: str
    version: str
    sha256: str = ""  # of the tensor bytes in the order of their names; checked on load
    modalities: tuple[Literal["MR", "CT"], ...] = ("MR", "CT")
    network: NetworkSpec = NetworkSpec()
    context: int = Field(default=1, ge=0, le=16)  # neighbour slices on each side
    has_sampler: bool = False
    max_factor: float = 6.0  # largest factor of one pass
    spacing_mm: tuple[float, float] = (0.1, 16.0)  # voxel spacing the model may be used on
    residual_scale: tuple[float, ...] = ()  # coefficients of ln s, see medsr.diffusion.conditions
    calibration: dict[str, float] = {}  # factor on the predicted standard deviation, per modality
    training: dict[str, Any] = {}  # data rows with licences, command, steps, minutes, hardware
    results: dict[str, Any] = {}  # protocol tables on val and test, filled by measurement
    intended_use: str = "Research use only, not for diagnosis."
    licence: str = "Apache-2.0"

    def to_json(self) -> str:
        """The card as one JSON text."""
        return self.model_dump_json()


def model_path(model: str | Path) -> Path:
    """A packaged model's name, or the path of a weights file, to a path. Raises ModelError when there is none."""
    path = Path(model)
    if path.suffix == ".safetensors":
        if path.is_file():
            return path
        raise ModelError(
            f"{display_name(path)} does not exist; give a .safetensors file or one of: {', '.join(list_models())}"
        )
    packaged = WEIGHTS_DIR / f"{model}.safetensors"
    if str(model) in list_models():
        return packaged
    hint = "medsr reads only .safetensors files and never unpickles" if path.is_file() else "no such model"
    raise ModelError(f"{display_name(path)}: {hint}. Packaged models: {', '.join(list_models()) or 'none'}")


def list_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(p.stem for p in WEIGHTS_DIR.glob("*.safetensors"))


def _is_pickle(start: bytes) -> bool:
    """Whether a file starts as PyTorch's zip archive or as a pickle of protocol 2 to 5."""
    return start.startswith(b"PK\x03\x04") or (start[0] == 0x80 and start[1] in (2, 3, 4, 5) and start[2:] != bytes(6))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, reading no tensor. Raises ModelError when it is not one."""
    name = display_name(path)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = _header_length(prefix, size, name)
            text = stream.read(length)
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror}. Check its permissions") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} has a damaged header: not JSON. Copy it again") from error
    if not isinstance(header, dict):
        raise ModelError(f"{name} has a damaged header: not a JSON object")
    return header


def _header_length(prefix: bytes, size: int, name: str) -> int:
    """Length in bytes of the JSON text, from the first eight bytes of a file of ``size`` bytes."""
    if len(prefix) < 8:
        raise ModelError(f"{name} is {size} bytes; a safetensors file is longer. Copy it again")
    if _is_pickle(prefix):
        raise ModelError(f"{name} is a pickle; medsr reads only .safetensors files and never unpickles")
    length: int = struct.unpack("<Q", prefix)[0]
    if length > min(_HEADER_LIMIT, size - 8):
        raise ModelError(f"{name} is not a safetensors file (its header would be {length} bytes)")
    return length


def read_card(model: str | Path = DEFAULT_MODEL) -> ModelCard:
    """The card of a packaged model or a weights file, reading no weights. Raises ModelError."""
    path = model_path(model)
    metadata = read_header(path).get("__metadata__")
    text = metadata.get("medsr") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelError(f"{display_name(path)} holds no medsr model card; it was not written by medsr")
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{display_name(path)}: its card is not one of {FORMAT} ({where}: {first['msg']})") from error
