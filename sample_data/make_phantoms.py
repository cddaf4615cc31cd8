"""Make the sample scans: a digital head (T1-weighted MR) and a digital trunk (CT), defined at any resolution.

    python sample_data/make_phantoms.py [FOLDER]

Anatomy is a function of position in mm, so that every scan, fine or coarse, is taken from the same truth as a scanner
would take it: sampled twice as finely as the finest scan, averaged with the scanner's profile, then given its noise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Point = tuple[float, float, float]
Spot = tuple[Point, float, str]
Paint = Callable[[NDArray[np.bool_], str], None]  # where, tissue
Truth = Callable[[Field, Field, Field], Field]  # x (I,), y (J,), z (K,) in RAS+ mm -> values (I, J, K)


# --- shapes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves of one wavelength (mm); near zero it behaves like a distance."""

    k: NDArray[np.float64]  # (N, 3) radians per mm
    phase: NDArray[np.float64]  # (N,)

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: float, number: int = 40, spread: float = 0.15) -> Waves:
        """``number`` waves in all directions, their wave numbers spread by 15 per cent."""
        direction = rng.normal(size=(number, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = 2 * np.pi / wavelength * rng.normal(1, spread, (number, 1))
        return cls(direction * length, rng.uniform(0, 2 * np.pi, number))

    def __call__(self, x: Field, y: Field, z: Field) -> Field:
        """Zero mean, unit variance. A plane wave is a product of three 1-D waves, so a grid costs one product."""
        wx, wy, wz = (np.exp(1j * np.outer(c, self.k[:, a])) for a, c in enumerate((x, y, z)))
        wx = wx * np.exp(1j * self.phase)
        plane = (wx[:, None] * wy[None]).reshape(-1, len(self.phase)).astype(np.complex64)
        total = (plane @ wz.T.astype(np.complex64)).real
        return total.reshape(len(x), len(y), len(z)) * np.float32(np.sqrt(2 / len(self.phase)))

    def slope(self) -> float:
        """Root-mean-square gradient, per mm, along one direction."""
        return float(np.sqrt(np.mean(np.sum(self.k**2, axis=1))))


def sheet(field: Field, slope: float) -> Field:
    """Distance in mm, roughly, to the surface on which a random field vanishes: winding sheets, like sulci."""
    return np.abs(field) / np.float32(slope)


def ellipsoid(x: Field, y: Field, z: Field, centre: Point, radii: Point) -> Field:
    """Depth in mm below the surface of an ellipsoid (negative outside), exact near a sphere's surface."""
    p = [(c - m) / r for c, m, r in zip((x, y, z), centre, radii, strict=True)]
    return (1 - np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)) * np.float32(np.mean(radii))


def tube(x: Field, y: Field, z: Field, points: list[Point]) -> Field:
    """Distance in mm to a broken line."""
    best = np.float32(np.inf)
    for a, b in zip(np.array(points[:-1], np.float32), np.array(points[1:], np.float32), strict=True):
        d = b - a
        t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / (d @ d), 0, 1)
        distance = np.sqrt((x - a[0] - t * d[0]) ** 2 + (y - a[1] - t * d[1]) ** 2 + (z - a[2] - t * d[2]) ** 2)
        best = np.minimum(best, distance)
    return np.asarray(best, np.float32)


def grid(x: Field, y: Field, z: Field) -> tuple[Field, Field, Field]:
    """Coordinate vectors ready to broadcast to (I, J, K)."""
    return x[:, None, None], y[None, :, None], z[None, None, :]


# --- the head ---------------------------------------------------------------------------------------------------

T1 = {  # signal of a T1-weighted gradient echo, white matter = 1
    "air": 0.0, "skin": 0.55, "fat": 1.25, "bone": 0.06, "marrow": 0.55, "csf": 0.17, "grey": 0.66, "white": 1.0,
    "deep": 0.78, "pallidum": 0.9, "dura": 0.5, "vessel": 1.35, "lesion": 0.5, "muscle": 0.6, "eye": 0.16, "lens": 0.6,
}  # fmt: skip


