"""Whole trajectories against MONAI and diffusers, error orders and variances against closed forms.

A variance-preserving state is ``x_t = sqrt(alpha_bar) x_sigma`` with ``sigma = sqrt((1 - alpha_bar) / alpha_bar)``.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import diffusers
import numpy as np
import pytest
import torch
from monai.networks import schedulers as monai_schedulers

from medsr.diffusion.sampler import (
    SAMPLERS,
    coupled,
    sample_ancestral,
    sample_dpmpp2m,
    sample_euler,
    sample_heun,
    slice_generators,
    white,
)
from medsr.diffusion.schedule import SIGMA_MAX, cosine, karras, linear
from medsr.errors import ConfigError
from medsr.request import SamplerName

SHAPE = (3, 1, 5, 7)


def gaussian(sd: float):
    """The ideal denoiser of independent gaussian data."""
    return lambda x, sigma: x * (sd**2 / (sd**2 + sigma**2))


def correlated():
    """The ideal denoiser of gaussian data with a random covariance: linear, and it mixes all elements."""
    n = math.prod(SHAPE)
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / math.sqrt(n)
    values, vectors = torch.linalg.eigh(root @ root.T)

    def denoise(x, sigma):
        shrink = (vectors * (values / (values + sigma**2))) @ vectors.T
        return (shrink.to(x.dtype) @ x.reshape(-1)).reshape(x.shape)

    return denoise


def two_valued(x, sigma):
    """The ideal denoiser of data that are +0.8 or -0.8: far from linear."""
    return 0.8 * torch.tanh(0.8 * x / sigma**2)


DENOISERS = {"gaussian": gaussian(0.7), "correlated": correlated(), "two-valued": two_valued}
every_denoiser = pytest.mark.parametrize("denoise", DENOISERS.values(), ids=DENOISERS)


def start(sigma: float) -> torch.Tensor:
    return sigma * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def sigmas_of(alpha_bar) -> list[float]:
    a = alpha_bar.double()
    return [*((1 - a) / a).sqrt().tolist(), 0.0]


def vp_trajectory(step, denoise, timesteps, alpha_bar, x):
    """Drive a variance-preserving scheduler's ``step(epsilon, t, x_t) -> x_prev`` from x in units of sigma."""
    for i, t in enumerate(timesteps):
        a = float(alpha_bar[t])
        sigma = math.sqrt((1 - a) / a)
        x = x * math.sqrt(a) if i == 0 else x
        unscaled = x / math.sqrt(a)
        x = step((unscaled - denoise(unscaled, sigma)) / sigma, t, x)
    return x


def in_double(oracle):
    """MONAI keeps 1 - alpha_bar as a difference of float32 numbers, good to three digits where beta is 1e-4."""
    oracle.betas = oracle.betas.double()
    oracle.alphas = 1 - oracle.betas
    oracle.alphas_cumprod = torch.cumprod(oracle.alphas, 0)
    return oracle


def assert_close(found, expected):
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.1  # a trajectory that died would agree with anything


@every_denoiser
@pytest.mark.parametrize("name", ["linear_beta", "cosine"])
def test_euler_is_ddim_of_monai(denoise, name):
    oracle = monai_schedulers.DDIMScheduler(num_train_timesteps=60, schedule=name, clip_sample=False)
    oracle.set_timesteps(60)
    timesteps = [int(t) for t in oracle.timesteps if oracle.alphas_cumprod[t] > 1e-3]
    sigmas = sigmas_of(oracle.alphas_cumprod[timesteps])
    x = start(sigmas[0])
    expected = vp_trajectory(lambda e, t, x: oracle.step(e, t, x)[0], denoise, timesteps, oracle.alphas_cumprod, x)
    assert_close(sample_euler(denoise, x, sigmas), expected)


@every_denoiser
def test_euler_is_ddim_of_diffusers_on_few_steps(denoise):
    oracle = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    oracle.set_timesteps(20)
    timesteps = oracle.timesteps.tolist()
    sigmas = sigmas_of(oracle.alphas_cumprod[timesteps])
    x = start(sigmas[0])
    expected = vp_trajectory(
        lambda e, t, x: oracle.step(e, t, x).prev_sample, denoise, timesteps, oracle.alphas_cumprod, x
    )
    assert_close(sample_euler(denoise, x, sigmas), expected)


