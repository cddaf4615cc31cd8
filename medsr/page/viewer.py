"""The viewer of a volume: its images packed for the script of the page, and still pictures for print and no script."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsr.image.geometry import Geometry
from medsr.image.render import CT_SOFT_TISSUE, Window, display_window, render_slice, to_display_order
from medsr.image.volume import Modality
from medsr.page.markup import Html, json_block, tag

Kind = Literal["image", "std", "signed"]
Values = NDArray[np.floating]

IMAGE_LEVELS = {"MR": 511, "CT": 1023}  # grey values of an image; CT is looked at through narrow windows
OVERLAY_LEVELS = 255
FULL_COLOUR = 99.0  # percentile of an overlay from which on it has full colour
CT_LIMITS = (-1024.0, 3071.0)  # HU
STILL_HEIGHT = 190  # of a still picture on the page, in CSS pixels
BYTES_PER_VOXEL = 0.83  # of the page, a voxel of a picture of any kind; MR of 1 % noise is at that, CT below
MIN_SLICES = 20  # that a crop keeps across the plane that matters

_WINDOWS: dict[str, Window] = {"soft tissue": CT_SOFT_TISSUE, "lung": (-1350.0, 150.0), "bone": (-450.0, 1050.0)}


@dataclass(frozen=True)
class _Plane:
    """x, y, z: the axes of the display order along columns, rows and slices. letters: top, bottom, left, right."""

    name: str
    x: int
    y: int
    z: int
    flip: bool  # of the rows: y runs upwards
    letters: str


_PLANES = (
    _Plane("axial", 0, 1, 2, flip=False, letters="APRL"),
    _Plane("coronal", 0, 2, 1, flip=True, letters="SIRL"),
    _Plane("sagittal", 1, 2, 0, flip=True, letters="SIAP"),
)


@dataclass(frozen=True, eq=False)
class Picture:
    """One of the images of a volume. array: (I, J, K). kind: an image, a standard deviation, or a signed map."""

    name: str
    label: str
    array: Values
    kind: Kind = "image"


@dataclass(frozen=True, eq=False)
class Exhibit:
    """What a viewer shows: pictures of one grid. axes: as of Geometry.axis_codes, None where not known.

    left, right: names of the two images that are seen first. still: the plane of the still pictures (0 axial,
    1 coronal, 2 sagittal).
    """

    pictures: tuple[Picture, ...]
    spacing: tuple[float, float, float]
    axes: str | None
    modality: Modality
    left: str
    right: str
    still: int = 0

    def named(self, name: str) -> Picture | None:
        """The picture of that name, if there is one."""
        return next((p for p in self.pictures if p.name == name), None)


def viewer(exhibit: Exhibit, caption: object) -> Html:
    """The viewer of one volume with its caption, stills included."""
    turned = _in_display_order(replace(exhibit, pictures=tuple(map(_finite, exhibit.pictures))))
    facts, packed = _packed(turned)
    return tag(
        "figure",
        {"class": "viewer"},
        tag("figcaption", None, caption),
        tag("div", {"class": "stills"}, *_stills(turned)),
        json_block(facts, {"class": "facts"}),
        tag("script", {"type": "text/plain", "class": "data"}, Html(packed)),
    )


def middle(shape: Sequence[int], most_voxels: int, through: int | None = None) -> tuple[slice, slice, slice]:
    """The middle of a volume, at full resolution, of at most ``most_voxels``.

    through: an axis that gives way first, to MIN_SLICES; then the longest axis does, again and again.
    """
    size = np.array(shape)
    if through is not None:
        plane = int(np.prod(size)) // int(size[through])
        size[through] = min(int(size[through]), max(most_voxels // plane, MIN_SLICES))
    while np.prod(size) > most_voxels:
        size[np.argmax(size)] -= 1
    i, j, k = (slice((n - m) // 2, (n - m) // 2 + int(m)) for n, m in zip(shape, size, strict=True))
    return i, j, k


def _finite(picture: Picture) -> Picture:
    """What is no number becomes the least value there is."""
    known = np.isfinite(picture.array)
    if known.all():
        return picture
    least = picture.array.min(where=known, initial=np.inf)
    return replace(picture, array=np.where(known, picture.array, least if np.isfinite(least) else 0.0))


# --- packing ---------------------------------------------------------------------------------------------------------


def _in_display_order(exhibit: Exhibit) -> Exhibit:
    """The exhibit with axes towards left, posterior and superior; as it is where the axes are not known."""
    if exhibit.axes is None:
        return exhibit
    spacing = exhibit.spacing
    affine = np.zeros((4, 4))
    affine[3, 3] = 1.0
    for axis, code in enumerate(exhibit.axes):
        world = next(n for n, pair in enumerate(("RL", "AP", "SI")) if code in pair)
        affine[world, axis] = spacing[axis] if code in "RAS" else -spacing[axis]
    grid = Geometry(exhibit.pictures[0].array.shape, affine)
    order = ["RLAPSI".index(code) // 2 for code in exhibit.axes]
    pictures = tuple(Picture(p.name, p.label, to_display_order(p.array, grid), p.kind) for p in exhibit.pictures)
    x, y, z = (spacing[order.index(world)] for world in range(3))
    return Exhibit(pictures, (x, y, z), "LPS", exhibit.modality, exhibit.left, exhibit.right, exhibit.still)


def _packed(exhibit: Exhibit) -> tuple[dict[str, Any], str]:
    """The facts that the script needs, and the voxels."""
    limits = _limits(exhibit)
    levels = IMAGE_LEVELS[exhibit.modality]
    blocks, described = [], []
    for picture in exhibit.pictures:
        low, high, steps = (*limits, levels) if picture.kind == "image" else (*_map_limits(picture), OVERLAY_LEVELS)
        step = (high - low) / steps
        blocks.append(_block(picture.array, low, step, steps))
        described.append(
            {"name": picture.name, "label": picture.label, "kind": picture.kind, "offset": low, "step": step}
        )
    facts = {
        "shape": list(exhibit.pictures[0].array.shape),
        "spacing": list(exhibit.spacing),
        "unit": "HU" if exhibit.modality == "CT" else "",
        "planes": [asdict(plane) for plane in _planes(exhibit.axes)],
        "pictures": described,
        "windows": [{"label": k, "low": low, "high": high} for k, (low, high) in _windows(exhibit, limits).items()],
        "overlays": _overlays(exhibit),
        "left": exhibit.left,
        "right": exhibit.right,
    }
    # For small differences the filtered strategy packs tighter than the default, in a third of level 9's time.
    gzip = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS + 16, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
    packed = gzip.compress(b"".join(blocks)) + gzip.flush()
    return facts, base64.b64encode(packed).decode()


def _block(array: Values, low: float, step: float, levels: int) -> bytes:
    """A picture as the script reads it: what each voxel differs from a guess by, low bytes of all, then high bytes.

    The guess is the median of left, upper, and left + upper - upper left neighbour (Weinberger et al. 2000, LOCO-I),
    with x along the rows. It makes the data a third smaller than gzip alone.
    """
    q = np.clip(np.rint((array - low) / step), 0, levels).astype(np.int32).transpose(2, 1, 0)
    around = np.pad(q, ((0, 0), (1, 0), (1, 0)))
    left, up, corner = around[:, 1:, :-1], around[:, :-1, 1:], around[:, :-1, :-1]
    most, least = np.maximum(left, up), np.minimum(left, up)
    guess = np.where(corner >= most, least, np.where(corner <= least, most, left + up - corner))
    difference = q - guess
    code = np.where(difference >= 0, 2 * difference, -2 * difference - 1).astype(np.uint16)
    low_bytes, high_bytes = (code & 255).astype(np.uint8), (code >> 8).astype(np.uint8)
    return bytes(low_bytes.tobytes() + high_bytes.tobytes())


def _limits(exhibit: Exhibit) -> tuple[float, float]:
    """The values that the images are stored between: all of CT's that occur, MR without its few brightest voxels."""
    images = [p.array for p in exhibit.pictures if p.kind == "image"]
    if exhibit.modality == "CT":
        return CT_LIMITS[0], float(np.clip(max(np.percentile(i, 99.98) for i in images), 300.0, CT_LIMITS[1]))
    low = min(float(np.percentile(image, 0.02)) for image in images)
    high = max(float(np.percentile(image, 99.98)) for image in images)
    return low, high if high > low else low + 1.0


