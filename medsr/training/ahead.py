"""The batches of a stage, on a GPU each one made while the last one is learnt from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from medsr.training.data import Batch


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch and the expected size of its residuals, (B,)."""

    batch: Batch
    scale: Tensor


def made_ahead(make: Callable[[int], Lesson], first: int, device: torch.device) -> Generator[Lesson, None, None]:
    """``make(first)``, ``make(first + 1)``, ...: on CUDA by a thread, one ahead; elsewhere when they are asked for.

    (On a CPU a thread beside OpenMP's makes steps several times slower.) On CUDA the thread works on a stream of its
    own, so that what its copies wait for is not the training step.
    """
    if device.type != "cuda":
        yield from map(make, count(first))
        return
    stream = torch.cuda.Stream(device)

    def on_stream(step: int) -> tuple[Lesson, torch.cuda.Event]:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            return make(step), stream.record_event()

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(on_stream, first)
        for step in count(first + 1):
            lesson, ready = coming.result()
            coming = thread.submit(on_stream, step)
            learner = torch.cuda.current_stream(device)
            learner.wait_event(ready)
            for tensor in (*vars(lesson.batch).values(), lesson.scale):
                tensor.record_stream(learner)  # else its memory could be given away while a step still reads it
            yield lesson