@every_denoiser
def test_euler_on_karras_sigmas_is_that_of_diffusers(denoise):
    oracle = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, sigma_min=0.01, sigma_max=20.0)
    oracle.set_timesteps(12)
    x = expected = start(20.0)
    for t, sigma in zip(oracle.timesteps, oracle.sigmas.tolist(), strict=False):
        oracle.scale_model_input(expected, t)
        expected = oracle.step((expected - denoise(expected, sigma)) / sigma, t, expected).prev_sample
    assert_close(sample_euler(denoise, x, karras(12, sigma_min=0.01, sigma_max=20.0)), expected)


@every_denoiser
def test_heun_on_karras_sigmas_is_that_of_diffusers(denoise):
    oracle = diffusers.HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    oracle.set_timesteps(12)
    low, high = float(oracle.sigmas[-2]), float(oracle.sigmas[0])
    x = expected = start(high)
    # each noise level but the first comes twice there: once for the corrector, once for the next predictor
    for t, sigma in zip(oracle.timesteps, oracle.sigmas.tolist(), strict=False):
        expected = oracle.step((expected - denoise(expected, sigma)) / sigma, t, expected).prev_sample
    assert_close(sample_heun(denoise, x, karras(12, sigma_min=low, sigma_max=high)), expected)


@every_denoiser
@pytest.mark.parametrize("steps", [3, 10, 25])
def test_dpmpp2m_is_that_of_diffusers(denoise, steps):
    oracle = diffusers.DPMSolverMultistepScheduler(beta_end=0.012, use_karras_sigmas=True)
    oracle.set_timesteps(steps)
    sigmas = oracle.sigmas.tolist()
    x = start(sigmas[0])
    expected = x / math.sqrt(1 + sigmas[0] ** 2)
    for t, sigma in zip(oracle.timesteps, sigmas, strict=False):
        unscaled = expected * math.sqrt(1 + sigma**2)
        expected = oracle.step((unscaled - denoise(unscaled, sigma)) / sigma, t, expected).prev_sample
    assert_close(sample_dpmpp2m(denoise, x, sigmas), expected)


@every_denoiser
@pytest.mark.parametrize("variance", ["large", "small"])
def test_ancestral_is_ddpm_of_monai(denoise, variance):
    oracle = in_double(
        monai_schedulers.DDPMScheduler(
            num_train_timesteps=60, schedule="linear_beta", variance_type=f"fixed_{variance}", clip_sample=False
        )
    )
    timesteps = list(range(59, -1, -1))
    sigmas = sigmas_of(oracle.alphas_cumprod[timesteps])
    x = start(sigmas[0])
    drawn = torch.Generator().manual_seed(5)
    expected = vp_trajectory(
        lambda e, t, x: oracle.step(e, t, x, generator=drawn)[0], denoise, timesteps, oracle.alphas_cumprod, x
    )
    found = sample_ancestral(denoise, x, sigmas, white(torch.Generator().manual_seed(5)), variance)
    assert_close(found, expected)


@every_denoiser
@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize("steps", [10, 250])
def test_ancestral_is_ddpm_of_diffusers_on_a_part_of_the_levels(denoise, variance, steps):
    oracle = diffusers.DDPMScheduler(variance_type=f"fixed_{variance}", clip_sample=False)
    oracle.set_timesteps(steps)
    timesteps = oracle.timesteps.tolist()
    sigmas = sigmas_of(oracle.alphas_cumprod[timesteps])
    x = start(sigmas[0])
    drawn = torch.Generator().manual_seed(5)
    expected = vp_trajectory(
        lambda e, t, x: oracle.step(e, t, x, generator=drawn).prev_sample,
        denoise,
        timesteps,
        oracle.alphas_cumprod,
        x,
    )
    found = sample_ancestral(denoise, x, sigmas, white(torch.Generator().manual_seed(5)), variance)
    assert_close(found, expected)