def _map_limits(picture: Picture) -> tuple[float, float]:
    largest = _largest(picture.array)
    return (-largest if picture.kind == "signed" else 0.0), largest


def _largest(array: Values, percentile: float = 99.9) -> float:
    """A magnitude that hardly any voxel exceeds; above 0."""
    return max(float(np.percentile(np.abs(array), percentile)), 1e-9)


def _windows(exhibit: Exhibit, limits: Window) -> Mapping[str, Window]:
    if exhibit.modality == "CT":
        return _WINDOWS | {"all": limits}
    first = exhibit.named("reference") or exhibit.pictures[0]
    low, high = display_window(first.array, "MR")
    high = high if high > low else low + 1.0
    return {"standard": (low, high), "dark parts": (low, low + (high - low) / 2), "all": limits}


def _overlays(exhibit: Exhibit) -> list[dict[str, Any]]:
    """What can be laid over the images. full: the value of full colour."""
    truth, cubic = exhibit.named("reference"), exhibit.named("cubic")
    base = truth or cubic or exhibit.named(exhibit.left)
    rivals = [p for p in exhibit.pictures if p.kind == "image" and base is not None and p.name != base.name]
    full = min((_largest(p.array - base.array, FULL_COLOUR) for p in rivals), default=1.0) if base is not None else 1.0
    found: list[dict[str, Any]] = []
    if truth is not None:
        found += [
            {"name": f"error-{side}", "label": f"error of {side} image", "plus": side, "minus": "reference"}
            for side in ("left", "right")
        ]
    found.append({"name": "difference", "label": "right \N{MINUS SIGN} left", "plus": "right", "minus": "left"})
    found = [{**overlay, "signed": True, "full": full} for overlay in found]
    for picture in exhibit.pictures:
        if picture.kind != "image":
            signed = picture.kind == "signed"
            found.append({"name": picture.name, "label": picture.label, "plus": picture.name, "signed": signed,
                          "full": _largest(picture.array, FULL_COLOUR)})  # fmt: skip
    return found


