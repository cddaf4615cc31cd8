"""The training loop: one stage after another, resumed by repeating the command."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medsr.card import ModelCard, NetworkSpec
from medsr.diffusion.conditions import FEATURES, residual_features, residual_scale
from medsr.diffusion.loss import mean_loss, sampler_loss, variance_loss
from medsr.diffusion.network import SliceNetwork, VarianceHead, mean_channels, sampler_channels
from medsr.errors import ConfigError
from medsr.training.data import Batch, Source, make_batch
from medsr.training.ema import start_ema, update_ema
from medsr.training.setup import Stage, TrainingConfig

FIT_BATCHES = 160  # of the residual's scale
LOG_EVERY = 50  # steps
Report = Callable[[str], None]


@dataclass
class Networks:
    """What is trained, in the order of training."""

    mean: SliceNetwork
    variance: VarianceHead
    sampler: SliceNetwork

    def part(self, name: str) -> nn.Module:
        """``mean``, ``variance`` or ``sampler``."""
        part: nn.Module = getattr(self, name)
        return part


def new_networks(spec: NetworkSpec, context: int) -> Networks:
    """Untrained networks."""
    return Networks(
        SliceNetwork(spec, mean_channels(context), FEATURES),
        VarianceHead(spec),
        SliceNetwork(spec, sampler_channels(context), FEATURES + 1),
    )


def fit_residual_scale(sources: Sequence[Source], config: TrainingConfig) -> tuple[tuple[float, ...], float]:
    """Ridge regression of ln(rms(x - u) / gradient) on the conditions, and the share of variance left unexplained."""
    rows, targets = [], []
    for index in range(FIT_BATCHES):
        batch = make_batch(
            sources,
            index,
            size=16,
            patch=config.patch,
            context=config.context,
            seed=config.seed + 1_000_003,
            device=torch.device("cpu"),
        )
        centre = batch.u[:, config.context : config.context + 1]
        count = batch.mask.sum((1, 2, 3)).clamp_min(1)
        error = (((batch.x - centre).square() * batch.mask).sum((1, 2, 3)) / count).clamp_min(1e-10).sqrt()
        rows.append(residual_features(batch.conditions))
        targets.append((error / batch.gradient).double().log())
    X, t = torch.cat(rows), torch.cat(targets)
    coefficients = torch.linalg.solve(X.T @ X + 1e-3 * len(X) * torch.eye(X.shape[1], dtype=X.dtype), X.T @ t)
    left = float((t - X @ coefficients).var() / t.var())
    return tuple(float(c) for c in coefficients), left


@dataclass
class State:
    """Everything that a resumed run needs beside the data."""

    stage: int
    step: int
    seconds: float
    weights: dict[str, dict[str, Tensor]]
    average: list[Tensor]
    optimiser: dict[str, Any] | None
    scale: tuple[float, ...]
    minutes: dict[str, float]
    steps: dict[str, int]


def learning_rate(progress: float, peak: float, step: int) -> float:
    """Linear warm-up over 200 steps, then a cosine to a hundredth of the peak."""
    return peak * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def stage_loss(
    part: str, networks: Networks, batch: Batch, scale: Tensor, generator: torch.Generator, dtype: torch.dtype | None
) -> Tensor:
    """The loss of one step of a stage, a scalar."""
    if part == "mean":
        return mean_loss(networks.mean, batch.u, batch.x, batch.mask, batch.conditions, scale, dtype)
    if part == "variance":
        return variance_loss(
            networks.mean, networks.variance, batch.u, batch.x, batch.mask, batch.conditions, scale, dtype
        )
    return sampler_loss(
        networks.mean,
        networks.variance,
        networks.sampler,
        batch.u,
        batch.x,
        batch.mask,
        batch.conditions,
        scale,
        generator,
        dtype,
    )


def run_stage(
    stage: Stage,
    state: State,
    networks: Networks,
    sources: Sequence[Source],
    config: TrainingConfig,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    save: Callable[[State], None],
    log: Callable[[dict[str, Any]], None],
    deadline: float,
) -> bool:
    """Train one part until its minutes (or steps) are spent; False when the deadline came first."""
    part = networks.part(stage.part)
    parameters = [p for p in part.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=config.weight_decay, fused=True)
    if state.optimiser is not None:
        optimiser.load_state_dict(state.optimiser)
    if not state.average:
        state.average = start_ema(parameters)
    seed = config.seed + 7919 * (state.stage + 1)

    def make(step: int) -> Batch:
        return make_batch(
            sources, step, size=stage.batch, patch=config.patch, context=config.context, seed=seed, device=device
        )

    saved, total = time.monotonic(), 0.0

    def snapshot() -> None:
        state.weights[stage.part] = {k: v.detach().clone() for k, v in part.state_dict().items()}
        state.optimiser = optimiser.state_dict()
        save(state)

    while True:
        progress = state.step / stage.steps if stage.steps else state.seconds / (60 * stage.minutes)
        if progress >= 1:
            break
        if time.monotonic() > deadline:
            snapshot()
            return False
        began = time.monotonic()
        batch = make(state.step)
        scale = batch.gradient * residual_scale(batch.conditions, state.scale)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + state.step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, stage.learning_rate, state.step)
        loss = stage_loss(stage.part, networks, batch, scale, generator, dtype)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
        if torch.isfinite(norm):
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        update_ema(state.average, parameters, state.step)
        state.step += 1
        state.seconds += time.monotonic() - began
        total += float(loss.detach())
        if state.step % LOG_EVERY == 0:
            row = {"stage": stage.part, "step": state.step, "loss": total / LOG_EVERY, "grad_norm": float(norm)}
            rate = stage.batch * state.step / state.seconds
            log({**row, "progress": progress, "samples_per_second": rate, "seconds": state.seconds})
            total = 0.0
        if time.monotonic() - saved > 60 * config.save_every_minutes:
            saved = time.monotonic()
            snapshot()
    _finish(stage, state, part, parameters)
    save(state)
    return True


def _finish(stage: Stage, state: State, part: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """The averaged weights become the part's weights."""
    with torch.no_grad():
        for parameter, average in zip(parameters, state.average, strict=True):
            parameter.copy_(average)
    state.weights[stage.part] = {k: v.detach().clone() for k, v in part.state_dict().items()}
    state.minutes[stage.part] = state.minutes.get(stage.part, 0.0) + state.seconds / 60
    state.steps[stage.part] = state.steps.get(stage.part, 0) + state.step
    state.stage, state.step, state.seconds = state.stage + 1, 0, 0.0
    state.average, state.optimiser = [], None


