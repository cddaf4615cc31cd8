"""How fast a stage learns, over its course."""

from __future__ import annotations

import math

from medsr.training.setup import Stage

WARM_UP = 200  # steps
DECAY_SHARE = 0.2  # of a stage that ends with a decay
FLOOR = 0.01  # of the peak, at the end


def learning_rate(stage: Stage, progress: float, step: int) -> float:
    """Linear warm-up, then from the peak to a hundredth of it. progress: 0 to 1 of the stage.

    ``cosine``: along half a cosine (Loshchilov and Hutter 2017). ``constant-then-decay``: constant, and a straight line
    over the last fifth (Hägele et al. 2024), so that a stage made longer keeps what it has learnt until then.
    """
    progress = min(1.0, progress)
    if stage.schedule == "cosine":
        height = (1 + math.cos(math.pi * progress)) / 2
    else:
        height = min(1.0, (1 - progress) / DECAY_SHARE)
    return stage.learning_rate * min(1.0, (step + 1) / WARM_UP) * (FLOOR + (1 - FLOOR) * height)
