"""MR, CT or neither: what the name, the sidecar, the header and, last, the voxels of a NIfTI file tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsr.image.volume import Modality

UNDECIDED = "decided at read"
EXPLICIT = "say --modality mr or --modality ct to have it treated as such an image all the same"

_CT = {"ct", "cta", "ncct", "cect", "ldct"}
_MR = re.compile(
    r"(mri?|[tp][12d]w?(gd|c|ce|\+c)?|t2star|t2starw|t2s|flair|inplanet[12]|pdt2|angio|tof|unit1|mp2rage|mprage|bold|sbref"
    r"|dwi|epi|asl|m0scan|swi|megre|mese|vfa|mtw)"
)
_FOREIGN = (
    (re.compile(r"(d|prob)?seg|segmentation|labels?|labelmap|mask|aseg|aparc\+aseg|wmparc"), "a label map"),
    (
        re.compile(r"adc|fa|md|(t1|t2|t2s|t2star|r1|r2|r2s|r2star|pd|m0|mtr|mtsat|adc|fa|md|rd|ad)map"),
        "a parameter map",
    ),
    (re.compile(r"phase|phase[12]|phasediff|fieldmap|pha"), "a phase image"),
    (re.compile(r"pet|suv"), "a PET image"),
)
_ENTITY = re.compile(
    r"sub|ses|run|acq|ce|rec|dir|echo|flip|inv|mt|part|space|res|den|label|desc|hemi|task|trc"  # keys of BIDS names
)
_STATISTIC_INTENTS = range(2, 25)
_INTENTS = {
    1001: "a parameter estimate",
    1002: "a label map",
    1003: "a label map",
    1006: "a displacement field",
    1007: "a vector field",
    2003: "a colour image",
    2004: "a colour image",
}
_SIDECAR_MODALITY: dict[str, Modality] = {"MR": "MR", "CT": "CT"}
_CT_AIR = (-1100.0, -900.0)
_CT_PADDING = (-1024.0, -2000.0, -2048.0, -3024.0)
_SAMPLE = 400_000  # voxels that are looked at where a share, not an extreme, is wanted


@dataclass(frozen=True)
class Verdict:
    """modality: None where only the voxels can tell. evidence: in words. foreign: why it is no MR or CT image."""

    modality: Modality | None
    evidence: str
    foreign: str | None = None


def by_header(stem: str, sidecar: Mapping[str, Any], *, intent: int = 0, descrip: str = "", dtype: str = "") -> Verdict:
    """Judge a file without its voxels.

    stem: file name without suffixes. sidecar: the BIDS JSON beside the file, or empty. intent: NIfTI intent code.
    descrip: NIfTI description, where dcm2niix marks phase images. dtype: numpy name of the stored type.
    """
    named, evidence, foreign = _by_name(stem)
    tagged = str(sidecar.get("Modality", "")).upper()
    if tagged in _SIDECAR_MODALITY:
        named, evidence = _SIDECAR_MODALITY[tagged], f"sidecar: Modality {tagged}"
    elif tagged in ("PT", "PET", "NM"):
        foreign = f"a PET image (sidecar: Modality {tagged})"
    foreign = _by_image_type(sidecar) or _by_intent(intent) or foreign
    if foreign is None and re.search(r"\bphase=1\b", descrip):
        foreign = "a phase image (description: phase=1)"
    if foreign is None and named == "CT" and dtype == "uint8":
        foreign = "an 8-bit CT: a display window, not Hounsfield units"
    return Verdict(named, evidence, foreign)


def _words(stem: str) -> list[str]:
    """Words of a file name, last first; the values of BIDS entities (``space-T1w``) say nothing of the image."""
    words: list[str] = []
    for token in re.split(r"[_. ]+", stem.lower()):
        key, dash, _ = token.partition("-")
        words += [token] if not dash or _ENTITY.fullmatch(key) else token.split("-")
    return words[::-1]


def _by_name(stem: str) -> tuple[Modality | None, str, str | None]:
    words = _words(stem)
    if "part-phase" in words:
        return None, UNDECIDED, "a phase image (file name: part-phase)"
    for first, second in zip(words[1:], words, strict=False):
        if second == "map" and any(pattern.fullmatch(first + second) for pattern, _ in _FOREIGN):
            return None, UNDECIDED, f"a parameter map (file name: {first}_{second})"
    for word in words:  # the last word that means something: a BIDS name ends in its suffix
        for pattern, what in _FOREIGN:
            if pattern.fullmatch(word):
                return None, UNDECIDED, f"{what} (file name: {word})"
        if word in _CT:
            return "CT", f"file name: {word}", None
        if _MR.fullmatch(word):
            return "MR", f"file name: {word}", None
    return None, UNDECIDED, None


def _by_image_type(sidecar: Mapping[str, Any]) -> str | None:
    image_type = sidecar.get("ImageType")
    words = {str(word).upper() for word in image_type} if isinstance(image_type, list) else set()
    for marks, what in (
        ({"P", "PHASE", "PHASE MAP", "PHASE_MAP"}, "a phase image"),
        ({"ADC", "ADC_UNSPECIFIED", "FA", "T1 MAP", "T1_MAP", "T2 MAP", "T2_MAP", "T2_STAR MAP"}, "a parameter map"),
    ):
        if found := sorted(marks & words):
            return f"{what} (sidecar: ImageType {found[0]})"
    return None


def _by_intent(intent: int) -> str | None:
    what = "a statistical map" if intent in _STATISTIC_INTENTS else _INTENTS.get(intent)
    if what is None and 2006 <= intent <= 2015:
        what = "a deformation field"
    return f"{what} (intent code {intent})" if what else None


def by_voxels(
    array: NDArray[np.float32], known: Modality | None, *, extremes: tuple[float, float] | None = None
) -> Verdict:
    """Judge a scan by its voxels, as far as the header left that open.

    array: (I, J, K), finite, in the file's own units; known: what the header said, if anything; extremes: its smallest
    and largest value, where they are known already. CT: values reach from air or padding to bone, with many voxels at
    air or padding. Modality None in the answer: it cannot be told.
    """
    low, high = extremes or (float(array.min()), float(array.max()))
    sample = _sample(array)
    integers = bool((sample == np.rint(sample)).all())
    if integers and _is_label_map(array, sample):
        return Verdict(known, UNDECIDED, "a label map (few integer values in uniform patches)")
    if known == "CT" and integers and low >= 0 and high <= 255:
        return Verdict("CT", UNDECIDED, f"an 8-bit CT ({low:g} to {high:g}): a display window, not Hounsfield units")
    if known is not None:
        return Verdict(known, UNDECIDED)
    span = f"values {low:g} to {high:g}"
    if low > -200 or high <= 200:
        return Verdict("MR", f"voxels: {span} are not Hounsfield units")
    if _is_hounsfield(sample, low, high, integers=integers):
        return Verdict("CT", f"voxels: {span}, with the shares of air, padding and soft tissue of a CT")
    below = float(np.mean(sample < -200))
    if below > 0.05:
        return Verdict(None, f"voxels: {span}, {below:.0%} below -200, but neither air nor soft tissue of a CT")
    return Verdict("MR", f"voxels: {span} without the air of a CT")


def _is_hounsfield(sample: NDArray[np.float32], low: float, high: float, *, integers: bool) -> bool:
    """Air or padding fills part of the picture, or, in a scan cut to the body, water-like tissue does."""
    if low < -3200 or high > 32767:
        return False
    if float(np.mean((sample > _CT_AIR[0]) & (sample < _CT_AIR[1]))) > 0.02:
        return True
    padding = float(np.isin(sample, _CT_PADDING).mean())
    tissue = float(np.mean((sample > -200) & (sample < 300)))
    return integers and (padding > 0.02 or (low <= -900 and tissue > 0.15))


def _sample(array: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = array.reshape(-1)
    # An odd step that shares no factor with usual row lengths, so that the sample is not a few columns.
    step = max(1, flat.size // _SAMPLE) | 1
    return flat[::step]


def _is_label_map(array: NDArray[np.float32], sample: NDArray[np.float32]) -> bool:
    """Few values, and neighbours outside the background nearly always equal: regions, not a picture of tissue."""
    values, counts = np.unique(sample, return_counts=True)
    if values.size > 256 or array.size < 512:
        return False
    if values.size <= 2:
        return True
    axis = int(np.argmax(array.shape))
    middle = [n // 4 for n in array.shape], [max(n // 4 + 1, n - n // 4) for n in array.shape]
    middle[0][axis], middle[1][axis] = 0, array.shape[axis]
    block = np.moveaxis(array[tuple(slice(a, b) for a, b in zip(*middle, strict=True))], axis, 0)
    here, there = block[:-1], block[1:]
    background = values[np.argmax(counts)]
    inside = (here != background) | (there != background)
    return bool(inside.any()) and float(np.mean(here[inside] == there[inside])) > 0.7