def head(seed: int) -> Truth:
    """A head of 138 x 174 mm without a face, cut below the orbits; origin between the thalami."""
    rng = np.random.default_rng(seed)
    folds, warp = Waves.draw(rng, 20.0), [Waves.draw(rng, 60.0, 12) for _ in range(3)]
    folia, texture, fine = Waves.draw(rng, 9.0, 24), Waves.draw(rng, 14.0, 30), Waves.draw(rng, 4.5, 30)
    artery = Waves.draw(rng, 38.0, 30), Waves.draw(rng, 38.0, 30)
    lesions = [((s * rng.uniform(16, 30), rng.uniform(-45, 30), rng.uniform(14, 30)), rng.uniform(1.3, 3.2))
               for s in (-1, 1) for _ in range(5)]  # fmt: skip

    def truth(x: Field, y: Field, z: Field) -> Field:
        shape = [np.float32(1.6) * w(x, y, z) for w in warp]
        sulcus, vermis = sheet(folds(x, y, z), folds.slope()), sheet(folia(x, y, z), folia.slope())
        vessel = np.hypot(*(sheet(w(x, y, z), w.slope()) for w in artery))
        grain = 1 + 0.018 * texture(x, y, z) + 0.015 * fine(x, y, z)
        x, y, z = grid(x, y, z)
        wide = 1 - np.float32(0.0011) * (y - 10)  # the back of a head is wider than its front
        scalp = egg(x / wide, y, z + 8, (69, 87, 70)) + shape[0] * np.float32(0.3)
        skull = scalp - (np.float32(4.5) + shape[1] * np.float32(0.7))
        base = z - skull_base(x, y)
        brain = np.minimum(skull - (np.float32(7.5) + shape[2] * np.float32(0.6)), np.float32(0.8) * base)
        out = np.full(scalp.shape, T1["air"], np.float32)

        def paint(where: NDArray[np.bool_], tissue: str) -> None:
            out[where] = T1[tissue]

        paint(scalp > 0, "skin")
        paint(scalp > 1.6, "fat")
        temporal = (np.abs(np.abs(x) - 62) < 14) & (z < 2) & (y > -15) & (y < 45)
        paint((scalp > 2.5) & (skull < 0.5) & temporal, "muscle")
        paint(skull > 0, "bone")
        paint((skull > 1.9) & (skull < 4.4 + 0.4 * shape[0]), "marrow")
        paint(skull > 5.9, "dura")
        paint(skull > 6.5, "csf")
        paint((skull > 2) & (base < 0), "bone")
        paint((skull > 0) & (base < -3), "muscle")
        paint((skull > 0) & (base < -3) & (sulcus < 1.2), "fat")
        _cerebrum(x, y, z, brain, sulcus, paint)
        _depths(x, y, z, lesions, paint)
        _hindbrain(x, y, z, brain, vermis, paint)
        surface = (out == np.float32(T1["csf"])) | (out == np.float32(T1["grey"]))
        paint((vessel < 0.8) & surface & (brain > -0.4), "vessel")
        paint((np.hypot(x, brain - 0.2) < 2.3) & (z > -5) & (y < 60), "vessel")  # superior sagittal sinus
        _orbits(x, y, z, paint)
        return out * np.where(out > 0, grain, 1)

    return truth


def egg(x: Field, y: Field, z: Field, radii: Point) -> Field:
    """Depth in mm, roughly, below a rounder, flatter-topped ellipsoid about the origin."""
    p = [np.abs(c / r) for c, r in zip((x, y, z), radii, strict=True)]
    return np.asarray((1 - (p[0] ** 2.3 + p[1] ** 2.3 + p[2] ** 2.3) ** (1 / 2.3)) * np.mean(radii), np.float32)


def skull_base(x: Field, y: Field) -> Field:
    """Height in mm of the floor of the skull: orbital roofs in front, temporal fossae, posterior fossa at the back."""
    fossa = 17 * np.exp(-(((np.abs(x) - 36) / 17) ** 2) - ((y - 6) / 22) ** 2)
    back = 34 / (1 + np.exp((y + 16 + petrous(x)) / 4))
    return np.asarray(-19 - np.maximum(fossa, back), np.float32)


def petrous(x: Field) -> Field:
    """How far the ridge between temporal lobe and cerebellum runs back, in mm, away from the midline."""
    return np.asarray(0.6 * np.maximum(0, np.abs(x) - 14), np.float32)


