"""A volume as slices and back, in batches and in tiles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsr.card import NetworkSpec
from medsr.diffusion import slices
from medsr.diffusion.network import STRIDE, SliceNetwork
from medsr.diffusion.slices import (
    TILE,
    TILE_OVERLAP,
    batches,
    normal_axis,
    padded,
    stacked,
    tiled,
    tissue_slices,
    unstacked,
    whole_or_tiled,
    with_neighbours,
)

PLANES = [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)]


@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_a_plane(plane):
    x = torch.arange(4 * 5 * 6.0).reshape(4, 5, 6)
    made = stacked(x, plane)
    normal = normal_axis(plane)
    assert sorted((normal, *plane)) == [0, 1, 2]
    assert made.shape == (x.shape[normal], x.shape[plane[0]], x.shape[plane[1]])
    position = {normal: 2, plane[0]: 1, plane[1]: 3}
    assert made[2, 1, 3] == x[position[0], position[1], position[2]]
    assert torch.equal(unstacked(made, plane), x)
    assert made.data_ptr() == x.data_ptr()  # a view: no copy of the volume


def test_neighbours_and_the_ends():
    volume = torch.arange(6.0)[:, None, None].expand(6, 2, 2)
    found = with_neighbours(volume, torch.tensor([0, 3, 5]), 2)[:, :, 0, 0]
    assert found.tolist() == [[0, 0, 0, 1, 2], [1, 2, 3, 4, 5], [3, 4, 5, 5, 5]]
    assert with_neighbours(volume, torch.tensor([4]), 0)[:, :, 0, 0].tolist() == [[4]]


@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 3), (13, 10)])
def test_padding_repeats_the_edge_up_to_the_stride(size):
    images = torch.randn(1, 2, *size)
    made = padded(images)
    assert all(n % STRIDE == 0 and n - m < STRIDE for n, m in zip(made.shape[2:], size, strict=True))
    torch.testing.assert_close(made[..., : size[0], : size[1]], images)
    assert torch.equal(made[..., -1, :], made[..., size[0] - 1, :])


def test_slices_of_air_are_left_out():
    u = torch.zeros(5, 64, 64)
    u[1, 20:40, 20:40] = 0.5
    u[3] = 0.02  # noise in air
    u[4, :2, :2] = 0.06  # faint, yet more than a ten-thousandth of the slice
    assert tissue_slices(u).tolist() == [1, 4]


@pytest.mark.parametrize("shrink", [0, 1, 2])
def test_batches_cover_every_slice_once_and_fit(shrink):
    index = torch.arange(3, 40)
    groups = list(batches(index, 50_000, torch.device("cpu"), shrink))
    assert torch.cat(groups).tolist() == index.tolist()
    assert max(len(g) for g in groups) * 50_000 <= slices.PIXELS_AT_ONCE["cpu"] >> shrink
    assert [len(g) for g in batches(index[:3], 10**9, torch.device("cpu"), 0)] == [1, 1, 1]  # never none
    assert list(batches(index[:0], 100, torch.device("cpu"), 0)) == []


def identity(part: torch.Tensor) -> torch.Tensor:
    return part[:, :1].clone()  # MONAI weights the answer in place


def test_tiles_are_put_where_they_came_from():
    """The identity in tiles is the identity, whatever the blending, for sizes that the stride does not divide."""
    images = torch.randn(2, 3, 52, 88)
    torch.testing.assert_close(tiled(identity, images, tile=32, overlap=8), images[:, :1], atol=1e-5, rtol=1e-5)


def test_tiles_start_at_multiples_of_the_stride():
    assert (TILE - TILE_OVERLAP) % STRIDE == 0
    assert TILE % STRIDE == 0
    where = torch.arange(100.0)[None, None, None].expand(1, 1, 40, 100)
    starts = []

    def see(part: torch.Tensor) -> torch.Tensor:
        starts.append(int(part[0, 0, 0, 0]))
        return part.clone()

    tiled(see, where, tile=32, overlap=8)
    assert set(starts) == {0, 24, 48, 68}
    assert all(start % STRIDE == 0 for start in starts)


def awake() -> nn.Module:
    network = SliceNetwork(NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16), 2, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def test_a_network_in_tiles_answers_as_on_the_whole_slice(monkeypatch):
    """Difference under 1 % of the answer; a slice that is narrower than a tile is not padded to one."""
    network = awake()

    def run(part: torch.Tensor) -> torch.Tensor:
        return network(part, torch.zeros(len(part), 3))

    images = torch.randn(1, 2, 678, 98)
    whole = whole_or_tiled(run, images)
    assert whole.shape == (1, 1, 678, 98)
    torch.testing.assert_close(whole, run(padded(images))[..., :678, :98])
    shapes = []

    def seen(part: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(part.shape[2:]))
        return run(part)

    parts = tiled(seen, padded(images))[..., :678, :98]
    assert set(shapes) == {(TILE, 100)}
    assert (parts - whole).square().mean().sqrt() < 0.01 * whole.square().mean().sqrt()
    monkeypatch.setattr(slices, "MAX_SLICE_PIXELS", 1000)
    torch.testing.assert_close(whole_or_tiled(run, images), parts)
