"""The forward operators, their inverses, the linear estimate and the classical interpolations: laws and oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.interpolate import CubicSpline
from torch.nn import functional

from medsr.degradation import (
    CORRELATION,
    KINDS,
    Degradation,
    interpolate,
    interpolation_matrix,
    linear_mmse,
    make_axis,
    mmse_matrices,
    parse_profile,
    profile_matrices,
)
from medsr.errors import PlanError
from medsr.image.geometry import Geometry

PROFILES = [
    "sinc",
    "gauss:1.0",
    "gauss:0.6",
    "box:1.0",
    "box:1.3",
    "box:0.3",
    "raised-cosine:1.1",
    "triangle:0.9",
    "hamming",
]
LOCAL = [p for p in PROFILES if p != "sinc"]

factors = st.floats(1.0, 6.0)
oblique = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.3, 0.9, 0.2], [0.1, 0.1, 1.1]]))[0]


def coarse_grid(shape) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = oblique * [1.0, 1.2, 4.0]
    affine[:3, 3] = 7.0, -3.0, 11.0
    return Geometry(shape, affine)


def operator(profile: str, shape, scale) -> tuple[Degradation, Geometry, Geometry]:
    coarse = coarse_grid(shape)
    fine = coarse.with_scale(scale)
    return Degradation.between(fine, coarse, [parse_profile(profile)] * 3), fine, coarse


def whole_axis(profile: str, n_fine: int, n_coarse: int):
    kind, width = parse_profile(profile)
    factor = n_fine / n_coarse
    return make_axis(n_fine, n_coarse, (factor - 1) / 2, factor, kind, width)


def plane(geometry: Geometry) -> torch.Tensor:
    """An affine function of the position in space, on a grid."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
    position = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    return torch.from_numpy(position @ [0.7, -0.4, 0.25] + 3.0)


def spread(x: torch.Tensor) -> float:
    return float(x.max() - x.min())