def _cerebrum(x: Field, y: Field, z: Field, brain: Field, sulcus: Field, paint: Paint) -> None:
    """White matter under a ribbon of cortex 2.8 mm thick that follows the surface, the sulci and the great fissure."""
    length = np.float32(16.0)  # mm that a sulcus reaches below the surface
    fold = np.hypot(sulcus, np.maximum(0, brain - length))
    corpus = ellipsoid(x, y, z, (0, -4, 2), (40, 42, 24))  # where the hemispheres are joined
    fissure = np.hypot(x, np.maximum(0, corpus))
    pia = np.minimum(np.minimum(brain, fold - np.float32(0.45)), fissure - np.float32(0.7))
    tentorium = np.maximum(z + 26 + 0.25 * y, 1.5 * (y + 8 + petrous(x)))
    pia = np.minimum(pia, np.where(np.abs(x) < 17, np.maximum(tentorium, y + 34), tentorium))
    cerebrum = pia > 0
    paint(cerebrum, "grey")
    paint(pia > 2.6, "white")
    paint(cerebrum & (np.abs(x) < 0.45) & (corpus < -3) & (z > -8), "dura")  # falx


def _depths(x: Field, y: Field, z: Field, lesions: list[tuple[Point, float]], paint: Paint) -> None:
    """Basal ganglia, thalami, ventricles and small lesions of white matter."""
    side = np.abs(x)
    paint(ellipsoid(side, y, z, (26, 2, 0), (6, 17, 12)) > 0, "deep")  # putamen
    paint(ellipsoid(side, y, z, (20, -1, -1), (4.5, 10, 8)) > 0, "pallidum")
    paint(ellipsoid(side, y, z, (9, -14, 2), (9, 14, 9)) > 0, "deep")  # thalamus
    paint(tube(side, y, z, [(13, 24, 4), (15, 8, 16), (18, -14, 18)]) < 4.2, "deep")  # caudate nucleus
    horn = tube(side, y, z, [(9, 30, 6), (7, 14, 13), (9, -10, 16), (16, -30, 12), (22, -44, 4), (24, -56, 3)])
    paint(horn < 4.0 - 0.03 * (y - 10), "csf")
    paint(tube(side, y, z, [(20, -34, 8), (28, -24, -8), (27, -6, -16)]) < 2.2, "csf")  # temporal horn
    paint((side < 1.8) & (ellipsoid(x, y, z, (0, -8, -1), (9, 18, 11)) > 0), "csf")  # third ventricle
    paint((side < 0.6) & (ellipsoid(x, y, z, (0, 14, 11), (6, 18, 8)) > 0), "white")  # septum
    for centre, radius in lesions:
        paint(ellipsoid(x, y, z, centre, (radius, 1.4 * radius, radius)) > 0, "lesion")


def _hindbrain(x: Field, y: Field, z: Field, brain: Field, vermis: Field, paint: Paint) -> None:
    """Cerebellum with folia and a white core, and the brain stem, in a bath of fluid below the tentorium."""
    cerebellum = ellipsoid(np.abs(x), y, z, (17, -48, -34), (38, 32, 25))
    cerebellum = np.minimum(np.minimum(cerebellum, brain - 0.8), -28 - 0.25 * y - z)
    paint((cerebellum > -1.5) & (brain > 0) & (z < -27 - 0.25 * y), "csf")
    paint(cerebellum > 0, "grey")
    paint((cerebellum > 2) & (vermis > 1.5), "white")
    paint(cerebellum > 11, "white")
    stem = tube(x, y, z, [(0, -16, -6), (0, -19, -28), (0, -26, -60)])
    cistern = tube(x, y, z, [(0, -18, -33), (0, -26, -60)])
    paint((cistern < 15) & (brain > 0) & (cerebellum < -0.5), "csf")
    paint(stem < np.where(np.abs(z + 26) < 11, 13.0, 9.5), "white")
    paint(ellipsoid(x, y, z, (0, -30, -30), (7, 4, 10)) > 0, "csf")  # fourth ventricle
    paint(tube(x, y, z, [(0, -1, -18), (0, -2, -50)]) < 1.6, "vessel")  # basilar artery
    for s in (-1, 1):
        paint(tube(x, y, z, [(s * 13, 8, -50), (s * 12, 12, -26), (s * 22, 14, -20), (s * 34, 8, -16)]) < 1.8, "vessel")


