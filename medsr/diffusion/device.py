"""Which device and which number format the networks run on, by capability and never by a stopwatch."""

from __future__ import annotations

import re

import torch

from medsr.errors import ConfigError, DeviceError


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` names on this machine.

    ``auto`` is CUDA if there is one, else MPS, else the CPU. Raises DeviceError when a named device is absent (never a
    silent run on the CPU) and ConfigError for any other name.
    """
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,4})?", name) is None:
        raise ConfigError(f"device {name!r} is not one that medsr knows; give auto, cpu, cuda, cuda:N or mps")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        _check_cuda(name, device.index or 0)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps was asked for, but this machine has none; use --device cpu or --device auto")
    return device


def _check_cuda(name: str, index: int) -> None:
    if torch.version.cuda is None and torch.version.hip is None:
        raise DeviceError(
            f"device {name} was asked for, but the installed torch {torch.__version__} is built without CUDA; "
            "install a CUDA build of torch, or use --device cpu"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise DeviceError(
            f"device {name} was asked for, but no CUDA device is usable; check the driver, or use --device cpu"
        )
    if index >= count:
        present = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(f"device {name} was asked for, but this machine has only {present}; choose one of them")


def dtype_for(device: torch.device) -> torch.dtype:
    """The number format for the networks' layers on a device; states, sums and consistency stay in float32.

    CPU: bfloat16 where the processor multiplies it (AVX512-BF16 or AMX), else float32. CUDA: bfloat16 where it is
    native, else float16. Others: float32.
    """
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    # these two have no public name up to torch 2.13; where a version lacks them, float32 is the safe answer
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and bool(probe()) for probe in probes)
