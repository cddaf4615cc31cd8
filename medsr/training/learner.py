"""One step of a stage: the loss of all processes together, and weights that follow its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medsr.diffusion.loss import mean_loss, sampler_loss, variance_loss
from medsr.training.data import Batch
from medsr.training.networks import Networks
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State
from medsr.training.team import Team


@dataclass(frozen=True, eq=False)
class Learner:
    """The part that a stage trains, and how."""

    part: nn.Module
    parameters: list[nn.Parameter]
    optimiser: torch.optim.AdamW

    def snapshot(self, name: str, state: State) -> None:
        """Put weights and optimiser into the state, as they are."""
        state.weights[name] = {k: v.detach().clone() for k, v in self.part.state_dict().items()}
        state.optimiser = self.optimiser.state_dict()


def start_learner(stage: Stage, state: State, networks: Networks, config: TrainingConfig) -> Learner:
    """The learner of a stage, new or where the state says that it was."""
    networks.train_only(stage.part)
    part = networks.part(stage.part)
    parameters = list(part.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=config.weight_decay, fused=True)
    if state.optimiser is not None:
        optimiser.load_state_dict(state.optimiser)
    return Learner(part, parameters, optimiser)


def stage_loss(
    part: str, networks: Networks, batch: Batch, scale: Tensor, generator: torch.Generator, dtype: torch.dtype | None
) -> Tensor:
    """The loss of one step of a stage, a scalar: a mean over the pixels of ``batch.mask``."""
    seen = (batch.u, batch.x, batch.mask, batch.conditions, scale)
    if part == "mean":
        return mean_loss(networks.mean, *seen, dtype)
    if part == "variance":
        return variance_loss(networks.mean, networks.variance, *seen, dtype)
    return sampler_loss(networks.mean, networks.variance, networks.sampler, *seen, generator, dtype)


def take_step(learner: Learner, loss: Tensor, pixels: Tensor, *, rate: float, clip: float, team: Team) -> Tensor:
    """Follow the gradient of the joint loss; (2,) that loss and the norm of its gradient, on the device.

    loss: this process's mean over its own ``pixels``; the joint one is the mean over those of all processes. A step
    whose gradient is not finite leaves weights and optimiser as they are, which the host need not know of.
    """
    joint = pixels.clone()
    team.add([joint])
    loss = loss * (pixels.clamp_min(1) / joint.clamp_min(1))
    loss.backward()
    total = loss.detach()
    team.add([total, *(p.grad for p in learner.parameters if p.grad is not None)])
    norm = nn.utils.clip_grad_norm_(learner.parameters, clip)
    optimiser = learner.optimiser
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]  # as GradScaler tells it
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return torch.stack([total, norm])