def _orbits(x: Field, y: Field, z: Field, paint: Paint) -> None:
    """Eyes in their fat, with lens and optic nerve, and the air of the frontal and sphenoid sinuses."""
    side = np.abs(x)
    centre = (29.0, 63.0, -36.0)
    paint(ellipsoid(side, y, z, (28, 54, -36), (19, 26, 17)) > 0, "fat")
    paint(tube(side, y, z, [centre, (12, 22, -30)]) < 2.4, "white")
    for angle in np.deg2rad([45, 135, 225, 315]):
        dx, dz = 11 * np.cos(angle), 11 * np.sin(angle)
        paint(tube(side, y, z, [(29 + dx, 62, -36 + dz), (16, 28, -31)]) < 2.0, "muscle")
    paint(ellipsoid(side, y, z, centre, (12.5, 12.5, 12.5)) > 0, "skin")
    paint(ellipsoid(side, y, z, centre, (11.4, 11.4, 11.4)) > 0, "eye")
    paint(ellipsoid(side, y, z, (29, 72, -36), (4.5, 2.2, 4.5)) > 0, "lens")
    paint(ellipsoid(side, y, z, (9, 66, -28), (7, 4, 8)) > 0, "air")
    paint(ellipsoid(side, y, z, (7, 18, -42), (6, 11, 9)) > 0, "air")


# --- the trunk --------------------------------------------------------------------------------------------------

HU = {
    "air": -1000.0, "lung": -860.0, "fat": -100.0, "skin": 20.0, "muscle": 55.0, "liver": 105.0, "spleen": 115.0,
    "heart": 60.0, "blood": 190.0, "cyst": 5.0, "metastasis": 60.0, "cartilage": 110.0, "disc": 85.0, "marrow": 130.0,
    "cortex": 750.0, "water": 15.0, "wall": 40.0,
}  # fmt: skip


def trunk(seed: int) -> Truth:
    """Lower chest and upper abdomen, 320 x 212 mm, 96 mm high: lungs above the domes of the diaphragm, liver below."""
    rng = np.random.default_rng(seed)
    branches = [(Waves.draw(rng, w, 30), Waves.draw(rng, w, 30), r) for w, r in ((75, 3.4), (44, 1.7), (27, 0.95))]
    portal = Waves.draw(rng, 60.0, 30), Waves.draw(rng, 60.0, 30)
    texture, trabeculae, bumps = Waves.draw(rng, 9.0, 30), Waves.draw(rng, 6.0, 40), Waves.draw(rng, 90.0, 12)
    spots = [((rng.uniform(45, 105), rng.uniform(-30, 45), rng.uniform(-44, -8)), rng.uniform(3, 8), kind)
             for kind in ("cyst", "metastasis", "metastasis", "cyst")]  # fmt: skip

    def truth(x: Field, y: Field, z: Field) -> Field:
        vessels = [(np.hypot(sheet(a(x, y, z), a.slope()), sheet(b(x, y, z), b.slope())), r) for a, b, r in branches]
        veins = np.hypot(*(sheet(w(x, y, z), w.slope()) for w in portal))
        grain, bone, bump = texture(x, y, z), trabeculae(x, y, z), np.float32(3) * bumps(x, y, z)
        x, y, z = grid(x, y, z)
        body = _superellipse(x, y, 160, 106) + np.zeros_like(z)
        out = np.full(body.shape, HU["air"], np.float32)

        def paint(where: NDArray[np.bool_], tissue: str) -> None:
            out[where] = HU[tissue]

        fat = 14 + bump + 6 * np.maximum(0, y / 106)
        paint(body > 0, "skin")
        paint(body > 2, "fat")
        paint(body > fat, "muscle")
        inner = body - fat - 20
        paint((inner > -11) & (inner < -9), "fat")  # between two muscle layers
        paint(inner > -1, "wall")
        paint(inner > 1, "fat")
        right = z - 14 + 0.0062 * ((x - 62) ** 2 + y**2)  # mm above the right dome of the diaphragm
        left = z - 2 + 0.0062 * ((x + 66) ** 2 + y**2)
        dome = np.minimum(right, left)
        paint((inner > 2) & (dome < 0), "fat")
        _organs(x, y, z, inner, dome, veins, spots, paint)
        _lungs(x, y, z, inner, dome, vessels, paint)
        _heart(x, y, z, bump, dome, paint)
        soft = out > -200
        out += np.where(soft, 4 * grain, 18 * grain) * (out > -950)
        _skeleton(x, y, z, inner, bone, out)
        return out

    return truth


