"""A slice network over a volume: every slice of a plane with its neighbours, in batches, and back into the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from medsr.diffusion.conditions import FOREGROUND
from medsr.diffusion.network import STRIDE

Plane = tuple[int, int]
PIXELS_AT_ONCE = {"cpu": 400_000, "cuda": 12_000_000, "mps": 2_000_000}  # a batch of slices, by device type
MAX_SLICE_PIXELS = 1_600_000  # larger slices are cut into tiles
TILE, TILE_OVERLAP = 512, 64  # pixels; the stride TILE - TILE_OVERLAP is a multiple of STRIDE
AIR_SHARE = 1e-4  # a slice with fewer pixels above half the foreground threshold holds nothing to restore


def normal_axis(plane: Plane) -> int:
    """The axis along which the slices of a plane are stacked."""
    return 3 - plane[0] - plane[1]


def stacked(x: Tensor, plane: Plane) -> Tensor:
    """(I, J, K) volume as slices (N, H, W) of a plane: a view."""
    return x.permute(normal_axis(plane), *plane)


def unstacked(slices: Tensor, plane: Plane) -> Tensor:
    """The inverse of ``stacked``: a view."""
    order = [normal_axis(plane), *plane]
    return slices.permute([order.index(a) for a in range(3)])


def with_neighbours(slices: Tensor, index: Tensor, context: int) -> Tensor:
    """(B, 2 context + 1, H, W): each slice between its neighbours; beyond the ends the last slice is repeated."""
    offsets = torch.arange(-context, context + 1, device=index.device)
    return slices[(index[:, None] + offsets).clamp(0, len(slices) - 1)]


def padded(images: Tensor) -> Tensor:
    """Edges repeated up to the next multiple of the network's stride."""
    h, w = images.shape[-2:]
    return functional.pad(images, [0, -w % STRIDE, 0, -h % STRIDE], mode="replicate")


def tissue_slices(u: Tensor) -> Tensor:
    """Indices of the slices of (N, H, W), in normalised units, that hold more than air."""
    return torch.nonzero((u > FOREGROUND / 2).float().mean((1, 2)) > AIR_SHARE)[:, 0]


def batches(index: Tensor, pixels: int, device: torch.device, shrink: int) -> Iterator[Tensor]:
    """The slices in groups that fit the device; shrink halves the groups that many times."""
    size = max(1, (PIXELS_AT_ONCE.get(device.type, 400_000) >> shrink) // pixels)
    if len(index):  # an empty index would be split into one empty batch
        yield from index.split(size)


def whole_or_tiled(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """``run`` on padded images (B, C, H, W); very large ones in overlapping tiles."""
    h, w = images.shape[-2:]
    images = padded(images)
    if images.shape[-2] * images.shape[-1] <= MAX_SLICE_PIXELS:
        return run(images)[..., :h, :w]
    return tiled(run, images)[..., :h, :w]


def _blending(n: int, overlap: int) -> Tensor:
    """(n,) weights along one side of a tile; never 0, for at the edge of the slice there is no other tile."""
    index = torch.arange(n) + 0.5
    return ((torch.minimum(index, n - index) - overlap / 4) / (overlap / 2)).clamp(1e-3, 1)


def tiled(run: Callable[[Tensor], Tensor], images: Tensor, tile: int = TILE, overlap: int = TILE_OVERLAP) -> Tensor:
    """``run`` on overlapping tiles of (B, C, H, W), starts at multiples of the network's stride.

    Tiles are blended over the middle half of their overlap: what lies nearer to the edge of a tile than a quarter of
    it has been seen beside nothing. (MONAI's Gaussian weight is cut off from below, and keeps a part of those edges.)
    """
    from monai.inferers import sliding_window_inference  # costs seconds to import, and few scans need it

    roi = [min(tile, n) for n in images.shape[-2:]]  # a shorter side would be padded with zeros, which changes edges
    weight = torch.outer(*(_blending(n, overlap) for n in roi)).to(images.device)[None, None]
    result = sliding_window_inference(images, roi, 1, run, overlap=overlap / tile, roi_weight_map=weight)
    if not isinstance(result, Tensor):
        raise TypeError("tiled inference returned more than one image")
    return result
