"""Choices of the design by measurement: the mean network trained anew under each, with equal data and equal budget.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/arms.py [--steps 800] [--only NAME ...]

Every arm differs from configs/base.yaml in one thing. What a step of each costs is measured first, the arms in turn,
and an arm whose steps are dearer gets fewer: the budget is equal whatever else the machine does. Scored is the mean
squared error on the same samples, drawn as in training from the validation scans: gain in dB over the linear MMSE
estimate, mean over samples, MR and CT apart. Results go to docs/results/arms.json, as each arm ends, and to arms.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from medsr.card import NetworkSpec
from medsr.config import load_config
from medsr.diffusion.conditions import FEATURES, residual_scale
from medsr.diffusion.denoiser import edm_weight, log_normal_sigma, mean_images, precondition
from medsr.diffusion.device import dtype_for
from medsr.diffusion.loss import masked_mean, residual, sample_weight
from medsr.diffusion.network import FOLD, SliceNetwork, mean_channels
from medsr.training import data
from medsr.training.data import Batch, make_batch
from medsr.training.draws import Source
from medsr.training.ema import start_ema, update_ema
from medsr.training.residual import fit_residual_scale
from medsr.training.schedule import learning_rate
from medsr.training.setup import Stage, TrainingConfig, data_root, load_sources, training_rows, validation_rows

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

STAGE = Stage(part="mean", steps=1, learning_rate=8e-4)  # for its schedule; progress is counted here
BATCH = 16
SCORE_BATCHES, SCORE_SEED = 32, 77_000_001
COST_STEPS = 8
RESULTS = Path(__file__).parent.parent / "docs" / "results"
CPU = torch.device("cpu")


# --- what differs -----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The network of medsr as it is: an estimate of the normalised residual."""

    def __init__(self, spec: NetworkSpec, context: int) -> None:
        super().__init__()
        self.network = SliceNetwork(spec, mean_channels(context), FEATURES)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        return self.network(images, conditions)


class Shared(nn.Module):
    """One denoiser for mean and samples: the noisy residual is one channel more, absent at infinite noise."""

    def __init__(self, spec: NetworkSpec, context: int) -> None:
        super().__init__()
        self.network = SliceNetwork(spec, mean_channels(context) + 1, FEATURES + 1)

    def forward(
        self, images: Tensor, conditions: Tensor, noisy: Tensor | None = None, sigma: Tensor | None = None
    ) -> Tensor:
        """The mean, or with a noisy residual its denoised estimate (Karras et al. 2022)."""
        if noisy is None or sigma is None:
            images = torch.cat([torch.zeros_like(images[:, :1]), images], dim=1)
            return self.network(images, torch.cat([conditions, torch.full_like(conditions[:, :1], 2.0)], dim=1))
        c_skip, c_out, c_in, c_noise = (c[:, None, None, None] for c in precondition(sigma))
        told = torch.cat([conditions, c_noise[:, :, 0, 0]], dim=1)
        return c_skip * noisy + c_out * self.network(torch.cat([c_in * noisy, images], dim=1), told)


class Monai(nn.Module):
    """MONAI's diffusion U-Net at the same channels, on the same folded slices; conditions as constant images."""

    def __init__(self, spec: NetworkSpec, context: int) -> None:
        super().__init__()
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=mean_channels(context) * FOLD**2 + FEATURES,
            out_channels=FOLD**2,
            channels=(spec.width, 2 * spec.width),
            attention_levels=(False, False),
            num_res_blocks=(spec.blocks_top // 2 - 1, spec.blocks_bottom // 2),
            norm_num_groups=32,
        )

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        folded = nn.functional.pixel_unshuffle(images, FOLD)
        told = conditions[:, :, None, None].expand(-1, -1, *folded.shape[2:])
        output = self.network(torch.cat([folded, told], dim=1), torch.zeros(len(images)))
        return nn.functional.pixel_shuffle(output, FOLD)


def cubic_matrices(A: Tensor, positions: Tensor, valid: Tensor, _lam: Tensor) -> Tensor:
    """Cubic interpolation (Keys 1981, a = -1/2) in place of the linear estimate; as ``mmse_matrices``."""
    count = valid.sum(1, keepdim=True)
    spacing = (positions[:, 1:2] - positions[:, :1]).clamp_min(1e-6)
    where = (torch.arange(A.shape[2], dtype=A.dtype) - positions[:, :1]) / spacing  # (B, n) in coarse samples
    rows = torch.zeros(len(A), A.shape[2], A.shape[1])
    for tap in (-1, 0, 1, 2):
        index = where.floor() + tap
        d = (where - index).abs()
        inner, outer = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        weight = torch.where(d < 1, inner, torch.where(d < 2, outer, torch.zeros_like(d)))
        rows.scatter_add_(2, torch.minimum(index.clamp_min(0), count - 1).long()[..., None], weight[..., None])
    return rows


