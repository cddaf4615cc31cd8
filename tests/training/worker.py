"""One of several processes that train together: test_team.py starts it with torchrun, once for each rank.

    torchrun --nproc-per-node 2 worker.py FOLDER

FOLDER holds batch.pickle and sources.pickle; each process leaves what it found there under its rank.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
from torch import Tensor

from medsr.card import ModelCard, NetworkSpec
from medsr.diffusion.conditions import REGRESSORS, residual_scale
from medsr.training import loop, record
from medsr.training.data import Batch, make_batch
from medsr.training.learner import stage_loss, start_learner, take_step
from medsr.training.networks import PARTS, Networks, new_networks
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State
from medsr.training.team import Team, assembled

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
SCALE = (-0.5,) + (0.0,) * (REGRESSORS - 1)
CONFIG = TrainingConfig(
    name="tiny",
    version="0",
    data=".",
    network=TINY,
    patch=32,
    stages=(
        Stage(part="mean", steps=6, learning_rate=1e-2, batch=4),
        Stage(part="sampler", steps=2, learning_rate=1e-2, batch=4),
    ),
    save_every_minutes=0.0,
    preview_minutes=0.0,
)
DIES_AT = 3  # batches made


class KilledError(Exception):
    """Stands for the signal that ends a run."""


def networks() -> Networks:
    """The same in every process, with no layer that is still zero."""
    torch.manual_seed(7)
    made = new_networks(TINY, 1)
    for part in PARTS:
        for parameter in made.part(part).parameters():
            torch.nn.init.normal_(parameter, 0, 0.05)
    return made


def share_of(joint: Batch, team: Team) -> tuple[Batch, Tensor]:
    """A process's samples of a joint batch, and the size of their residuals."""
    batch = Batch(*(value[team.rank :: team.processes] for value in vars(joint).values()))
    return batch, residual_scale(batch.gradient, batch.conditions, SCALE)


def loss_here(part: str, made: Networks, joint: Batch, team: Team) -> tuple[Tensor, Tensor]:
    """The loss of a process's share, and how many pixels it is a mean of."""
    batch, scale = share_of(joint, team)
    noise = loop.noise_generator(3, 0, team)
    return stage_loss(part, made, batch, scale, noise, None), batch.mask.sum()


def first_step(part: str, joint: Batch, team: Team) -> dict[str, list[Tensor]]:
    """Loss and norm of the gradient, and the clipped gradient: a tenth of it is the optimiser's first moment."""
    made = networks()
    state = State(0, 0, 0.0, {}, [], None, SCALE, {}, {})
    learner = start_learner(Stage(part=part, steps=1), state, made, CONFIG)
    loss, pixels = loss_here(part, made, joint, team)
    outcome = take_step(learner, loss, pixels, rate=1e-3, clip=CONFIG.clip, team=team)
    moments = [learner.optimiser.state[p]["exp_avg"] for p in learner.parameters]
    return {"outcome": list(outcome), "gradient": [10 * m for m in moments]}


def train(folder: Path, team: Team, lines: list[str]) -> tuple[State, Networks]:
    """A short training in FOLDER/run."""
    made = networks()
    state = loop.train(
        CONFIG,
        pickle.loads((folder / "sources.pickle").read_bytes()),
        [],
        folder / "run",
        networks=made,
        team=team,
        dtype=None,
        max_minutes=None,
        report=lines.append,
        start=ModelCard(name="start", version="0", residual_scale=SCALE),
    )
    return state, made


def train_with_interruption(folder: Path, team: Team) -> dict[str, object]:
    """Killed on the way and started again."""
    calls = iter(range(10**6))

    def dying(*args, **kwargs):
        if next(calls) == DIES_AT:
            raise KilledError
        return make_batch(*args, **kwargs)

    loop.make_batch = dying
    try:
        train(folder, team, [])
    except KilledError:
        pass
    else:
        raise RuntimeError("the run was to be killed")
    loop.make_batch = make_batch
    lines: list[str] = []
    state, made = train(folder, team, lines)
    weights = {part: made.part(part).state_dict() for part in PARTS}
    return {"lines": lines, "steps": state.steps, "weights": weights}


def main(folder: Path) -> None:
    record.LOG_EVERY = 2
    joint = pickle.loads((folder / "batch.pickle").read_bytes())
    with assembled() as team:
        found = {
            "place": (team.rank, team.processes, str(team.device)),
            "agreed": [team.agree(10.0 + team.rank, over=team.rank == over) for over in (0, 1)],
            "shared": team.share(lambda: {"made by": team.rank}),
            "first step": {part: first_step(part, joint, team) for part in PARTS},
            "training": train_with_interruption(folder, team),
        }
    (folder / f"{team.rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