@pytest.mark.parametrize(("sample", "order"), [(sample_euler, 1), (sample_heun, 2), (sample_dpmpp2m, 2)])
@pytest.mark.parametrize("sd", [0.5, 1.0, 3.0])
def test_error_order(sample, order, sd):
    """On gaussian data the ODE's solution is x sqrt((sd^2 + sigma^2) / (sd^2 + sigma_0^2)): halve the step, compare."""
    x = torch.ones(1, dtype=torch.float64)
    low, high = 0.05, 20.0
    exact = math.sqrt((sd**2 + low**2) / (sd**2 + high**2))
    steps = np.array([40, 80, 160, 320])
    # the last level, 0, is left out: the step to it is of first order in all of them
    found = [float(sample(gaussian(sd), x, karras(n + 1, sigma_min=low, sigma_max=high)[:-1])) for n in steps]
    errors = np.abs(np.array(found) - exact)
    orders = np.log2(errors[:-1] / errors[1:])
    assert orders[-1] == pytest.approx(order, abs=0.1)
    assert errors[-1] < 1e-2 * exact


@pytest.mark.parametrize(
    ("name", "steps", "tolerance"),
    [("heun", 10, 0.05), ("dpmpp2m", 8, 0.06), ("euler", 20, 0.08), ("heun", 16, 0.02), ("dpmpp2m", 16, 0.02)],
)
def test_few_steps_keep_the_spread_of_the_whitened_residual(name, steps, tolerance):
    """Gaussian data of standard deviation 1: the sample's, by the linearity of the sampler in x."""
    x = torch.full((1,), math.hypot(1, SIGMA_MAX), dtype=torch.float64)
    assert float(SAMPLERS[name](gaussian(1.0), x, karras(steps))) == pytest.approx(1.0, rel=tolerance)


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("steps", [5, 10, 100])
def test_ancestral_variance_is_exact_for_unit_gaussian_data(schedule, steps):
    """Every step but the last keeps var x = 1 + sigma^2; the last returns the mean, of variance 1 / (1 + sigma^2)."""
    sigmas = schedule(steps)
    generator = torch.Generator().manual_seed(8)
    x = math.sqrt(1 + sigmas[0] ** 2) * torch.randn(200_000, generator=generator)
    found = sample_ancestral(gaussian(1.0), x, sigmas, white(generator))
    four_standard_errors = 4 * math.sqrt(2 / 200_000)
    assert float(found.var()) == pytest.approx(1 / (1 + sigmas[-2] ** 2), abs=four_standard_errors)
    assert float(found.mean()) == pytest.approx(0, abs=4 / math.sqrt(200_000))


@pytest.mark.parametrize("variance", ["large", "small"])
def test_ancestral_variance_converges_for_other_gaussian_data(variance):
    sd = 0.6
    sigmas = linear(500)
    generator = torch.Generator().manual_seed(9)
    x = math.sqrt(sd**2 + sigmas[0] ** 2) * torch.randn(40_000, generator=generator)
    found = sample_ancestral(gaussian(sd), x, sigmas, white(generator), variance)
    assert float(found.std()) == pytest.approx(sd, rel=0.02)


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 10), ("heun", 19), ("dpmpp2m", 10), ("ancestral", 10)])
def test_number_of_evaluations(name, evaluations):
    """What each docstring promises, at the noise levels of the schedule and never at 0."""
    seen = []

    def denoise(x, sigma):
        seen.append(sigma)
        return x * 0

    sigmas = karras(10)
    found = SAMPLERS[name](denoise, start(sigmas[0]), sigmas, white(torch.Generator()))
    assert len(seen) == evaluations
    assert set(seen) == set(sigmas) - {0.0}
    assert found.shape == SHAPE
    assert found.abs().max() < 1e-5


def test_every_sampler_of_a_plan_exists():
    assert set(SAMPLERS) == set(get_args(SamplerName))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_start_is_left_untouched(name):
    x = start(20.0)
    before = x.clone()
    SAMPLERS[name](gaussian(1.0), x, karras(4), white(torch.Generator()))
    assert torch.equal(x, before)


