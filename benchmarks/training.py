"""What a training step costs: seconds of its parts, samples per second, and how busy a GPU is.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/training.py [--batch N] [--part NAME] [--steps N] [--device D]
    python benchmarks/training.py --synthetic       on the phantoms of sample_data, without a data folder

Parts are timed one after another, each until the device has done it. Samples per second and the busy share come from
the steps as the training makes them, on CUDA with the next batch made ahead. Rows go to docs/results/training.json,
those of other devices, batches and parts stay; docs/results/training.md is made from them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from monai.transforms import Compose
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

from medsr.card import read_card
from medsr.config import load_config
from medsr.diffusion.conditions import residual_scale
from medsr.diffusion.device import dtype_for, resolve_device
from medsr.image.geometry import slice_axis_by_spacing
from medsr.image.nifti import inspect
from medsr.image.volume import Modality
from medsr.resources import config_path, sample_path
from medsr.training.ahead import Lesson, made_ahead
from medsr.training.data import batch_of_draws
from medsr.training.draws import Source, draw_batch
from medsr.training.ema import start_ema, update_ema
from medsr.training.learner import Learner, stage_loss, start_learner, take_step
from medsr.training.networks import PARTS, Networks, new_networks
from medsr.training.setup import Stage, TrainingConfig, data_root, load_sources, training_rows
from medsr.training.state import State
from medsr.training.team import Team
from medsr.transforms import LoadVolumed, Normalised

WARM_UP = 3  # steps that are not timed
STEP_PARTS = ("draw", "make", "forward and backward", "optimiser")
PHANTOMS: dict[str, Modality] = {"head_fine.nii.gz": "MR", "trunk_ct_fine.nii.gz": "CT"}


@dataclass(frozen=True)
class Row:
    """One measurement. seconds: of the parts of a step, medians. busy: share of time, None where there is no GPU."""

    part: str
    batch: int
    steps: int
    seconds: dict[str, float]
    samples_per_second: float
    busy: float | None
    dtype: str
    threads: int
    sources: str
    machine: str


@dataclass
class Clock:
    """Seconds of the parts of a step, each until the device has done it."""

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    last: float = 0.0

    def start(self) -> None:
        self._wait()
        self.last = time.perf_counter()

    def stop(self, part: str) -> None:
        self._wait()
        now = time.perf_counter()
        self.seconds[part].append(now - self.last)
        self.last = now

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Training:
    """A stage as the training runs it."""

    config: TrainingConfig
    stage: Stage
    sources: list[Source]
    networks: Networks
    learner: Learner
    scale: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype

    def lesson(self, step: int, done: Callable[[str], None]) -> Lesson:
        """The batch of a step; ``done`` is told when it is drawn and when it is made."""
        c = self.config
        draws = draw_batch(self.sources, step, size=self.stage.batch, patch=c.patch, context=c.context, seed=c.seed)
        done("draw")
        batch = batch_of_draws(draws, c.patch, self.device)
        done("make")
        return Lesson(batch, residual_scale(batch.gradient, batch.conditions, self.scale))

    def learn(self, lesson: Lesson, step: int, average: list[torch.Tensor]) -> None:
        """Everything that follows the batch."""
        noise = torch.Generator(self.device).manual_seed(step)
        autocast = None if self.dtype == torch.float32 else self.dtype
        loss = stage_loss(self.stage.part, self.networks, lesson.batch, lesson.scale, noise, autocast)
        pixels = lesson.batch.mask.sum()
        rate, clip = self.stage.learning_rate, self.config.clip
        take_step(self.learner, loss, pixels, rate=rate, clip=clip, team=Team(self.device))
        update_ema(average, self.learner.parameters, step)


def prepared(config: TrainingConfig, part: str, batch: int | None, sources: list[Source], device: str) -> Training:
    """Untrained networks on the device; the residual's scale is that of the packaged model."""
    stage = next(s for s in config.stages if s.part == part)
    stage = stage.model_copy(update={} if batch is None else {"batch": batch})
    torch.manual_seed(config.seed)
    networks = new_networks(config.network, config.context)
    where = resolve_device(device)
    networks.to(where)
    scale = read_card("medsr-base").residual_scale
    learner = start_learner(stage, State(0, 0, 0.0, {}, [], None, scale, {}, {}), networks, config)
    return Training(config, stage, sources, networks, learner, scale, where, dtype_for(where))


def phantoms(mr_share: float) -> list[Source]:
    """The fine sample scans as training volumes."""
    prepare = Compose([LoadVolumed("image"), Normalised("image")])
    sources = []
    for name, modality in PHANTOMS.items():
        path = sample_path(name)
        image = prepare({"image": str(path), "modality": modality})["image"]
        array = np.ascontiguousarray(image[0].numpy(), dtype=np.float32)
        spacing = inspect(path).geometry.spacing
        weight = mr_share if modality == "MR" else 1 - mr_share
        through = slice_axis_by_spacing(spacing)
        sources.append(Source(array, spacing, ("native",) * 3, through, modality, name, weight))
    return sources