def _superellipse(x: Field, y: Field, a: float, b: float) -> Field:
    """Depth in mm, roughly, below a rounded rectangle of half axes a and b."""
    r = (np.abs(x / a) ** 2.5 + np.abs(y / b) ** 2.5) ** (1 / 2.5)
    return np.asarray((1 - r) * (a + b) / 2, np.float32)


def _organs(
    x: Field, y: Field, z: Field, inner: Field, dome: Field, veins: Field, spots: list[Spot], paint: Paint
) -> None:
    """Liver with vessels, cysts and metastases; stomach with fluid level; spleen."""
    liver = (inner > 3) & (dome < -3) & (ellipsoid(x, y, z, (54, 6, -30), (96, 74, 62)) > 0)
    paint(liver, "liver")
    paint(liver & (veins < 2.6), "blood")
    for centre, radius, kind in spots:
        paint(liver & (ellipsoid(x, y, z, centre, (radius, radius, radius)) > 0), kind)
    stomach = ellipsoid(x, y, z, (-62, 22, -42), (40, 36, 34))
    stomach = np.minimum(stomach, np.minimum(inner - 3, -3 - dome))
    paint(stomach > 0, "wall")
    paint(stomach > 4, "water")
    paint((stomach > 4) & (y > 34), "air")
    spleen = np.minimum(ellipsoid(x, y, z, (-98, -34, -40), (26, 40, 36)), np.minimum(inner - 3, -3 - dome))
    paint((spleen > 0) & (stomach < -2), "spleen")


def _lungs(
    x: Field, y: Field, z: Field, inner: Field, dome: Field, vessels: list[tuple[Field, float]], paint: Paint
) -> None:
    """Lungs with vessels that thin out towards the pleura, a fissure and branching airways."""
    mediastinum = 24 + 26 * np.exp(-(((y - 30) / 34) ** 2)) + 6 * (x < 0)
    lung = np.minimum(np.minimum(inner - 3, dome - 3), np.abs(x) - mediastinum)
    spine = 34 - np.hypot(x, y + 52)
    lung = np.minimum(lung, -spine)
    paint(lung > 0, "lung")
    inside = lung > 1.5
    paint(inside & (np.abs(y + 8 - 0.7 * (z - 10)) < 0.5), "fat")  # oblique fissure
    hilum = np.hypot(np.hypot(np.abs(x) - 30, y + 5), z - 20)
    for distance, radius in vessels:
        paint(inside & (distance < radius * np.clip(1.5 - hilum / 95, 0.35, 1.3)), "wall")
    for points, radius in (
        ([(22, -8, 60), (40, -12, 22), (62, -22, 2), (84, -34, -6)], 5.0),
        ([(40, -12, 22), (64, 12, 12), (88, 26, 6)], 3.4),
        ([(62, -22, 2), (72, -44, 2), (80, -60, 0)], 2.6),
    ):
        way = tube(np.abs(x), y, z, points)
        paint((way < radius + 1.6) & (dome > 2), "wall")
        paint((way < radius) & (dome > 2), "air")


def _heart(x: Field, y: Field, z: Field, bump: Field, dome: Field, paint: Paint) -> None:
    """Heart in its fat, with filled chambers; oesophagus; azygos vein."""
    heart = ellipsoid(x + 0.3 * z, y, z, (-22, 32, 18), (54, 42, 46)) + bump * 0.5
    above = dome > -2
    paint((heart > -4) & above, "fat")
    paint((heart > 0) & above, "heart")
    for centre, radii in (((-42, 28, 14), (24, 20, 26)), ((2, 40, 16), (22, 18, 24)), ((-8, 8, 26), (24, 12, 16))):
        paint((ellipsoid(x + 0.3 * z, y, z, centre, radii) > 0) & (heart > 5) & above, "blood")
    gullet = np.hypot(x + 6, y + 11)
    paint(gullet + 0 * z < 7, "wall")
    paint(gullet + 0 * z < 2, "air")


