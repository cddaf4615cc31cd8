"""Pictures of a training: the right images, always of the same samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsr.card import NetworkSpec
from medsr.diffusion.conditions import REGRESSORS, residual_scale
from medsr.diffusion.denoiser import mean_and_variance, mean_images
from medsr.image.render import GAP, LABEL_HEIGHT
from medsr.training.data import make_batch
from medsr.training.networks import PARTS, Networks, new_networks
from medsr.training.preview import SAMPLES, estimates, preview
from medsr.training.setup import TrainingConfig

TINY = NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16)
CPU = torch.device("cpu")
COEFFICIENTS = (-0.5,) + (0.0,) * (REGRESSORS - 1)
CONFIG = TrainingConfig(name="tiny", version="0", data=".", stages=(), network=TINY, patch=32)


@pytest.fixture
def networks() -> Networks:
    torch.manual_seed(7)
    made = new_networks(TINY, 1)
    for part in PARTS:
        for parameter in made.part(part).parameters():
            torch.nn.init.normal_(parameter, 0, 0.05)
    return made


def estimates_of(networks, batch, *, with_sample):
    scale = residual_scale(batch.gradient, batch.conditions, COEFFICIENTS)
    return estimates(networks, batch, scale, with_sample=with_sample, dtype=None), scale


def test_untrained_networks_show_the_linear_estimate(sources):
    batch = make_batch(sources, 0, size=3, patch=32, context=1, seed=0, device=CPU)
    made, _ = estimates_of(new_networks(TINY, 1), batch, with_sample=False)
    assert set(made) == {"linear", "mean"}
    assert torch.equal(made["linear"], batch.u[:, 1:2])
    assert torch.equal(made["mean"], made["linear"])


def test_mean_and_sample_are_in_the_units_of_the_image(sources, networks):
    """``u + s m`` and ``u + s (m + exp(v / 2) w)``: samples scatter about the mean by their own deviation."""
    batch = make_batch(sources, 0, size=3, patch=32, context=1, seed=0, device=CPU)
    made, scale = estimates_of(networks, batch, with_sample=True)
    with torch.no_grad():
        m, v = mean_and_variance(networks.mean, networks.variance, mean_images(batch.u, scale), batch.conditions)
    unit = scale[:, None, None, None]
    torch.testing.assert_close(made["mean"], batch.u[:, 1:2] + unit * m)
    w = (made["sample"] - made["mean"]) / (unit * (v / 2).exp())
    assert 0.5 < w.std() < 2  # the state is of order one whatever the network makes of it


def test_pictures_are_of_the_same_samples_until_the_weights_change(sources, networks):
    def picture(with_sample):
        return preview(sources, CONFIG, networks, COEFFICIENTS, with_sample=with_sample, device=CPU, dtype=None)

    one = picture(with_sample=True)
    torch.manual_seed(99)
    assert np.array_equal(one, picture(with_sample=True))
    panel = 192
    assert one.shape == (SAMPLES * (LABEL_HEIGHT + panel + GAP), 6 * (panel + GAP) - GAP)
    without = picture(with_sample=False)
    assert without.shape == (one.shape[0], 5 * (panel + GAP) - GAP)
    with torch.no_grad():
        networks.mean.leave.bias.add_(1.0)
    changed = picture(with_sample=False)
    linear, mean = ((slice(None), slice(n * (panel + GAP), n * (panel + GAP) + panel)) for n in (1, 2))
    assert np.array_equal(changed[linear], without[linear])
    assert not np.array_equal(changed[mean], without[mean])
