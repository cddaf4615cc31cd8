"""The expected size of the residual, fitted before training: the unit in which the networks learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medsr.diffusion.conditions import residual_features
from medsr.training.data import Source, make_batch
from medsr.training.setup import TrainingConfig

FIT_BATCHES = 160
FIT_SEED = 1_000_003  # added to the configuration's, so that no training batch is met


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
            seed=config.seed + FIT_SEED,
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
