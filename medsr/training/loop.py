"""The training loop: one stage after another, resumed by repeating the command."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from medsr.card import ModelCard
from medsr.diffusion.conditions import residual_scale
from medsr.errors import ConfigError
from medsr.training.ahead import Lesson, made_ahead
from medsr.training.data import Source, make_batch
from medsr.training.ema import copy_weights, start_ema, update_ema
from medsr.training.learner import Learner, stage_loss, start_learner, take_step
from medsr.training.networks import Networks, start_sampler
from medsr.training.record import Record, Report
from medsr.training.residual import fit_residual_scale
from medsr.training.schedule import learning_rate
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State, load_state
from medsr.training.team import Team


@dataclass(frozen=True, eq=False)
class Run:
    """What the stages of a training share. record: None in all processes but the leading one."""

    config: TrainingConfig
    sources: Sequence[Source]
    networks: Networks
    team: Team
    dtype: torch.dtype | None
    record: Record | None


def train(
    config: TrainingConfig,
    sources: Sequence[Source],
    rows: Sequence[dict[str, str]],
    out: Path,
    *,
    networks: Networks,
    team: Team,
    dtype: torch.dtype | None,
    max_minutes: float | None,
    report: Report,
    start: ModelCard | None = None,
) -> State:
    """Run every stage of ``config``; all that it leaves is in ``out``. Repeating the call resumes.

    rows: what INDEX.csv says of the sources. dtype: of the networks' arithmetic, None for float32. start: card of the
    weights that ``networks`` hold already: its residual's scale is kept, its steps are counted on. Raises ConfigError.
    """
    deadline = time.monotonic() + 60 * (max_minutes if max_minutes is not None else math.inf)
    for number, stage in enumerate(config.stages, 1):
        if stage.batch < team.processes:
            raise ConfigError(
                f"stage {number} has a batch of {stage.batch} for {team.processes} processes; give each a sample"
            )
    out.mkdir(parents=True, exist_ok=True)
    state = team.share(lambda: first_state(config, sources, out, start, report))
    restore(networks, state, config)
    networks.to(team.device)
    record = None
    if team.leads:
        record = Record(out, config, sources, rows, networks, device=team.device, dtype=dtype, report=report)
    run = Run(config, sources, networks, team, dtype, record)
    has_sampler = "sampler" in state.weights or (start is not None and start.has_sampler)
    try:
        whole = run_stages(state, run, deadline=deadline, has_sampler=has_sampler)
    finally:
        if record is not None:
            record.close()
    if not whole:
        report("time is up; repeat the command to go on")
    return state


def first_state(
    config: TrainingConfig, sources: Sequence[Source], out: Path, start: ModelCard | None, report: Report
) -> State:
    """Where an earlier command stopped, else the beginning; ``start`` as in ``train``."""
    path = out / "state.pt"
    if path.exists():
        state = load_state(path)
        over = state.stage >= len(config.stages)
        where = f"stage {state.stage + 1} of {len(config.stages)} at step {state.step}"
        report("every stage is done already" if over else f"resuming {where}")
        return state
    if start is None:
        scale, left = fit_residual_scale(sources, config)
        report(f"residual scale fitted; {left:.2f} of its log variance is left unexplained")
        return State(0, 0, 0.0, {}, [], None, scale, {}, {})
    spent = start.training
    minutes, steps = dict(spent.get("minutes", {})), dict(spent.get("steps", {}))
    return State(0, 0, 0.0, {}, [], None, start.residual_scale, minutes, steps)


def restore(networks: Networks, state: State, config: TrainingConfig) -> None:
    """The weights of a state into the networks. Raises ConfigError when it is of another configuration."""
    try:
        for name, weights in state.weights.items():
            networks.part(name).load_state_dict(weights)
        if state.average:
            under_way = networks.part(config.stages[state.stage].part).parameters()
            if [a.shape for a in state.average] != [p.shape for p in under_way]:
                raise ValueError("another part is under way")
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(
            "state.pt in the folder of the run is of another network or other stages than the configuration; give "
            "another --out, or delete it to start again"
        ) from error


def run_stages(state: State, run: Run, *, deadline: float, has_sampler: bool) -> bool:
    """The stages that are left; False when the deadline came first. has_sampler: the sampler's weights are trained."""
    while state.stage < len(run.config.stages):
        stage = run.config.stages[state.stage]
        if stage.part == "sampler" and not has_sampler:
            start_sampler(run.networks)
            has_sampler = True
        if not run_stage(stage, state, run, deadline=deadline):
            return False
    return True


def run_stage(stage: Stage, state: State, run: Run, *, deadline: float) -> bool:
    """Train one part until its minutes (or steps) are spent; False when the deadline came first."""
    config, team = run.config, run.team
    learner = start_learner(stage, state, run.networks, config)
    state.average = [a.to(team.device) for a in state.average] or start_ema(learner.parameters)
    seed = config.seed + 7919 * (state.stage + 1)
    make = lesson_maker(run, stage, state.scale, seed)
    with closing(made_ahead(make, state.step, team.device)) as lessons:
        while True:
            state.seconds, over = team.agree(state.seconds, over=time.monotonic() > deadline)
            progress = share_done(stage, state)
            if over or progress >= 1:
                break
            began = time.monotonic()
            lesson = next(lessons)
            rate = learning_rate(stage, progress, state.step)
            noise = noise_generator(seed, state.step, team)
            loss = stage_loss(stage.part, run.networks, lesson.batch, lesson.scale, noise, run.dtype)
            pixels = lesson.batch.mask.sum()
            outcome = take_step(learner, loss, pixels, rate=rate, clip=config.clip, team=team)
            update_ema(state.average, learner.parameters, state.step)
            state.step += 1
            state.seconds += time.monotonic() - began
            if run.record is not None:
                run.record.after_step(stage, state, learner, outcome, progress=progress, rate=rate)
    if progress >= 1:
        finish_stage(stage, state, learner, run.record)
        return True
    if run.record is not None:
        run.record.pause(stage, state, learner)
    return False


def share_done(stage: Stage, state: State) -> float:
    """0 at the beginning of a stage, 1 at its end."""
    if stage.steps is not None:
        return state.step / stage.steps
    return state.seconds / (60 * stage.minutes)


def lesson_maker(run: Run, stage: Stage, scale: Sequence[float], seed: int) -> Callable[[int], Lesson]:
    """Step number to this process's share of its batch. scale: coefficients of the residual's scale."""

    def make(step: int) -> Lesson:
        batch = make_batch(
            run.sources,
            step,
            size=stage.batch,
            patch=run.config.patch,
            context=run.config.context,
            seed=seed,
            device=run.team.device,
            share=(run.team.rank, run.team.processes),
        )
        return Lesson(batch, residual_scale(batch.gradient, batch.conditions, scale))

    return make


def noise_generator(seed: int, step: int, team: Team) -> torch.Generator:
    """Of the noise of one step, another one in each process."""
    return torch.Generator(team.device).manual_seed((seed * 1_000_003 + step) ^ (team.rank << 48))


def finish_stage(stage: Stage, state: State, learner: Learner, record: Record | None) -> None:
    """The averaged weights become the part's weights."""
    if record is not None:
        record.end_stage(stage, state, learner)
    copy_weights(state.average, learner.parameters)
    learner.snapshot(stage.part, state)
    state.minutes[stage.part] = state.minutes.get(stage.part, 0.0) + state.seconds / 60
    state.steps[stage.part] = state.steps.get(stage.part, 0) + state.step
    state.begin_next_stage()
    if record is not None:
        record.save(state)
