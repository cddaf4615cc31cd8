"""Frames to voxels: read, decode and rescale slice by slice, in parallel, into one float32 volume."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsr.errors import InputError
from medsr.image.dicom_codecs import decoded, encoded_frames, native
from medsr.image.dicom_frames import Frame
from medsr.image.dicom_head import DEFLATED, inflated_bytes
from medsr.image.dicom_tags import damage_refused, quiet
from medsr.image.intensity import CT_AIR_HU
from medsr.image.volume import Array
from medsr.machine import cores

_MAX_THREADS = 8
_BACKGROUND = 0.1  # of the range of values, from its dark end
_COMPARED = 64  # pairs of slices that are compared together


@dataclass(frozen=True, eq=False)
class Voxels:
    """array: (I, J, K) float32, each slice in one piece of memory. span: its smallest and largest value.

    sha256: of the files' bytes. padded: voxels outside the image that were set to air.
    """

    array: Array
    span: tuple[float, float]
    sha256: str
    padded: int = 0


Content = tuple[memoryview, list[bytes] | None]  # all bytes of a file, and its compressed frames where it is compressed


class _Files:
    """Bytes of the files of some frames, each read and hashed once."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._left = Counter(id(frame.head) for frame in frames)
        self._shared = {key for key, count in self._left.items() if count > 1}
        self._kept: dict[int, Content] = {}
        self.digests: dict[int, bytes] = {}

    def of(self, frame: Frame) -> Content:
        """The file of a frame; the bytes are good until the same thread asks again."""
        key = id(frame.head)
        if key not in self._shared:
            if not hasattr(self._thread, "buffer"):
                self._thread.buffer = bytearray()
            return self._load(frame, self._thread.buffer)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._load(frame, bytearray())
            content = self._kept[key]
            self._left[key] -= 1
            if self._left[key] == 0:
                del self._kept[key]
            return content

    def _load(self, frame: Frame, buffer: bytearray) -> Content:
        head = frame.head
        with damage_refused(head.name):
            data = head.source.read_into(buffer)
        self.digests[id(head)] = hashlib.sha256(data).digest()
        data = memoryview(inflated_bytes(head)) if head.syntax == DEFLATED else data
        if len(data) != head.size:
            raise InputError(f"{head.name} has changed while it was read; run again")
        return data, encoded_frames(head, frame.layout, data) if frame.layout.compressed else None


def read_voxels(frames: Sequence[Frame], threads: int | None = None) -> Voxels:
    """The volume of frames in slice order: stored values, rescaled slice by slice.

    The hash is that of the file, or, for several files, of their hashes in slice order. Raises InputError for voxels
    that do not decode, or a file that has changed since it was inspected.
    """
    one = frames[0]
    stored_order = np.empty((len(frames), one.rows, one.columns), np.float32)
    files = _Files(frames)
    ends = np.empty((len(frames), 1, 2), np.float32)

    def fill(k: int) -> None:
        stored = _samples(frames[k], files)
        _rescale(stored, frames[k], stored_order[k])
        _rescale(np.array([[stored.min(), stored.max()]]), frames[k], ends[k])

    with quiet(), ThreadPoolExecutor(threads or min(_MAX_THREADS, cores())) as pool:
        list(pool.map(fill, range(len(frames))))
    span = float(ends.min()), float(ends.max())
    padded = _air(stored_order, frames, *span)
    if padded:
        span = float(stored_order.min()), float(stored_order.max())
    order = list(dict.fromkeys(id(frame.head) for frame in frames))
    digests = [files.digests[key] for key in order]
    total = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    # Slices stay whole in memory: to turn the volume over costs more than to decode it.
    return Voxels(stored_order.transpose(2, 1, 0), span, total.hex(), padded)


def first_difference(pairs: Sequence[tuple[Frame, Frame]]) -> tuple[Frame, Frame] | None:
    """The first pair of frames that do not show the same; None when all do."""
    for start in range(0, len(pairs), _COMPARED):
        chunk = pairs[start : start + _COMPARED]
        one, other = (read_voxels(frames).array for frames in zip(*chunk, strict=True))
        for n, pair in enumerate(chunk):
            if not np.array_equal(one[:, :, n], other[:, :, n]):
                return pair
    return None


def _samples(frame: Frame, files: _Files) -> NDArray[Any]:
    """(rows, columns) stored values of one slice."""
    data, encoded = files.of(frame)
    if encoded is not None:
        image = decoded(encoded[frame.index], frame.layout, frame.name)
    else:
        image = native(data, frame.layout, frame.head.offset or 0, frame.index, frame.padding)
    if frame.mosaic is None:
        return image
    row, column = divmod(frame.tile, frame.mosaic.across)
    rows, columns = frame.mosaic.rows, frame.mosaic.columns
    return image[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]


def _rescale(stored: NDArray[Any], frame: Frame, out: Array) -> None:
    """Write slope * stored + intercept into ``out`` (rows, columns)."""
    slope, inter = frame.slope, frame.inter
    if frame.layout.photometric == "MONOCHROME1" and frame.kind.modality == "MR":
        # Stored as a negative: the sum of the ends of the range minus the value. HU are HU, however they are shown.
        low, high = _ends(frame)
        slope, inter = -slope, inter + slope * (low + high)
    if slope == 1 and inter == int(inter) and abs(inter) < 1 << 23 and frame.layout.bits_allocated <= 16:
        np.add(stored, np.float32(inter), out=out, dtype=np.float32, casting="unsafe")  # exact: all below 2^24
    else:
        out[...] = stored.astype(np.float64) * slope + inter


def _ends(frame: Frame) -> tuple[int, int]:
    bits = frame.layout.bits_stored
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if frame.layout.signed else (0, (1 << bits) - 1)


def _air(slices: Array, frames: Sequence[Frame], darkest: float, brightest: float) -> int:
    """Set padding that would pass for tissue to air (CT) or to the darkest value (MR); says how many voxels.

    slices: (K, rows, columns). darkest, brightest: value of all of them. Padding near the darkest value, or no brighter
    than air, is background already and keeps its value.
    """
    background, air = darkest + _BACKGROUND * (brightest - darkest), darkest
    if frames[0].kind.modality == "CT":
        background, air = max(background, CT_AIR_HU), min(CT_AIR_HU, darkest)
    count = 0
    for k, frame in enumerate(frames):
        if frame.padding is None:
            continue
        ends = np.empty((1, 2), np.float32)
        _rescale(np.array([frame.padding]), frame, ends)  # as the voxels were, to the last bit
        if ends.max() > background:
            mask = _padding(slices[k], float(ends.min()), float(ends.max()))
            slices[k][mask] = air
            count += int(mask.sum())
    return count


def _padding(image: Array, low: float, high: float) -> NDArray[np.bool_]:
    """Where an image holds padding of values from ``low`` to ``high``.

    Among values of tissue, those that hang together with the edge: a voxel of tissue may have the value by chance.
    """
    from scipy.ndimage import label

    mask: NDArray[np.bool_] = (image >= low) & (image <= high)
    if not mask.any() or image[~mask].max(initial=-np.inf) < low:
        return mask
    regions, _ = label(mask)
    edge = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return mask & np.isin(regions, edge[edge > 0])