@dataclass
class Told:
    """Catches the operators of a batch as it is made, for the loss that projects."""

    operators: Tensor | None = None
    offsets: Tensor | None = None
    kept: list[bool] = field(default_factory=list)

    @contextmanager
    def caught(self) -> Any:
        """While inside, every batch leaves its operators here."""
        make = data._operators

        def operators(draws: Any, axes: Any, side: int) -> Any:
            true, told = make(draws, axes, side)
            self.operators, self.offsets = told, axes.offset
            self.kept = [not d.unknown and d.noise == 0 for d in draws]
            return true, told

        with patch.object(data, "_operators", operators):
            yield

    def projected(self, error: Tensor) -> Tensor:
        """``(I - A_pinv A) error`` for noise-free samples of known profile: what the exact projection leaves."""
        if self.operators is None or self.offsets is None:
            raise RuntimeError("no batch was made")
        side, patch_side = self.operators.shape[-1], error.shape[-1]
        starts = self.offsets.long().T.tolist()
        window = error.new_zeros(len(error), 1, side, side)
        for i, (r, c) in enumerate(starts):
            window[i, :, r : r + patch_side, c : c + patch_side] = error[i]
        rows, columns = (_onto_rows(a) for a in self.operators)
        window = window - rows[:, None] @ window @ columns[:, None].mT
        left = torch.stack([window[i, :, r : r + patch_side, c : c + patch_side] for i, (r, c) in enumerate(starts)])
        keep = torch.tensor(self.kept)[:, None, None, None]
        return torch.where(keep, left, error)


def _onto_rows(A: Tensor) -> Tensor:
    """(B, n, n) projection onto the rows of A."""
    gram = A @ A.mT
    gram = gram + 1e-5 * gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] * torch.eye(A.shape[1])
    return A.mT @ torch.linalg.solve(gram, A)


@dataclass(frozen=True)
class Arm:
    """One choice. says: what it is, for the table."""

    says: str
    network: Callable[[NetworkSpec, int], nn.Module] = Plain
    context: int = 1
    width: int = 64
    cubic: bool = False
    projected: bool = False


ARMS = {
    "base": Arm("as configured"),
    "cubic": Arm("cubic interpolation as the input", cubic=True),
    "projected": Arm(
        "squared error after the exact projection, for noise-free samples of known profile", projected=True
    ),
    "context-0": Arm("no neighbour slices", context=0),
    "monai": Arm("MONAI's DiffusionModelUNet at the same channels", network=Monai),
    "shared": Arm("one denoiser for mean and samples, 40 % of each batch for the mean", network=Shared),
    "context-2": Arm("two neighbour slices on each side", context=2),
    "width-96": Arm("width 96", width=96),
}


# --- the same for all -------------------------------------------------------------------------------------------


class Run:
    """One arm: its batches, its loss, its network."""

    def __init__(self, arm: Arm, config: TrainingConfig, scale: Sequence[float]) -> None:
        self.arm, self.told, self.scale = arm, Told(), scale
        self.config = config.model_copy(update={"context": arm.context})
        torch.manual_seed(config.seed)
        network = arm.network(config.network.model_copy(update={"width": arm.width}), arm.context)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch(self, sources: Sequence[Source], step: int, seed: int) -> Batch:
        """One batch, made as this arm wants it."""
        make = cubic_matrices if self.arm.cubic else data.mmse_matrices
        with self.told.caught(), patch.object(data, "mmse_matrices", make):
            return make_batch(
                sources, step, size=BATCH, patch=self.config.patch, context=self.arm.context, seed=seed, device=CPU
            )

    def residual_scale(self, batch: Batch) -> Tensor:
        """(B,) expected size of the residual."""
        return residual_scale(batch.gradient, batch.conditions, self.scale)

    def estimate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Estimated and true residual, normalised."""
        scale = self.residual_scale(batch)
        images = mean_images(batch.u, scale).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype_for(CPU) != torch.float32):
            estimate = self.network(images, batch.conditions)
        return estimate.float(), residual(batch.u, batch.x, scale)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The loss of medsr's mean network, or this arm's."""
        if self.arm.network is Shared:
            return self._shared_loss(batch, generator)
        estimate, r = self.estimate(batch)
        error = self.told.projected(estimate - r) if self.arm.projected else estimate - r
        return masked_mean(error.square() * sample_weight(r, batch.mask), batch.mask)

    def _shared_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        scale = self.residual_scale(batch)
        images, r = mean_images(batch.u, scale), residual(batch.u, batch.x, scale)
        few = round(0.4 * len(r))
        sigma = log_normal_sigma(len(r) - few, generator)
        level = sigma[:, None, None, None]
        noisy = r[few:] + level * torch.randn(r[few:].shape, generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype_for(CPU) != torch.float32):
            mean = self.network(images[:few], batch.conditions[:few]).float()
            drawn = self.network(images[few:], batch.conditions[few:], noisy, sigma).float()
        errors = torch.cat(
            [(mean - r[:few]).square(), edm_weight(sigma)[:, None, None, None] * (drawn - r[few:]).square()]
        )
        return masked_mean(errors * sample_weight(r, batch.mask), batch.mask)