def random_like(shape, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def dense(A: Degradation, shape) -> np.ndarray:
    """The whole operator as one matrix, voxels in C order."""
    matrix = np.eye(1)
    for axis, n in zip(A.axes, shape, strict=True):
        matrix = np.kron(matrix, np.eye(n) if axis is None else axis.matrix.numpy())
    return matrix


# --- the operator


@pytest.mark.parametrize("profile", PROFILES)
@given(n=st.integers(5, 20), scale=st.tuples(factors, factors, factors))
@settings(max_examples=15)
def test_adjoint(profile, n, scale):
    """<A x, y> = <x, A* y>: the definition of the adjoint, for every profile, size and factor."""
    A, fine, coarse = operator(profile, (n, 6, 5), scale)
    x, y = random_like(fine.shape), random_like(coarse.shape, 1)
    assert A(x).shape == coarse.shape
    assert A.adjoint(y).shape == fine.shape
    left, right = float((A(x) * y).sum()), float((x * A.adjoint(y)).sum())
    assert left == pytest.approx(right, abs=1e-10 * float(x.norm() * y.norm()))


def test_it_is_the_kronecker_product_of_its_axes():
    A, fine, _ = operator("gauss:1.0", (4, 3, 5), (2.0, 1.0, 1.7))
    assert A.axes[1] is None
    x = random_like(fine.shape)
    np.testing.assert_allclose(A(x).reshape(-1), dense(A, fine.shape) @ x.reshape(-1).numpy(), atol=1e-12)


def test_it_works_in_the_precision_of_the_volume():
    A, fine, coarse = operator("box:1.0", (6, 5, 4), (2.0, 3.0, 1.5))
    x = random_like(fine.shape).float()
    assert A(x).dtype == A.adjoint(A(x)).dtype == A.pinv(A(x)).dtype == torch.float32
    np.testing.assert_allclose(A(x), A(x.double()), atol=1e-5)
    assert linear_mmse(torch.zeros(coarse.shape), A, 1e-3).dtype == torch.float32


@pytest.mark.parametrize("kind", ["gauss", "box", "raised-cosine", "triangle"])
@given(n=st.integers(4, 20), scale=factors, width=st.floats(0.1, 3.0), spacing=st.floats(0.3, 1.0), exact=st.booleans())
@settings(max_examples=40)
def test_constants_and_ramps_pass_through(kind, n, scale, width, spacing, exact):
    """At the edges, at any offset between the grids, and for profiles that are narrower than a voxel."""
    coarse = coarse_grid((n, 9, 6))
    fine = coarse.with_scale((scale, 1.0, 2.0)) if exact else coarse.with_spacing((spacing, 1.2, 2.9 * spacing))
    A = Degradation.between(fine, coarse, [(kind, width)] * 3)
    torch.testing.assert_close(
        A(torch.ones(fine.shape, dtype=torch.float64)), torch.ones(coarse.shape, dtype=torch.float64)
    )
    expected = plane(coarse)
    assert float((A(plane(fine)) - expected).abs().max()) < 1e-6 * spread(expected)


@pytest.mark.parametrize("profile", ["gauss:1.0", "box:1.0", "box:0.3"])
def test_target_that_ends_before_the_scan(profile):
    """A target that is smaller than the scan by almost a voxel: the last samples are continued, never NaN."""
    coarse = coarse_grid((8, 5, 4))
    whole = coarse.with_scale((4.0, 1.0, 1.0))
    affine = whole.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [3.0, 0.0, 0.0]
    fine = Geometry((26, 5, 4), affine)
    A = Degradation.between(fine, coarse, [parse_profile(profile)] * 3)
    assert float((A(plane(fine)) - plane(coarse)).abs().max()) < 1e-6 * spread(plane(coarse))


@given(n=st.integers(4, 24), scale=st.floats(1.05, 6.0))
@settings(max_examples=30)
def test_sinc_keeps_constants(n, scale):
    axis = whole_axis("sinc", max(n + 1, round(n * scale)), n)
    torch.testing.assert_close(axis.matrix.sum(1), torch.ones(n, dtype=torch.float64))


def fft_crop(x: np.ndarray, n: int) -> np.ndarray:
    """Crop the spectrum to n bins, the Nyquist bin split evenly, and sample half a coarse voxel from the edge."""
    big = len(x)
    offset = (big / n - 1) / 2
    spectrum = np.fft.fft(x)
    out = np.zeros(n, complex)
    for k in range(-(n // 2), n // 2 + 1):
        shifted = spectrum[k % big] * np.exp(2j * np.pi * k * offset / big)
        out[k % n] += shifted / 2 if 2 * abs(k) == n else shifted
    result = np.fft.ifft(out) * n / big
    np.testing.assert_allclose(result.imag, 0, atol=1e-12)
    return result.real


@given(n=st.integers(3, 40), more=st.integers(1, 60))
@settings(max_examples=60)
def test_sinc_is_a_crop_of_k_space(n, more):
    """Against numpy's FFT; and A A^T is the identity over the factor, with half of it in the split Nyquist bin."""
    big = n + more
    A = whole_axis("sinc", big, n).matrix.numpy()
    x = np.random.default_rng(n).normal(size=big)
    np.testing.assert_allclose(A @ x, fft_crop(x, n), atol=1e-11)
    gram = np.eye(n)
    if n % 2 == 0:
        nyquist = (-1.0) ** np.arange(n) / np.sqrt(n)
        gram -= np.outer(nyquist, nyquist) / 2
    np.testing.assert_allclose(A @ A.T, gram * n / big, atol=1e-11)


@given(n=st.integers(3, 40), more=st.integers(1, 60))
@settings(max_examples=40)
def test_hamming_is_a_crop_of_k_space_under_a_window(n, more):
    """Against numpy's FFT: the window on the whole spectrum, then the crop."""
    big = n + more
    x = np.random.default_rng(n).normal(size=big)
    frequency = np.fft.fftfreq(big) * big
    window = 0.54 + 0.46 * np.cos(2 * np.pi * frequency / n)
    filtered = np.fft.ifft(np.fft.fft(x) * window).real
    np.testing.assert_allclose(whole_axis("hamming", big, n).matrix.numpy() @ x, fft_crop(filtered, n), atol=1e-11)


def test_zero_filling_is_the_inverse_of_the_crop():
    A, _, coarse = operator("sinc", (9, 7, 5), (2.0, 3.0, 1.0))
    y = random_like(coarse.shape)
    torch.testing.assert_close(A.pinv(y), 6 * A.adjoint(y))


def integrated(kind: str, width: float, d: np.ndarray) -> np.ndarray:
    """Numerical integral of the profile over voxels at distances d."""

    def profile(t: float) -> float:
        if kind == "gauss":
            return float(np.exp(-4 * np.log(2) * (t / width) ** 2) / width * np.sqrt(4 * np.log(2) / np.pi))
        if kind == "box":
            return float(abs(t) <= width / 2) / width
        if kind == "triangle":
            return max(0.0, 1 - abs(t) / width) / width
        return float(abs(t) < width) * (1 + np.cos(np.pi * t / width)) / 2 / width

    edges = [-width, -width / 2, 0.0, width / 2, width]

    def over(centre: float) -> float:
        low, high = centre - 0.5, centre + 0.5
        inner = [e for e in edges if low < e < high]
        return integrate.quad(profile, low, high, points=inner or None, limit=200)[0]

    return np.array([over(v) for v in d])


@pytest.mark.parametrize("kind", ["gauss", "box", "raised-cosine", "triangle"])
@pytest.mark.parametrize(("width", "factor"), [(1.0, 2.0), (1.3, 3.7), (0.7, 1.4)])
def test_rows_are_integrals_of_the_profile(kind, width, factor):
    """Integral over each voxel, then the tilt (a + b d) that solves for sum 1 and centre of mass 0."""
    n_coarse = 6
    n_fine = round(n_coarse * factor)
    axis = whole_axis(f"{kind}:{width}", n_fine, n_coarse)
    exact = n_fine / n_coarse
    for m in range(n_coarse):
        d = np.arange(n_fine) - ((m + 0.5) * exact - 0.5)
        raw = integrated(kind, width * exact, d)
        moments = [(raw * d**p).sum() for p in range(3)]
        a, b = np.linalg.solve([[moments[0], moments[1]], [moments[1], moments[2]]], [1, 0])
        np.testing.assert_allclose(axis.matrix[m], raw * (a + b * d), atol=1e-8)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_batched_matrices_are_those_of_single_axes(kind):
    """A batch of axes of different length in one window, as training uses them, against one axis at a time."""
    sizes = [(30, 10, 1.0), (24, 11, 1.3), (30, 26, 0.8)]
    window, rows = 30, 26
    positions = torch.zeros(3, rows, dtype=torch.float64)
    inside = torch.zeros(3, window, dtype=torch.float64)
    axes = []
    for i, (n_fine, n_coarse, width) in enumerate(sizes):
        axes.append(make_axis(n_fine, n_coarse, (n_fine / n_coarse - 1) / 2, n_fine / n_coarse, kind, width))
        positions[i, :n_coarse] = axes[i].positions
        inside[i, :n_fine] = 1
    width = torch.tensor([w for _, _, w in sizes], dtype=torch.float64)
    factor = torch.tensor([a / b for a, b, _ in sizes], dtype=torch.float64)
    periods = torch.tensor([[a, b] for a, b, _ in sizes], dtype=torch.float64)
    made = profile_matrices(kind, width, positions, factor, window, periods, inside)
    assert made.shape == (3, rows, window)
    for i, (n_fine, n_coarse, _) in enumerate(sizes):
        torch.testing.assert_close(made[i, :n_coarse, :n_fine], axes[i].matrix)
        assert float(made[i, :, n_fine:].abs().max() if n_fine < window else 0) == 0


def test_grids_that_do_not_fit_are_refused():
    coarse = coarse_grid((8, 8, 4))
    with pytest.raises(PlanError, match="coarser than the scan"):
        Degradation.between(coarse.with_shape((4, 8, 4)), coarse, [("box", 1.0)] * 3)
    turned = np.eye(4)
    with pytest.raises(PlanError, match="turned"):
        Degradation.between(Geometry((16, 16, 4), turned), coarse, [("box", 1.0)] * 3)


@pytest.mark.parametrize("text", ["gaus:1", "", "box:wide"])
def test_a_profile_that_cannot_be_read(text):
    with pytest.raises(ValueError):
        parse_profile(text)


# --- inverses


@pytest.mark.parametrize("profile", ["sinc", "gauss:1.0", "box:1.0"])
@given(n=st.integers(5, 14), scale=st.tuples(factors, factors))
@settings(max_examples=15)
def test_pseudo_inverse_gives_the_scan_back(profile, n, scale):
    A, _, coarse = operator(profile, (n, 7, 4), (*scale, 1.0))
    y = random_like(coarse.shape)
    x = A.pinv(y)
    assert float((A(x) - y).abs().max()) < 1e-6
    # and it is the shortest such volume: it lies in the range of the adjoint
    torch.testing.assert_close(A.pinv(A(x)), x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("profile", ["gauss:1.0", "box:1.2"])
def test_tikhonov_against_a_dense_solution(profile, lam):
    A, fine, coarse = operator(profile, (4, 3, 5), (2.0, 1.5, 1.0))
    matrix = dense(A, fine.shape)
    y = random_like(coarse.shape)
    flat = y.reshape(-1).numpy()
    expected = matrix.T @ np.linalg.solve(matrix @ matrix.T + lam * np.eye(len(flat)), flat)
    np.testing.assert_allclose(A.pinv(y, lam).reshape(-1), expected, atol=1e-9)


def test_a_null_at_nyquist_stays_finite():
    """A box of twice the spacing at an even factor cannot see the alternating scan: nothing is made of it."""
    A, _, coarse = operator("box:2.0", (16, 4, 4), (4.0, 1.0, 1.0))
    y = torch.ones(coarse.shape, dtype=torch.float64)
    y[::2] = -1
    assert float(A.pinv(y).abs().max()) < 1e3
    assert A.condition > 10


def test_condition_number():
    A, fine, _ = operator("gauss:1.0", (5, 4, 3), (2.0, 2.5, 1.0))
    assert A.condition == pytest.approx(np.linalg.cond(dense(A, fine.shape)), rel=1e-6)


@given(n=st.integers(8, 30), spacing=st.floats(0.25, 0.8))
@settings(max_examples=30)
def test_crop_of_k_space_on_an_offset_grid_stays_invertible(n, spacing):
    """--spacing shifts the grid by less than a voxel, and the samples no longer fill the circle exactly."""
    coarse = coarse_grid((n, 5, 4))
    A = Degradation.between(coarse.with_spacing((spacing, 1.2, 4.0)), coarse, [("sinc", 1.0)] * 3)
    assert A.condition < 10


# --- the linear estimate


def kriging(A: np.ndarray, positions: np.ndarray, lam: float, rho: float) -> np.ndarray:
    """Universal kriging as its textbook system with Lagrange multipliers (Wackernagel 2003, ch. 38)."""
    rows, n = A.shape
    C = rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    drift = np.stack([np.ones(rows), positions], 1)
    system = np.block([[A @ C @ A.T + lam * np.eye(rows), drift], [drift.T, np.zeros((2, 2))]])
    right = np.hstack([C @ A.T, np.stack([np.ones(n), np.arange(n)], 1)])
    return np.linalg.solve(system, right.T).T[:, :rows]


def mmse(axis, lam: float) -> torch.Tensor:
    valid = torch.ones(1, len(axis.positions), dtype=torch.bool)
    return mmse_matrices(axis.matrix[None], axis.positions[None], valid, torch.tensor([lam], dtype=torch.float64))[0]


@pytest.mark.parametrize("profile", ["sinc", "gauss:1.0", "box:1.3"])
@pytest.mark.parametrize("lam", [1e-4, 1e-2, 1.0])
def test_linear_estimate_is_universal_kriging(profile, lam):
    axis = whole_axis(profile, 37, 11)
    expected = kriging(axis.matrix.numpy(), axis.positions.numpy(), lam, CORRELATION)
    np.testing.assert_allclose(mmse(axis, lam), expected, atol=1e-8)


def test_rows_that_are_not_valid_count_for_nothing():
    axis = whole_axis("gauss:1.0", 24, 8)
    longer = torch.cat([axis.matrix, torch.ones(3, 24, dtype=torch.float64)])
    positions = torch.cat([axis.positions, torch.full((3,), 99.0, dtype=torch.float64)])
    valid = torch.arange(11) < 8
    lam = torch.tensor([1e-2], dtype=torch.float64)
    R = mmse_matrices(longer[None], positions[None], valid[None], lam)[0]
    torch.testing.assert_close(R[:, :8], mmse(axis, 1e-2))
    assert float(R[:, 8:].abs().max()) == 0


def test_one_sample_is_spread_as_a_constant():
    axis = whole_axis("box:1.0", 5, 1)
    torch.testing.assert_close(mmse(axis, 1e-3), torch.ones(5, 1, dtype=torch.float64))


@pytest.mark.parametrize("profile", ["gauss:1.0", "box:1.0"])
def test_it_is_the_best_linear_estimate_of_a_first_order_process(profile):
    """On simulated data of the prior it assumes: better than the cubic spline, with and without projection on the scan,
    and than itself with another correlation or noise level."""
    rng = np.random.default_rng(0)
    n, noise = 96, 0.1
    axis = whole_axis(profile, n, 32)
    x = np.zeros((n, 2000))
    x[0] = rng.normal(size=2000)
    for i in range(1, n):
        x[i] = CORRELATION * x[i - 1] + np.sqrt(1 - CORRELATION**2) * rng.normal(size=2000)
    y = axis.matrix.numpy() @ x + noise * rng.normal(size=(32, 2000))

    def error(R: np.ndarray) -> float:
        return float(np.mean((R @ y - x) ** 2))

    best = error(mmse(axis, noise**2).numpy())
    spline = interpolation_matrix("cubic", 32, (np.arange(n) + 0.5) / 3 - 0.5).numpy()
    A = axis.matrix.numpy()
    assert best < error(spline)
    assert best < error(spline + np.linalg.pinv(A) @ (np.eye(32) - A @ spline))
    for lam, rho in ((noise**2 / 20, CORRELATION), (noise**2 * 20, CORRELATION), (noise**2, 0.5)):
        assert best < error(kriging(A, axis.positions.numpy(), lam, rho))


@pytest.mark.parametrize("profile", ["gauss:1.0", "box:1.0", "box:0.4"])
@given(n=st.integers(5, 16), scale=factors, lam=st.floats(1e-4, 1.0), exact=st.booleans())
@settings(max_examples=25)
def test_constants_and_ramps_come_back(profile, n, scale, lam, exact):
    """Through the linear estimate and through it with hard consistency, to the very edge, from both kinds of grid."""
    coarse = coarse_grid((n, 8, 5))
    fine = coarse.with_scale((scale, 2.0, 1.0)) if exact else coarse.with_spacing((1 / scale, 0.7, 4.0))
    A = Degradation.between(fine, coarse, [parse_profile(profile)] * 3)
    five = (torch.full(g.shape, 5.0, dtype=torch.float64) for g in (coarse, fine))
    for y, expected in ((plane(coarse), plane(fine)), tuple(five)):
        scale_of = max(spread(expected), 1.0)
        u = linear_mmse(y, A, lam)
        assert float((u - expected).abs().max()) < 1e-6 * scale_of
        projected = u + A.pinv(y - A(u))
        assert float((projected - expected).abs().max()) < 1e-5 * scale_of


@given(n=st.integers(5, 16), scale=factors, lam=st.floats(1e-4, 1.0))
@settings(max_examples=25)
def test_constants_and_ramps_come_back_from_a_crop_of_k_space(n, scale, lam):
    """A ramp is not periodic: a crop of k-space would ring where its ends meet. So ramps are asked of the linear
    estimate alone, and of the projection that it keeps constants and what the crop keeps: low, periodic waves."""
    A, fine, coarse = operator("sinc", (n, 8, 5), (scale, 2.0, 1.0))
    u = linear_mmse(plane(coarse), A, lam)
    assert float((u - plane(fine)).abs().max()) < 1e-6 * spread(u)
    constant = torch.full(coarse.shape, 5.0, dtype=torch.float64)
    u = linear_mmse(constant, A, lam)
    torch.testing.assert_close(u + A.pinv(constant - A(u)), torch.full(fine.shape, 5.0, dtype=torch.float64))

    def wave(geometry: Geometry) -> torch.Tensor:
        along = (torch.arange(geometry.shape[0], dtype=torch.float64) + 0.5) / geometry.shape[0]
        across = (torch.arange(geometry.shape[1], dtype=torch.float64) + 0.5) / geometry.shape[1]
        one = torch.cos(2 * torch.pi * along + 0.3)[:, None] + torch.sin(4 * torch.pi * across)[None, :]
        return one[:, :, None].expand(geometry.shape).contiguous()

    assert float((A(wave(fine)) - wave(coarse)).abs().max()) < 1e-9
    torch.testing.assert_close(A.pinv(wave(coarse)), wave(fine), atol=1e-9, rtol=0)


# --- interpolation


@given(n=st.integers(4, 20), target=st.integers(4, 60))
@settings(max_examples=30)
def test_linear_is_torch_s_in_the_interior(n, target):
    y = random_like((n,))
    where = (np.arange(target) + 0.5) * n / target - 0.5
    ours = interpolation_matrix("linear", n, where) @ y
    theirs = functional.interpolate(y[None, None], size=target, mode="linear", align_corners=False)[0, 0]
    inside = torch.from_numpy((where >= 0) & (where <= n - 1))
    torch.testing.assert_close(ours[inside], theirs[inside])


@given(n=st.integers(3, 20), factor=st.floats(1.0, 6.0))
@settings(max_examples=30)
def test_cubic_is_scipy_s_natural_spline(n, factor):
    y = random_like((n,))
    where = (np.arange(int(n * factor)) + 0.5) / factor - 0.5
    spline = CubicSpline(np.arange(n), y.numpy(), bc_type="natural")
    inside = (where >= 0) & (where <= n - 1)
    ours = (interpolation_matrix("cubic", n, where) @ y).numpy()
    np.testing.assert_allclose(ours[inside], spline(where[inside]), atol=1e-10)
    # beyond the ends the tangent goes on
    np.testing.assert_allclose(ours[where < 0], spline(0) + where[where < 0] * spline(0, 1), atol=1e-10)


def test_nearest_takes_the_nearest_and_is_symmetric():
    where = (np.arange(20) + 0.5) * 7 / 20 - 0.5
    matrix = interpolation_matrix("nearest", 7, where).numpy()
    np.testing.assert_array_equal(matrix.sum(1), 1)
    assert np.abs(matrix @ np.arange(7) - where).max() <= 0.5
    ties = interpolation_matrix("nearest", 7, np.arange(13) / 2).numpy()
    np.testing.assert_array_equal(ties, ties[::-1, ::-1])


def test_lanczos_is_its_kernel_inside():
    where = np.array([5.3])
    d = 5.3 - np.arange(12)
    kernel = np.sinc(d) * np.sinc(d / 3) * (np.abs(d) < 3)
    np.testing.assert_allclose(interpolation_matrix("lanczos", 12, where)[0], kernel / kernel.sum(), atol=1e-12)


@pytest.mark.parametrize("kind", ["nearest", "linear", "cubic", "lanczos"])
@pytest.mark.parametrize("scale", [(2.0, 2.0, 1.0), (1.7, 3.0, 4.0)])
def test_nothing_is_shifted(kind, scale):
    """The centre of mass of a blob stays where it is in space; a half-voxel shift would cost 1 to 2 dB."""
    coarse = coarse_grid((18, 16, 20))

    def position(geometry: Geometry) -> np.ndarray:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), -1)
        return index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]

    centre = coarse.affine[:3, :3] @ [8.2, 7.6, 10.1] + coarse.affine[:3, 3]
    offset = (position(coarse) - centre) @ np.linalg.inv(coarse.affine[:3, :3]).T
    y = torch.from_numpy(np.exp(-(offset**2).sum(-1) / (2 * 1.6**2)))
    fine = coarse.with_scale(scale)
    x = interpolate(y, coarse, fine, kind).numpy()
    found = (position(fine) * x[..., None]).sum((0, 1, 2)) / x.sum()
    in_voxels = np.linalg.inv(fine.affine[:3, :3]) @ (found - centre)
    assert np.abs(in_voxels).max() < 0.05


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@given(n=st.integers(2, 12), scale=factors, spacing=st.floats(0.3, 1.0), exact=st.booleans())
@settings(max_examples=25)
def test_affine_functions_are_interpolated_exactly(kind, n, scale, spacing, exact):
    coarse = coarse_grid((n, 6, 5))
    fine = coarse.with_scale((scale, 1.0, 2.0)) if exact else coarse.with_spacing((spacing, 0.8, 4.0))
    torch.testing.assert_close(interpolate(plane(coarse), coarse, fine, kind), plane(fine), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["nearest", "linear", "cubic", "lanczos"])
def test_a_single_sample_and_constants(kind):
    coarse = coarse_grid((1, 5, 4))
    fine = coarse.with_scale((3.0, 2.0, 1.0))
    x = interpolate(torch.full(coarse.shape, 2.0), coarse, fine, kind)
    torch.testing.assert_close(x, torch.full(fine.shape, 2.0))
