"""The expected size of the residual can be predicted from what the network is told."""

from __future__ import annotations

import torch

from medsr.diffusion.conditions import residual_scale
from medsr.training import residual
from medsr.training.data import make_batch
from medsr.training.setup import TrainingConfig


def test_the_scale_of_the_residual_can_be_predicted(monkeypatch, sources):
    """On unseen samples of the phantoms less than half of its log variance is left."""
    monkeypatch.setattr(residual, "FIT_BATCHES", 16)
    config = TrainingConfig(name="tiny", version="0", data=".", stages=(), patch=32)
    coefficients, left = residual.fit_residual_scale(sources, config)
    assert left < 0.5
    batch = make_batch(sources, 123, size=32, patch=32, context=1, seed=5, device=torch.device("cpu"))
    centre = batch.u[:, 1:2]
    count = batch.mask.sum((1, 2, 3))
    error = (((batch.x - centre).square() * batch.mask).sum((1, 2, 3)) / count).clamp_min(1e-10).sqrt()
    predicted = residual_scale(batch.gradient, batch.conditions, coefficients).log()
    assert (error.log() - predicted).var() < 0.6 * (error / batch.gradient).log().var()
