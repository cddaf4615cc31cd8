"""The processes that train together: started by torchrun or accelerate launch, one for each device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from medsr.diffusion.device import resolve_device
from medsr.errors import ConfigError, PlanError

LAUNCHER = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets beside WORLD_SIZE
Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """One process and its place among all. Every method that communicates must be called by all of them."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes and prints."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message."""
        if self.processes == 1:
            return
        message = torch.cat([t.reshape(-1) for t in tensors])
        distributed.all_reduce(message)
        for tensor, part in zip(tensors, message.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, seconds: float, *, over: bool) -> tuple[float, bool]:
        """What the leading process's clock says: clocks differ, and all must stop at the same step.

        The message goes from host to host, so that no device is waited for.
        """
        if self.processes == 1:
            return seconds, over
        message = torch.tensor([seconds, float(over)], dtype=torch.float64)
        distributed.broadcast(message, 0)
        seconds, stop = message.tolist()
        return seconds, bool(stop)

    def share(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns in the leading process, which alone calls it."""
        if self.processes == 1:
            return make()
        box = [make() if self.leads else None]
        distributed.broadcast_object_list(box, 0, device=torch.device("cpu"))
        value: Value = box[0]  # type: ignore[assignment]
        return value


@contextmanager
def assembled() -> Iterator[Team]:
    """This process's team, as the environment tells it: alone, unless a launcher has set WORLD_SIZE.

    Raises PlanError when accelerate is not installed, ConfigError when no launcher has started the process.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        yield Team(resolve_device("auto"))
        return
    missing = [name for name in LAUNCHER if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {processes} but {', '.join(missing)} not set; start medsr train with torchrun or "
            "accelerate launch, or unset WORLD_SIZE"
        )
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise PlanError(
            f"training in {processes} processes needs accelerate, which is not installed; pip install 'medsr[multi]'"
        ) from error
    # gloo beside nccl: what the hosts agree on does not wait for a device
    on_cuda = torch.cuda.is_available()
    state = PartialState(backend="cuda:nccl,cpu:gloo") if on_cuda else PartialState(cpu=True)
    try:
        yield Team(torch.device(state.device if on_cuda else "cpu"), state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()
