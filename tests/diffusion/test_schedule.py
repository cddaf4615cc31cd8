from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.schedulers import DDPMScheduler

from medsr.diffusion.schedule import SIGMA_MAX, cosine, karras, linear, sigmas_for
from medsr.errors import ConfigError

EVERY_LEVEL = 1e9  # a sigma_max that truncates nothing


@given(
    steps=st.integers(1, 200),
    sigma_min=st.floats(1e-4, 0.5),
    sigma_max=st.floats(1.0, 200.0),
    rho=st.floats(1.0, 12.0),
)
def test_karras_is_even_in_the_root_of_sigma(steps, sigma_min, sigma_max, rho):
    sigmas = karras(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == sigma_max
    assert sigmas[-1] == 0
    if steps > 1:
        roots = np.array(sigmas[:-1]) ** (1 / rho)
        assert np.allclose(np.diff(roots), (roots[-1] - roots[0]) / (steps - 1))
        assert sigmas[-2] == pytest.approx(sigma_min)


def test_karras_agrees_with_diffusers():
    scheduler = EulerDiscreteScheduler(use_karras_sigmas=True, sigma_min=0.01, sigma_max=30.0)
    scheduler.set_timesteps(17)
    assert karras(17, sigma_min=0.01, sigma_max=30.0) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)


@pytest.mark.parametrize(("schedule", "name"), [(linear, "linear_beta"), (cosine, "cosine")])
def test_whole_ladder_is_that_of_monai(schedule, name):
    """MONAI keeps alpha_bar in float32, which limits the agreement where it is close to 1."""
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule=name)
    beta = scheduler.betas.double()
    alpha_bar = torch.cumprod(1 - beta, 0)
    expected = ((1 - alpha_bar) / alpha_bar).sqrt().flip(0).tolist()
    sigmas = schedule(1000, sigma_max=EVERY_LEVEL)
    # float32 betas near 1e-5 (cosine, by subtraction from 1) hold two to three digits, the ladder's upper part five
    assert sigmas[:900] == pytest.approx(expected[:900], rel=2e-3)
    assert sigmas[:-1] == pytest.approx(expected, rel=1e-2)


def test_linear_ladder_is_that_of_diffusers():
    scheduler = EulerDiscreteScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    assert linear(1000, sigma_max=EVERY_LEVEL) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-3)


def test_cosine_is_its_closed_form_where_beta_is_not_clipped():
    """alpha_bar = f(t) / f(0), so sigma^2 = f(0) / f(t) - 1 (Nichol & Dhariwal 2021, equation 17)."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = np.sqrt(f[0] / f[1:] - 1)
    assert cosine(1000, sigma_max=EVERY_LEVEL)[::-1][1:-1] == pytest.approx(expected[:-1], rel=1e-6)


@pytest.mark.parametrize("schedule", [linear, cosine])
@given(data=st.data())
def test_subsampled_ladder(schedule, data):
    """Truncated below sigma_max, strictly decreasing, made of training levels, both ends kept."""
    sigma_max = data.draw(st.floats(1.0, 50.0))
    ladder = [s for s in schedule(1000, sigma_max=EVERY_LEVEL) if s <= sigma_max]
    steps = data.draw(st.integers(1, len(ladder) - 1))
    sigmas = schedule(steps, sigma_max=sigma_max)
    assert len(sigmas) == steps + 1
    assert sigmas[-1] == 0
    assert all(a > b for a, b in pairwise(sigmas))
    assert set(sigmas) <= set(ladder)
    assert sigmas[0] == ladder[0]
    if steps > 1:
        assert sigmas[-2] == ladder[-2]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp2m", "ancestral"])
def test_every_sampler_has_a_schedule_within_what_the_network_was_trained_on(sampler):
    sigmas = sigmas_for(sampler, 10)
    assert len(sigmas) == 11
    assert 0.9 * SIGMA_MAX < sigmas[0] <= SIGMA_MAX


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: karras(0), "at least 1"),
        (lambda: linear(0), "at least 1"),
        (lambda: cosine(5000), "at most"),
        (lambda: karras(5, sigma_min=2.0, sigma_max=1.0), "sigma_min"),
        (lambda: karras(5, sigma_min=0.0), "sigma_min"),
    ],
)
def test_impossible_schedules_are_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