def _skeleton(x: Field, y: Field, z: Field, inner: Field, bone: Field, out: Field) -> None:
    """Spine, ribs and sternum: a hard cortex around marrow with trabeculae; aorta and cava beside the spine."""
    aorta = np.hypot(x + 20 + 0.05 * z, y + 19) + 0 * z
    out[aorta < 13.5] = HU["wall"]
    out[aorta < 12] = HU["blood"]
    cava = np.hypot((x - 20 + 0.1 * z) / 1.3, y + 8) + 0 * z
    out[(cava < 9) & (z < 12)] = HU["blood"] - 50
    height = np.abs((z + 6 + 16) % 32 - 16)  # 0 mid-vertebra; a disc at 13.5 to 16
    body = np.minimum(1 - np.sqrt((x / 21) ** 2 + ((y + 47) / 16.5) ** 2), 1.0) * 18 - 2.5 * (1 - height / 16)
    canal = 9 - np.hypot(x, y + 71)
    arch = 14 - np.hypot(x, y + 71) + 0 * z
    process = np.minimum(4 - np.abs(x), np.minimum(-77 - y, y + 99 - 0.2 * (z % 32)))
    transverse = np.minimum(4.5 - np.abs(y + 67 + 0.1 * np.abs(x)), np.minimum(6 - np.abs(height), 42 - np.abs(x)))
    vertebra = np.maximum(np.where(height < 13.5, body, -1.0), np.where(height < 12, np.maximum(arch, process), -1.0))
    vertebra = np.maximum(vertebra, transverse)
    out[np.broadcast_to((body > 0) & (height >= 13.5), out.shape)] = HU["disc"]
    wall = (inner < -1) & (inner > -12)  # ribs lie 5 mm outside the pleura
    angle = np.arctan2(y, np.abs(x) / 1.35)
    slope = (z - 24 * angle) % 26 - 13
    rib = 1 - np.sqrt(((inner + 5) / 4.2) ** 2 + (slope / 6.0) ** 2)
    rib = np.where(wall & (angle < 1.15), rib * 5, -1)
    gristle = np.where(wall & (angle >= 1.15) & (np.abs(x) > 14), (0.9 - np.hypot((inner + 5) / 4, slope / 6)) * 5, -1)
    out[gristle > 0] = HU["cartilage"]
    sternum = np.minimum(17 - np.abs(x), 5 - np.abs(inner + 6)) + 0 * z
    sternum = np.where(y > 0, np.where(z > -20, sternum, -1), -1)
    for bony, shell in ((vertebra, 1.4), (rib, 1.3), (sternum, 1.3)):
        depth = np.broadcast_to(bony, out.shape)
        out[depth > 0] = HU["cortex"]
        spongy = depth > shell
        out[spongy] = (HU["marrow"] + 45 * bone)[spongy]
    for radius, tissue in ((8.5, "fat"), (7.2, "water"), (4.6, "wall")):
        out[np.broadcast_to(canal > 9 - radius, out.shape)] = HU[tissue]


