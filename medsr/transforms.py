"""MONAI transforms around medsr's own reader: load, normalise, degrade."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform

from medsr.degradation import Degradation
from medsr.image.geometry import Geometry
from medsr.image.intensity import CT_AIR_HU, Intensity, fit_intensity
from medsr.image.scan import read
from medsr.image.volume import Modality, Volume


def as_metatensor(volume: Volume) -> MetaTensor:
    """Channel-first (1, I, J, K) image with its affine (RAS+ mm) and modality."""
    meta = {"modality": volume.modality, "filename_or_obj": volume.provenance.source}
    affine = torch.from_numpy(volume.geometry.affine.copy())
    return MetaTensor(torch.from_numpy(volume.array.copy())[None], affine=affine, meta=meta)


class LoadVolumed(MapTransform):
    """Replace a path by the volume that medsr reads from it, with every check of ``medsr.read``.

    ``data["modality"]``, where present ("MR" or "CT"), decides the modality.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same dictionary with images loaded."""
        out = dict(data)
        modality: Modality | None = out.get("modality")
        for key in self.key_iterator(out):
            out[key] = as_metatensor(read(Path(out[key]), modality=modality))
        return out


class Normalised(MapTransform):
    """Intensities to normalised units by the affine map fitted on the image alone; the map is kept in the meta data."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same dictionary with images normalised."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            array = image[0].numpy()
            modality: Modality = image.meta["modality"]
            if modality == "CT":
                array = np.maximum(array, np.float32(CT_AIR_HU))
            intensity: Intensity = fit_intensity(array, modality)
            normalised = MetaTensor(torch.from_numpy(intensity.apply(array))[None], meta=dict(image.meta))
            normalised.meta.update(offset=intensity.offset, scale=intensity.scale)
            out[key] = normalised
        return out


class Degraded(MapTransform):
    """The coarser scan of an image: ``A`` between its grid and one with ``factors`` times fewer voxels.

    profiles: (kind, width) per axis i, j, k as in ``medsr.degradation``. The field of view is kept exactly.
    """

    def __init__(self, keys: Sequence[str], factors: Sequence[float], profiles: Sequence[tuple[Any, float]]) -> None:
        super().__init__(keys)
        self.factors, self.profiles = tuple(factors), tuple(profiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same dictionary with images degraded; the affine becomes that of the coarse grid."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            i, j, k = image.shape[1:]
            fine = Geometry((i, j, k), image.affine.numpy())
            coarse = fine.with_scale([1 / f for f in self.factors])
            A = Degradation.between(fine, coarse, self.profiles)
            degraded = A(image[0].as_tensor())[None]
            out[key] = MetaTensor(degraded, affine=torch.from_numpy(coarse.affine), meta=dict(image.meta))
        return out


class VolumeReader(ImageReader):
    """medsr's reader for MONAI: ``LoadImage()(path, reader=VolumeReader())``.

    Give it in the call, not in LoadImage's constructor: there MONAI falls back to its own readers, without a word,
    when this one refuses a file. The parameters are those of ``medsr.read``.
    """

    def __init__(
        self,
        *,
        volume: int | None = None,
        modality: Modality | None = None,
        series: str | int | None = None,
        deskew: bool = False,
        fill_gaps: bool = False,
    ) -> None:
        self._options = {
            "volume": volume, "modality": modality, "series": series, "deskew": deskew, "fill_gaps": fill_gaps,
        }  # fmt: skip

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:  # noqa: ARG002 (MONAI's signature)
        """Any file: ``read`` decides, and says why when it refuses."""
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> Volume:  # MONAI's signature
        """One volume from one path; keyword arguments go to ``medsr.read`` before those of the constructor."""
        paths: Sequence[Any] = data if isinstance(data, list | tuple) else [data]
        if len(paths) != 1:
            raise ValueError(f"VolumeReader reads one scan at a time, not {len(paths)}")
        return read(Path(paths[0]), **{**self._options, **kwargs})

    def get_data(self, img: Volume) -> tuple[np.ndarray, dict[str, Any]]:
        """(I, J, K) array and meta data."""
        meta = {
            "affine": img.geometry.affine.copy(),
            "original_affine": img.geometry.affine.copy(),
            "spatial_shape": np.asarray(img.geometry.shape),
            "space": "RAS",
            "original_channel_dim": float("nan"),
            "modality": img.modality,
        }
        return img.array, meta