def start_sampler(networks: Networks) -> None:
    """The sampler starts from the mean's weights; channels that only it has start at zero."""
    own = networks.sampler.state_dict()
    for name, value in networks.mean.state_dict().items():
        if own[name].shape == value.shape:
            own[name] = value.clone()
        else:  # the first convolution and the first condition layer: more inputs
            grown = torch.zeros_like(own[name])
            if name.startswith("enter"):  # the noisy state is the first channel, the mean's images follow
                grown[:, 4 : 4 + value.shape[1]] = value
            else:
                grown[:, : value.shape[1]] = value
            own[name] = grown
    networks.sampler.load_state_dict(own)


def save_state(path: Path, state: State) -> None:
    """Atomic, so that a killed run finds either the old or the new state."""
    temporary = path.with_suffix(".tmp")
    torch.save(vars(state), temporary)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_state(path: Path) -> State:
    """The state of an interrupted run in its own folder (tensors and plain values only)."""
    try:
        return State(**torch.load(path, weights_only=True))
    except Exception as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it to start again") from error


def first_state(
    sources: Sequence[Source], config: TrainingConfig, start: ModelCard | None, report: Report
) -> State:
    """The state of a training that has not begun; ``start`` as in ``train``."""
    if start is None:
        scale, left = fit_residual_scale(sources, config)
        report(f"residual scale fitted; {left:.2f} of its log variance is left unexplained")
        return State(0, 0, 0.0, {}, [], None, scale, {}, {})
    spent = start.training
    return State(
        0, 0, 0.0, {}, [], None, start.residual_scale, dict(spent.get("minutes", {})), dict(spent.get("steps", {}))
    )


def train(
    config: TrainingConfig,
    sources: Sequence[Source],
    out: Path,
    *,
    networks: Networks,
    device: torch.device,
    dtype: torch.dtype | None,
    max_minutes: float | None,
    report: Report,
    start: ModelCard | None = None,
) -> State:
    """Run every stage of ``config``; state.pt and stats.jsonl in ``out``. Repeating the call resumes.

    start: card of the weights that ``networks`` hold already: its residual's scale is kept, its steps are counted on.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "state.pt"
    deadline = time.monotonic() + 60 * (max_minutes if max_minutes is not None else math.inf)
    if path.exists():
        state = load_state(path)
        report(f"resuming stage {state.stage + 1} of {len(config.stages)} at step {state.step}")
    else:
        state = first_state(sources, config, start, report)
    for name, weights in state.weights.items():
        networks.part(name).load_state_dict(weights)
    for name in ("mean", "variance", "sampler"):
        networks.part(name).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def log(row: dict[str, Any]) -> None:
        with (out / "stats.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        left = row["seconds"] * (1 / max(row["progress"], 1e-6) - 1) / 60
        report(
            f"{row['stage']} step {row['step']}  loss {row['loss']:.4f}  {row['samples_per_second']:.1f} samples/s  "
            f"{left:.0f} min left in this stage"
        )

    while state.stage < len(config.stages):
        stage = config.stages[state.stage]
        for name in ("mean", "variance", "sampler"):
            networks.part(name).requires_grad_(name == stage.part)
        trained = "sampler" in state.weights or (start is not None and start.has_sampler)
        if stage.part == "sampler" and state.step == 0 and not trained:
            start_sampler(networks)
        whole = run_stage(
            stage,
            state,
            networks,
            sources,
            config,
            device=device,
            dtype=dtype,
            save=lambda s: save_state(path, s),
            log=log,
            deadline=deadline,
        )
        if not whole:
            report("time is up; repeat the command to go on")
            break
    return state