def seconds_of_parts(training: Training, steps: int) -> dict[str, float]:
    """Medians over ``steps`` steps, the first ones left out."""
    clock = Clock(training.device)
    average = start_ema(training.learner.parameters)
    hook = training.learner.optimiser.register_step_pre_hook(lambda *_: clock.stop("forward and backward"))
    for step in range(WARM_UP + steps):
        clock.start()
        training.learn(training.lesson(step, clock.stop), step, average)
        clock.stop("optimiser")
    hook.remove()
    return {part: median(clock.seconds[part][WARM_UP:]) for part in STEP_PARTS}


def run_steps(training: Training, steps: int) -> Iterator[int]:
    """As the training loop does it: the next batch is made while a GPU learns."""
    average = start_ema(training.learner.parameters)
    with closing(made_ahead(lambda s: training.lesson(s, lambda _: None), 0, training.device)) as lessons:
        for step, lesson in enumerate(islice(lessons, steps)):
            training.learn(lesson, step, average)
            yield step


def samples_per_second(training: Training, steps: int) -> float:
    clock = Clock(training.device)
    for step in run_steps(training, WARM_UP + steps):
        if step == WARM_UP - 1:
            clock.start()
    clock.stop("all")
    return steps * training.stage.batch / clock.seconds["all"][0]


def busy_share(training: Training, steps: int) -> float | None:
    """Share of the time, from the first kernel to the last, in which at least one kernel ran; copies do not count."""
    if training.device.type != "cuda":
        return None
    running = run_steps(training, WARM_UP + steps)
    for _ in islice(running, WARM_UP):
        pass
    torch.cuda.synchronize(training.device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in running:
            pass
        torch.cuda.synchronize(training.device)
    kernels = [
        (e.time_range.start, e.time_range.end)
        for e in profiler.events()
        if e.device_type == DeviceType.CUDA and not e.is_user_annotation and not e.name.startswith(("Memcpy", "Memset"))
    ]
    return covered(kernels) / (max(end for _, end in kernels) - min(start for start, _ in kernels))


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure(training: Training, steps: int, sources: str) -> Row:
    seconds = seconds_of_parts(training, steps)
    gpu = f", {torch.cuda.get_device_name(training.device)}" if training.device.type == "cuda" else ""
    return Row(
        part=training.stage.part,
        batch=training.stage.batch,
        steps=steps,
        seconds={part: round(value, 5) for part, value in seconds.items()},
        samples_per_second=round(samples_per_second(training, steps), 2),
        busy=busy_share(training, steps),
        dtype=str(training.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        sources=sources,
        machine=in_words() + gpu,
    )


def page(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "# Cost of a training step",
        "",
        "Made by `python benchmarks/training.py` with the network, patch and context of `configs/base.yaml`. Draw: "
        "where, how and through which scanner, in numpy on the host. Make: the batch of these draws, on the device. "
        "Each part is timed until the device has done it; samples per second are of whole steps, on CUDA with the next "
        "batch made ahead.",
    ]
    for machine in dict.fromkeys(r.machine for r in rows):
        lines += ["", f"On {machine}:", "", f"| network | batch | volumes | {' | '.join(STEP_PARTS)} | samples/s |"]
        lines += ["|" + "---|" * (len(STEP_PARTS) + 4)]
        here = [r for r in rows if r.machine == machine]
        for r in here:
            parts = " | ".join(f"{1000 * r.seconds[part]:.1f} ms" for part in STEP_PARTS)
            lines.append(f"| {r.part} | {r.batch} | {r.sources} | {parts} | {r.samples_per_second:.1f} |")
        first = here[0]
        lines += ["", f"Medians of {first.steps} steps; {first.dtype}, {first.threads} host threads."]
        busy = [f"{100 * r.busy:.0f} % ({r.part}, batch {r.batch})" for r in here if r.busy is not None]
        lines += [f"Time in which the GPU is busy: {', '.join(busy) or 'not measured, there is no CUDA device here'}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--part", choices=PARTS, default="mean")
    parser.add_argument("--batch", type=int, help="samples a step; default: as configured")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--synthetic", action="store_true", help="phantoms of sample_data instead of $MEDSR_DATA")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    chosen = parser.parse_args()
    config = load_config(config_path("base.yaml"), TrainingConfig)
    root = data_root() / config.data
    sources = phantoms(config.mr_share) if chosen.synthetic else load_sources(root, training_rows(root), config)
    training = prepared(config, chosen.part, chosen.batch, sources, chosen.device)
    row = measure(training, chosen.steps, "2 phantoms" if chosen.synthetic else f"{len(sources)} scans")
    path = chosen.results / "training.json"
    rows = [Row(**r) for r in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    rows = [r for r in rows if (r.machine, r.part, r.batch) != (row.machine, row.part, row.batch)] + [row]
    chosen.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n", encoding="utf-8")
    (chosen.results / "training.md").write_text(page(rows), encoding="utf-8")
    print(page([row]))


if __name__ == "__main__":
    main()