class Learner:
    """The optimiser and the average of one arm's weights."""

    def __init__(self, run: Run) -> None:
        self.run, self.parameters = run, list(run.network.parameters())
        decay = run.config.weight_decay
        self.optimiser = torch.optim.AdamW(self.parameters, lr=STAGE.learning_rate, weight_decay=decay, fused=True)
        self.average = start_ema(self.parameters)

    def step(self, sources: Sequence[Source], number: int, progress: float) -> float:
        """One step, its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(STAGE, progress, number)
        batch = self.run.batch(sources, number, seed=7919)
        loss = self.run.loss(batch, torch.Generator().manual_seed(number))
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.run.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        update_ema(self.average, self.parameters, number)
        return float(loss.detach())


def costs(runs: dict[str, Run], sources: Sequence[Source]) -> dict[str, float]:
    """Seconds of a step of each arm over those of the base: medians, the arms in turn."""
    learners = {name: Learner(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(COST_STEPS + 1):
        for name, learner in learners.items():
            began = time.perf_counter()
            learner.step(sources, number, 1.0)
            seconds[name].append(time.perf_counter() - began)
    typical = {name: median(values[1:]) for name, values in seconds.items()}
    return {name: typical[name] / typical["base"] for name in runs}


def train(run: Run, sources: Sequence[Source], steps: int) -> None:
    """So many steps, then the averaged weights."""
    learner = Learner(run)
    for number in range(steps):
        loss = learner.step(sources, number, number / steps)
        if (number + 1) % 100 == 0:
            print(f"  step {number + 1} of {steps}, loss {loss:.3f}", flush=True)
    with torch.no_grad():
        for parameter, value in zip(learner.parameters, learner.average, strict=True):
            parameter.copy_(value)


@torch.no_grad()
def score(run: Run, base: Run, sources: Sequence[Source]) -> dict[str, float]:
    """Mean gain in dB over the linear MMSE estimate by modality; ``base`` makes that estimate."""
    gains: dict[str, list[float]] = {"MR": [], "CT": []}
    for step in range(SCORE_BATCHES):
        batch = run.batch(sources, step, SCORE_SEED)
        estimate, r = run.estimate(batch)
        scale = run.residual_scale(batch)[:, None, None, None]
        error = run.told.projected((estimate - r) * scale)
        plain = base.batch(sources, step, SCORE_SEED)
        reference = base.told.projected(residual(plain.u, plain.x, torch.ones(len(plain.u))))
        mse = [(e.square() * batch.mask).sum((1, 2, 3)) for e in (reference, error)]
        for is_ct, before, after in zip(batch.conditions[:, 11] > 0, *mse, strict=True):
            if before > 0:
                gains["CT" if is_ct else "MR"].append(10 * math.log10(before / after.clamp_min(1e-20)))
    return {modality: sum(g) / len(g) for modality, g in gains.items()}


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown."""
    lines = [
        "# Choices of the design",
        "",
        f"Made by `python benchmarks/arms.py --steps {rows['base']['steps']}`: so many steps of training for the base,",
        f"and for the others as many as their cost allows, on {in_words()}.",
        "Gain in dB over the linear MMSE estimate, both after the exact projection where it is due, mean over"
        f" {SCORE_BATCHES * BATCH} samples of the validation scans; beside it the difference to the first row.",
        "",
        "| arm | what differs | parameters | cost of a step | steps | MR | CT |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (n for n in ARMS if n in rows):
        row = rows[name]
        cells = [f"{row['parameters'] / 1e6:.2f} M", f"{row['cost']:.2f}", str(row["steps"])]
        cells += [f"{row[m]:+.3f} ({row[m] - rows['base'][m]:+.3f})" for m in ("MR", "CT")]
        lines.append(f"| {name} | {ARMS[name].says} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def load(path: Path) -> dict[str, dict[str, Any]]:
    """The arms that are done; two runs at a time may add to them."""
    table: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=800, help="of the base")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS)[:6])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config(Path(__file__).parent.parent / "configs" / "base.yaml", TrainingConfig)
    root = data_root() / config.data
    rows = [row for row in validation_rows(root) if row["phantom"] in ("", "no")]
    sources, held_out = load_sources(root, training_rows(root), config), load_sources(root, rows, config)
    scale, _ = fit_residual_scale(sources, config)
    path = RESULTS / "arms.json"
    base = Run(ARMS["base"], config, scale)
    wanted = [name for name in options.only if name not in load(path)]
    cost = costs({name: Run(ARMS[name], config, scale) for name in dict.fromkeys(["base", *wanted])}, sources)
    for name in wanted:
        run = Run(ARMS[name], config, scale)
        count = sum(p.numel() for p in run.network.parameters())
        steps = round(options.steps / cost[name])
        print(f"{name}: {count / 1e6:.2f} million parameters, {steps} steps", flush=True)
        train(run, sources, steps)
        row = {"steps": steps, "cost": cost[name], "parameters": count, **score(run, base, held_out)}
        print(f"{name}: {row}", flush=True)
        path.write_text(json.dumps(load(path) | {name: row}, indent=1) + "\n")
    (RESULTS / "arms.md").write_text(page(load(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
