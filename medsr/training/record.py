"""What a training leaves in its folder: its state, log, curves, pictures and checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsr.image.render import save_png
from medsr.training.data import Source
from medsr.training.ema import averaged
from medsr.training.learner import Learner
from medsr.training.networks import Networks
from medsr.training.preview import preview
from medsr.training.setup import Stage, TrainingConfig
from medsr.training.state import State, save_state
from medsr.training.weights import write_weights

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_EVERY = 50  # steps
Report = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of stats.jsonl. loss: mean over the steps taken since the last line; skipped: those that were not.

    progress: 0 to 1 of the stage. seconds: spent in it.
    """

    stage: str
    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    skipped: int
    progress: float
    samples_per_second: float
    seconds: float

    def __str__(self) -> str:
        left = self.seconds * (1 / max(self.progress, 1e-6) - 1) / 60
        skipped = f"  {self.skipped} steps skipped: gradient not finite" if self.skipped else ""
        return (
            f"{self.stage} step {self.step}  loss {self.loss:.4f}  {self.samples_per_second:.1f} samples/s  "
            f"{left:.0f} min left in this stage{skipped}"
        )


@dataclass
class Every:
    """Falls due each time that so many minutes have passed."""

    minutes: float
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time again; if so, the minutes start anew."""
        now = time.monotonic()
        if now - self.last <= 60 * self.minutes:
            return False
        self.last = now
        return True


class Record:
    """The writer of a run. Only the leading process has one.

    rows: those of INDEX.csv that were trained on. dtype: of the networks' arithmetic, None for float32.
    """

    def __init__(
        self,
        out: Path,
        config: TrainingConfig,
        sources: Sequence[Source],
        rows: Sequence[dict[str, str]],
        networks: Networks,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        report: Report,
    ) -> None:
        self.out, self.config, self.sources, self.rows = out, config, sources, rows
        self.networks, self.device, self.dtype, self.report = networks, device, dtype, report
        self.curves = _curves(out / "tensorboard", report)
        self.outcomes: list[Tensor] = []
        self.to_save = Every(config.save_every_minutes)
        self.to_publish = Every(config.checkpoint_minutes or math.inf)
        self.to_show = Every(config.preview_minutes or math.inf)

    def after_step(
        self, stage: Stage, state: State, learner: Learner, outcome: Tensor, *, progress: float, rate: float
    ) -> None:
        """Note the outcome of a step, of ``take_step``, and write what is due; nothing else waits for the device."""
        self.outcomes.append(outcome)
        if state.step % LOG_EVERY == 0:
            self._log(stage, state, progress, rate)
        if self.to_save.due():
            self.pause(stage, state, learner)
        if self.to_publish.due():
            self._publish(stage, state)
        if self.to_show.due():
            self._show(stage, state, learner)

    def pause(self, stage: Stage, state: State, learner: Learner) -> None:
        """Save where the stage is."""
        learner.snapshot(stage.part, state)
        self.save(state)

    def end_stage(self, stage: Stage, state: State, learner: Learner) -> None:
        """A checkpoint and a picture of what the stage has reached."""
        self._publish(stage, state)
        if self.config.preview_minutes:
            self._show(stage, state, learner)
        self.outcomes.clear()

    def save(self, state: State) -> None:
        """Write state.pt."""
        save_state(self.out / "state.pt", state)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self.curves is not None:
            self.curves.close()

    def _log(self, stage: Stage, state: State, progress: float, rate: float) -> None:
        losses, norms = torch.stack(self.outcomes).T.cpu()
        self.outcomes.clear()
        taken = norms.isfinite()
        row = Row(
            stage=stage.part,
            step=state.step,
            loss=float(losses[taken].mean()),
            grad_norm=float(norms[-1]),
            learning_rate=rate,
            skipped=int((~taken).sum()),
            progress=progress,
            samples_per_second=stage.batch * state.step / state.seconds,
            seconds=state.seconds,
        )
        with (self.out / "stats.jsonl").open("a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
        self.report(str(row))
        if self.curves is not None:
            for name in ("loss", "grad_norm", "learning_rate", "samples_per_second"):
                self.curves.add_scalar(f"{name}/{row.stage}", getattr(row, name), row.step)

    def _publish(self, stage: Stage, state: State) -> None:
        folder = self.out / "checkpoints"
        folder.mkdir(exist_ok=True)
        name = f"{_numbered(stage, state)}-{state.step:06d}.safetensors"
        write_weights(folder / name, self.config, state, self.networks, self.rows)

    def _show(self, stage: Stage, state: State, learner: Learner) -> None:
        with averaged(state.average, learner.parameters):
            picture = preview(
                self.sources,
                self.config,
                self.networks,
                state.scale,
                with_sample=stage.part == "sampler",
                device=self.device,
                dtype=self.dtype,
            )
        folder, name = self.out / "previews", _numbered(stage, state)
        folder.mkdir(exist_ok=True)
        save_png(folder / f"{name}-{state.step:06d}.png", picture)
        if self.curves is not None:
            self.curves.add_image(name, picture, state.step, dataformats="HW")


def _numbered(stage: Stage, state: State) -> str:
    """Such as ``1-mean``: names in the order of training, also where a part is trained twice."""
    return f"{state.stage + 1}-{stage.part}"


def _curves(folder: Path, report: Report) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        report("no curves: TensorBoard is not installed (pip install 'medsr[tensorboard]'); stats.jsonl has the values")
        return None
    return SummaryWriter(str(folder))
