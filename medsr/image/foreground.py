"""Which voxels show the patient: the region over which errors, certificates and noise are counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medsr.image.volume import Modality

MR_FRACTION_OF_P99 = 0.1
CT_BODY_HU = -500.0
CLOSING_VOXELS = 3

Mask = NDArray[np.bool_]


def foreground(array: NDArray[np.floating] | NDArray[np.integer], modality: Modality, slice_axis: int = 2) -> Mask:
    """The patient without the air around it: bool, the shape (I, J, K) of ``array``.

    array: finite voxels, in HU for CT and in any unit for MR. MR: above 0.1 x the 99th percentile; CT: above -500 HU.
    Gaps of up to 3 voxels are closed, the largest connected component is kept, and holes are filled in each slice
    across ``slice_axis`` alone, so that lungs and sinuses count although airways open them to the outside elsewhere.
    A volume in which nothing passes the threshold is foreground as a whole.
    """
    threshold = CT_BODY_HU if modality == "CT" else MR_FRACTION_OF_P99 * float(np.percentile(array, 99))
    mask = np.asarray(array) > threshold
    if not mask.any():
        return np.ones(mask.shape, dtype=bool)
    return _filled(_largest(_closed(mask, CLOSING_VOXELS)), slice_axis)


def _dilated(mask: Mask) -> Mask:
    """``mask`` grown by its six face neighbours; shifts of whole arrays are several times quicker than scipy's."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)
        target[1:] |= source[:-1]
        target[:-1] |= source[1:]
    return grown


def _closed(mask: Mask, radius: int) -> Mask:
    """Binary closing by ``radius`` face-neighbour steps, on a padded grid so that the volume's edge erodes nothing."""
    grown = np.pad(mask, radius)
    for _ in range(radius):
        grown = _dilated(grown)
    background = ~grown
    for _ in range(radius):
        background = _dilated(background)
    inner = slice(radius, -radius)
    return ~background[inner, inner, inner]


def _largest(mask: Mask) -> Mask:
    """The largest face-connected component."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _filled(mask: Mask, slice_axis: int) -> Mask:
    """Background that does not reach its own slice's border joins the mask; all slices in one labelling."""
    in_plane = ndimage.generate_binary_structure(3, 1)
    np.moveaxis(in_plane, slice_axis, 0)[[0, 2]] = False
    labels, count = ndimage.label(~mask, structure=in_plane)
    outside = np.zeros(count + 1, dtype=bool)
    for axis in {0, 1, 2} - {slice_axis}:
        outside[np.take(labels, [0, -1], axis=axis)] = True
    outside[0] = False  # label 0 is the mask itself
    filled: Mask = ~outside[labels]
    return filled