def _planes(axes: str | None) -> tuple[_Plane, ...]:
    """The planes, without anatomical names where the axes are not known."""
    if axes is not None:
        return _PLANES
    return tuple(replace(plane, name=f"across {'ijk'[plane.z]}", letters="    ") for plane in _PLANES)


# --- stills ----------------------------------------------------------------------------------------------------------


def _stills(exhibit: Exhibit) -> list[Html]:
    """The middle slice of every image, with its name."""
    window = next(iter(_windows(exhibit, _limits(exhibit)).values()))
    plane = _planes(exhibit.axes)[exhibit.still]
    made = []
    for picture in exhibit.pictures:
        if picture.kind == "image":
            wide, tall = (picture.array.shape[axis] * exhibit.spacing[axis] for axis in (plane.x, plane.y))
            alt = f"{picture.label}: the middle slice, {plane.name}"
            made.append(still(_middle_slice(picture.array, plane), window, wide / tall, picture.label, alt))
    return made


def still(values: Values, window: Window, width_over_height: float, caption: str, alt: str) -> Html:
    """A grey picture (rows, columns) that lies in the page itself, with its caption."""
    stream = BytesIO()
    Image.fromarray(render_slice(values, window)).save(stream, format="PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    size = {"height": STILL_HEIGHT, "width": max(1, round(STILL_HEIGHT * width_over_height))}
    return tag("figure", None, tag("img", {"src": source, "alt": alt, **size}), tag("figcaption", None, caption))


def _middle_slice(array: Values, plane: _Plane) -> Values:
    """Rows and columns of the middle slice, row 0 on top."""
    values: Values = np.take(array, array.shape[plane.z] // 2, axis=plane.z).T
    return values[::-1] if plane.flip else values