# --- the scanner ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """A grid centred on ``centre`` (mm, RAS+), and the full width at half maximum of its profile in voxels per axis.

    width 0: the voxel's own box.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]
    fwhm: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index to RAS+ mm, (4, 4)."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = [c - (n - 1) / 2 * s for c, n, s in zip(self.centre, self.shape, self.spacing, strict=True)]
        return affine

    def averages(self, axis: int, points: NDArray[np.float64]) -> Field:
        """(voxels, points) weights with which one axis averages the truth at ``points`` (mm)."""
        centres = self.affine[axis, 3] + self.spacing[axis] * np.arange(self.shape[axis])
        d = (points[None] - centres[:, None]) / self.spacing[axis]
        sd = self.fwhm[axis] / np.sqrt(8 * np.log(2))
        weights = np.exp(-((d / sd) ** 2) / 2) if sd else (np.abs(d) < 0.5).astype(float)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def acquire(truth: Truth, scans: list[Scan], oversampling: int = 2, margin: int = 8) -> list[Field]:
    """The noiseless voxels of several scans of one truth; the first scan is the finest and sets the sampling."""
    finest = scans[0]
    points = []
    for axis in range(3):
        step = finest.spacing[axis] / oversampling
        first = finest.affine[axis, 3] - finest.spacing[axis] / 2 + step / 2
        points.append(first + step * np.arange(-margin, finest.shape[axis] * oversampling + margin))
    weights = [[scan.averages(axis, points[axis]) for axis in range(3)] for scan in scans]
    images = [np.zeros(scan.shape, np.float32) for scan in scans]
    for part in _slabs(len(points[0]), 24):
        values = truth(*(p.astype(np.float32) for p in (points[0][part], points[1], points[2])))
        for voxels, (wi, wj, wk) in zip(images, weights, strict=True):
            voxels[...] += np.einsum("ia,ajk->ijk", wi[:, part], wj @ (values @ wk.T), optimize=True)
    return images


def _slabs(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def head_scans(seed: int = 1) -> dict[str, nib.Nifti1Image]:
    """Three scans of one head: 1.2 mm; 2.4 mm in plane; slices of 4.8 mm. Coil sensitivity, then Rician noise."""
    centre = (0.0, 0.0, 10.0)
    scans = {
        "head_fine": Scan((120, 152, 88), (1.2, 1.2, 1.2), centre, (0, 0, 0)),
        "head_coarse": Scan((60, 76, 88), (2.4, 2.4, 1.2), centre, (1, 1, 0)),
        "head_thick": Scan((120, 152, 22), (1.2, 1.2, 4.8), centre, (0, 0, 0)),
    }
    white, noise = 180.0, 2.5  # signal of white matter and noise per channel, in stored units
    rng = np.random.default_rng(seed + 100)
    coil = Waves.draw(rng, 320.0, 6)
    images = {}
    for (name, scan), image in zip(scans.items(), acquire(head(seed), list(scans.values())), strict=True):
        x, y, z = (scan.affine[a, 3] + scan.spacing[a] * np.arange(scan.shape[a], dtype=np.float32) for a in range(3))
        signal = white * image * np.exp(np.float32(0.12) * coil(x, y, z))
        real, imaginary = (rng.normal(0, noise, scan.shape) for _ in range(2))
        images[name] = nifti(np.hypot(signal + real, imaginary), scan, "digital head phantom, T1-weighted")
    return images


def trunk_scans(seed: int = 2) -> dict[str, nib.Nifti1Image]:
    """Two scans of one trunk: 2 mm, and 4 mm in plane. Gaussian noise of 10 HU."""
    centre = (0.0, 0.0, 0.0)
    scans = {
        "trunk_ct_fine": Scan((168, 112, 48), (2, 2, 2), centre, (0, 0, 0)),
        "trunk_ct_coarse": Scan((84, 56, 48), (4, 4, 2), centre, (1, 1, 0)),
    }
    rng = np.random.default_rng(seed + 100)
    images = {}
    for (name, scan), image in zip(scans.items(), acquire(trunk(seed), list(scans.values())), strict=True):
        noisy = image + rng.normal(0, 10.0, scan.shape)
        images[name] = nifti(np.maximum(noisy, -1024), scan, "digital trunk phantom, CT in HU")
    return images


def nifti(voxels: NDArray[np.floating], scan: Scan, description: str) -> nib.Nifti1Image:
    """Rounded to int16, in mm, with equal sform and qform (scanner coordinates)."""
    image = nib.Nifti1Image(np.rint(voxels).astype(np.int16), scan.affine)
    image.header["descrip"] = description
    image.header.set_xyzt_units("mm")
    image.set_sform(scan.affine, code=1)
    image.set_qform(scan.affine, code=1)
    return image


def main(folder: Path) -> None:
    """Write every sample scan to ``folder``."""
    for name, image in {**head_scans(), **trunk_scans()}.items():
        path = folder / f"{name}.nii.gz"
        nib.save(image, path)
        print(f"{path.name}: {image.shape}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
