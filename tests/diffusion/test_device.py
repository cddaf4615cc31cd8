from __future__ import annotations

import pytest
import torch

from medsr.diffusion.device import dtype_for, resolve_device
from medsr.errors import ConfigError, DeviceError

CUDA = torch.cuda.is_available()
MPS = torch.backends.mps.is_available()
no_cuda = pytest.mark.skipif(CUDA, reason="this machine has a CUDA device")
needs_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device")


def test_auto_is_the_best_there_is():
    assert resolve_device("auto").type == ("cuda" if CUDA else "mps" if MPS else "cpu")


def test_cpu_is_always_there():
    assert resolve_device("cpu") == torch.device("cpu")


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_absent_cuda_is_an_error_that_names_the_way_out(name):
    with pytest.raises(DeviceError, match=f"{name} was asked for.*--device cpu") as caught:
        resolve_device(name)
    assert caught.value.exit_code == 6


@pytest.mark.skipif(MPS, reason="this machine has MPS")
def test_absent_mps_is_an_error():
    with pytest.raises(DeviceError, match=r"mps was asked for.*--device cpu"):
        resolve_device("mps")


@needs_cuda
def test_cuda_by_number():
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(DeviceError, match="has only cuda:0"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:00001", "cpu:0", "meta", "cpu\n"]
)
def test_unknown_names_are_a_usage_error(name):
    with pytest.raises(ConfigError, match="give auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_cpu_format_is_what_the_processor_reports():
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if "avx512_bf16" not in flags:
        pytest.skip("torch reports no processor capabilities here")
    native = flags["avx512_bf16"] or flags["amx_tile"]
    assert dtype_for(torch.device("cpu")) == (torch.bfloat16 if native else torch.float32)


@needs_cuda
def test_cuda_format_follows_its_generation():
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert dtype_for(torch.device("cuda")) == (torch.bfloat16 if native else torch.float16)


def test_the_format_runs_a_convolution_on_this_machine():
    """Autocast in the chosen format agrees with float32 to that format's precision."""
    device = resolve_device("auto")
    dtype = dtype_for(device)
    layer = torch.nn.Conv2d(8, 8, 3).to(device)
    x = torch.randn(1, 8, 16, 16, device=device)
    exact = layer(x)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        found = layer(x)
    assert found.dtype == dtype
    assert (found.float() - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