class TestNoise:
    def test_same_seed_same_bytes_in_every_number_format(self):
        """What is asked for in float64 or bfloat16 is the float32 draw, converted."""
        single = white(torch.Generator().manual_seed(2))(torch.empty(4, 6, 5))
        for dtype in (torch.float64, torch.bfloat16):
            other = white(torch.Generator().manual_seed(2))(torch.empty(4, 6, 5, dtype=dtype))
            assert torch.equal(other, single.to(dtype))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_same_seed_same_bytes_on_the_gpu(self):
        x = torch.empty(4, 6, 5)
        seeds = [torch.Generator().manual_seed(2) for _ in range(2)]
        assert torch.equal(white(seeds[0])(x), white(seeds[1])(x.cuda()).cpu())

    def test_a_slice_depends_on_its_own_generator_alone(self):
        whole = white(slice_generators(seed=7, slices=9))(torch.empty(9, 20, 30))
        some = white(slice_generators(seed=7, slices=9)[3:7])(torch.empty(4, 20, 30))
        assert torch.equal(whole[3:7], some)
        assert torch.equal(whole[:5], white(slice_generators(seed=7, slices=5))(torch.empty(5, 20, 30)))

    def test_slices_seeds_and_samples_are_independent_and_normal(self):
        x = torch.empty(8, 40, 50)
        drawn = [white(slice_generators(seed, 8, sample))(x) for seed, sample in [(0, 0), (1, 0), (0, 1), (2**40, 0)]]
        slices = torch.cat(drawn).reshape(32, -1).double()
        correlation = torch.corrcoef(slices) - torch.eye(32)
        assert correlation.abs().max() < 5 / math.sqrt(2000)
        assert float(slices.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * slices.numel()))

    def test_successive_draws_differ(self):
        generators = slice_generators(seed=7, slices=3)
        x = torch.empty(3, 8, 8)
        assert not torch.equal(white(generators)(x), white(generators)(x))

    def test_wrong_number_of_generators(self):
        with pytest.raises(ValueError, match="3 generators for 4 slices"):
            white(slice_generators(seed=0, slices=3))(torch.empty(4, 2, 2))

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_coupled_slices_are_white_and_correlated_with_their_neighbours(self, axis):
        """Across the axis white; along it the correlation of slices that are n apart is its n-th power."""
        shape = [60, 60, 60]
        noise = coupled(white(torch.Generator().manual_seed(4)), axis, 0.6)(torch.empty(shape)).movedim(axis, 0)
        tolerance = 6 / math.sqrt(noise.numel())
        assert float(noise.mean()) == pytest.approx(0, abs=2 * tolerance)
        assert float(noise.var()) == pytest.approx(1, abs=3 * tolerance)
        for lag, expected in [(1, 0.6), (2, 0.36), (3, 0.216)]:
            assert float((noise[lag:] * noise[:-lag]).mean()) == pytest.approx(expected, abs=3 * tolerance)
        assert float((noise[:, 1:] * noise[:, :-1]).mean()) == pytest.approx(0, abs=2 * tolerance)

    def test_coupling_by_nothing_is_the_noise_itself(self):
        noise = white(torch.Generator())
        assert coupled(noise, 0, 0.0) is noise
        with pytest.raises(ValueError, match=r"correlation 1\.0"):
            coupled(noise, 0, 1.0)

    def test_negative_seed(self):
        with pytest.raises(ConfigError, match="seed -1"):
            slice_generators(seed=-1, slices=3)


def test_ancestral_with_slice_generators_repeats():
    """The same seed gives the same voxels, another seed others; a part of the slices is a part of the whole."""
    sigmas = cosine(6)
    x = start(sigmas[0]).reshape(3, 5, 7)
    one, two, other = (
        sample_ancestral(gaussian(1.0), x, sigmas, white(slice_generators(seed, slices=3))) for seed in (4, 4, 5)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    part = sample_ancestral(gaussian(1.0), x[1:], sigmas, white(slice_generators(4, slices=3)[1:]))
    assert torch.equal(part, one[1:])


def test_sigmas_are_used_in_order():
    """A sampler steps once for each neighbouring pair: three levels and 0 are three steps of the closed form."""
    sigmas = (8.0, 2.0, 0.5, 0.0)
    x = torch.ones(1, dtype=torch.float64)
    expected = math.prod(1 + (b - a) * (1 - 1 / (1 + a**2)) / a for a, b in pairwise(sigmas))
    assert float(sample_euler(gaussian(1.0), x, sigmas)) == pytest.approx(expected, rel=1e-12)
