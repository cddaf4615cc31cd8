"""The model file: one float16 safetensors file that carries its own card, and the networks built from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from medsr.card import ModelCard, model_path, read_card, read_header
from medsr.diffusion.device import resolve_device
from medsr.diffusion.network import SliceNetwork, VarianceHead, build_networks
from medsr.errors import ModelError
from medsr.image.files import atomic_write, display_name

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Model:
    """Networks ready to run (float32 weights, evaluation mode, no gradients) and the card they came with."""

    card: ModelCard
    mean: SliceNetwork
    variance: VarianceHead | None
    sampler: SliceNetwork | None
    device: torch.device


def load_model(model: str | Path, *, device: str = "cpu") -> Model:
    """A packaged model or a .safetensors file, checked before any network is built from it.

    device: as in ``resolve_device``. Raises ModelError when the file is not a model of medsr, when its tensors are not
    exactly those of its card's networks, or when their sha256 is not the card's; DeviceError when the device is absent.
    """
    place = resolve_device(device)
    path = model_path(model)
    card = read_card(path)
    table = _table(path)
    networks = _networks_without_memory(card, table)
    _check_shapes(table, _shapes(named_tensors(networks)), path)
    tensors = _read_tensors(path, card)
    for name, network in networks.items():
        state = {key.removeprefix(f"{name}."): t.float() for key, t in tensors.items() if key.startswith(f"{name}.")}
        network.load_state_dict(state, strict=True, assign=True)
        network.to(place).eval().requires_grad_(False)
    return Model(
        card=card,
        mean=cast(SliceNetwork, networks["mean"]),
        variance=cast("VarianceHead | None", networks.get("variance")),
        sampler=cast("SliceNetwork | None", networks.get("sampler")),
        device=place,
    )


def save_model(path: Path, card: ModelCard, tensors: Mapping[str, Tensor]) -> ModelCard:
    """Write tensors in float16 with the card in the metadata key ``medsr``; returns the card with its sha256.

    tensors: those of ``named_tensors``. The file appears whole or not at all, and replaces an older one. Raises
    ModelError when the tensors are not those of the card's networks or do not fit float16, JobError when the file
    cannot be written.
    """
    half = {name: tensors[name].detach().to("cpu", torch.float16).contiguous() for name in sorted(tensors)}
    _check_shapes(_shapes(half), _shapes(named_tensors(_networks_without_memory(card, half))), path)
    for name, tensor in half.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{display_name(path)}: {name} holds values that float16 cannot; was the training diverging?"
            )
    card = card.model_copy(update={"sha256": tensor_sha256(half)})
    with atomic_write(path, overwrite=True) as stream:
        stream.write(safetensors.save(half, metadata={"medsr": card.to_json()}))
    return card


def named_tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors of networks under the names they have in a model file: ``mean.<...>``, ``variance.<...>``, ..."""
    return {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}


def tensor_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the tensors' bytes (C order, little-endian) in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _networks_without_memory(card: ModelCard, names: Iterable[str]) -> dict[str, nn.Module]:
    """The card's networks on the meta device. Without a sampler a model may consist of its mean alone."""
    with torch.device("meta"):
        networks = dict(build_networks(card))
    if not card.has_sampler and not any(name.startswith("variance.") for name in names):
        networks.pop("variance", None)
    return networks


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _table(path: Path) -> Shapes:
    """Names and shapes from the header of a file, all of them float16."""
    return {name: _half_shape(name, entry, path) for name, entry in read_header(path).items() if name != "__metadata__"}


def _half_shape(name: str, entry: Any, path: Path) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(n) is int for n in shape):
        raise ModelError(f"{display_name(path)} has a damaged header: no shape for {name}. Copy it again")
    if entry.get("dtype") != "F16":
        raise ModelError(f"{display_name(path)}: {name} has type {entry.get('dtype')}; a medsr model is stored in F16")
    return tuple(shape)


def _check_shapes(found: Shapes, expected: Shapes, path: Path) -> None:
    """Raise ModelError unless both have the same names and shapes; the message names the first fault of each kind."""
    remedy = "the file and its card are not of one model; use a file that save_model or medsr train has written"
    for kind, names in (("lacks", expected.keys() - found.keys()), ("has the unknown", found.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{display_name(path)} {kind} tensor {min(names)}{more}; {remedy}")
    for name in sorted(expected):
        if found[name] != expected[name]:
            raise ModelError(
                f"{display_name(path)}: {name} is {found[name]}, the network wants {expected[name]}; {remedy}"
            )


def _read_tensors(path: Path, card: ModelCard) -> dict[str, Tensor]:
    """All tensors of a file whose table has been checked. Raises ModelError when they are not what was saved."""
    try:
        tensors = safetensors.load(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{display_name(path)} is truncated or damaged ({error}). Copy it again") from error
    found = tensor_sha256(tensors)
    if found != card.sha256:
        told = card.sha256[:12] or "nothing"
        raise ModelError(
            f"{display_name(path)}: the weights have sha256 {found[:12]}, their card says {told}; "
            "the file is damaged or was changed. Copy it again"
        )
    return tensors
