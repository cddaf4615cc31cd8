"""What a DICOM file shows: an MR or CT image, something foreign that looks like one, or no image at all."""

from __future__ import annotations

from dataclasses import dataclass

from medsr.image.dicom_files import one_line
from medsr.image.dicom_head import Head
from medsr.image.dicom_tags import Private, Tags, uid_name
from medsr.image.volume import Modality

DIRECTORY = "1.2.840.10008.1.3.10"
MARK = "AI SR, not acquired"  # how the description of a series written by medsr ends
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_CT = {_STORAGE + code for code in ("2", "2.1", "2.2")}
_MR = {_STORAGE + code for code in ("4", "4.1", "4.4")}
_PET = {_STORAGE + code for code in ("128", "128.1", "130")}
_CAPTURE = {_STORAGE + code for code in ("7", "7.1", "7.2", "7.3", "7.4")}
_ENHANCED = {_STORAGE + code for code in ("2.1", "2.2", "4.1", "4.4", "128.1", "130")}
_PHASE = {"P", "PHASE", "PHASE MAP", "PHASE_MAP", "VELOCITY"}
_COMPONENT = {
    "R": "the real part",
    "REAL": "the real part",
    "I": "the imaginary part",
    "IMAGINARY": "the imaginary part",
}
_MAPS = {
    "ADC", "ADC_UNSPECIFIED", "FA", "FRACT_ANISO", "REL_ANISO", "VOL_RATIO", "T1 MAP", "T1_MAP", "T2 MAP", "T2_MAP",
    "T2_STAR MAP", "T2_STAR_MAP", "T2* MAP", "R1_MAP", "R2_MAP", "R2_STAR MAP", "R2_STAR_MAP", "PD_MAP", "B0", "B0 MAP",
    "B1", "B1 MAP", "FIELD_MAP", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "PERFUSION", "Z_EFF",
    "ELECTRON_DENSITY", "FAT_FRACTION",
}  # fmt: skip
_ACQUIRED_FOR = {"PERFUSION"}  # of an original image: what it was acquired for (PS3.3, C.8.16.1.3); else a map of it
_PROJECTIONS = {"PROJECTION IMAGE", "MIP", "MINIP", "MNIP", "MAX_IP", "MIN_IP"}
_GE_COMPONENT = Private(0x0043, "GEMS_PARM_01", 0x2F, "SS")
PRIVATE = (_GE_COMPONENT,)
_GE_COMPONENTS = {1: "a phase image", 2: "the real part of an MR image", 3: "the imaginary part of an MR image"}
_CT_UNITS = {"", "HU", "HU_MOD", "US"}  # US, unspecified, is what some scanners write beside Hounsfield units


@dataclass(frozen=True)
class Kind:
    """modality and evidence: as in ``Header``. foreign: why it is no MR or CT image, though it may be read as one."""

    modality: Modality | None
    evidence: str
    foreign: str | None = None


class NotAnImage(Exception):  # noqa: N818  # not an error: the file is in order
    """A DICOM file that is in order, and no scalar image of a place in the patient; the text says what it is."""


class WithoutPlace(NotAnImage):
    """An image that does not say where in the patient it lies."""


def is_result(tags: Tags) -> bool:
    """True for what medsr has written."""
    return tags.text("Manufacturer").lower() == "medsr" or tags.text("SeriesDescription").endswith(MARK)


def is_enhanced(sop_class: str) -> bool:
    """True for the multi-frame kinds whose frames say where they lie in functional groups."""
    return sop_class in _ENHANCED


def kind_of(head: Head, frame_words: tuple[str, ...] = (), component: str = "", unit: str = "") -> Kind:
    """Judge a file, or a frame of it, by its tags.

    frame_words: FrameType of the frame, in capitals. component: its ComplexImageComponent. unit: its RescaleType.
    Raises NotAnImage.
    """
    tags, sop_class = head.tags, head.sop_class
    modality = tags.text("Modality").upper()
    if head.offset is None and not tags.has("Rows"):
        raise NotAnImage(f"no image ({uid_name(sop_class)})")
    if sop_class not in _CT | _MR | _PET | _CAPTURE:
        raise NotAnImage(f"{uid_name(sop_class)}, neither CT nor MR")
    samples, photometric = tags.integer("SamplesPerPixel"), tags.text("PhotometricInterpretation").upper()
    if (samples or 1) != 1 or (photometric and not photometric.startswith("MONOCHROME")):
        raise NotAnImage(f"a colour image ({one_line(photometric) or samples})")
    # The first two words say how the image came about, not what it shows.
    first, *words_after = frame_words or tags.words("ImageType") or ("",)
    words = set(words_after[1:])
    if first == "ORIGINAL":
        words -= _ACQUIRED_FOR
    known: Modality | None = "CT" if sop_class in _CT else "MR" if sop_class in _MR else None
    if known is None and modality in ("CT", "MR"):
        known = "CT" if modality == "CT" else "MR"
    evidence = f"tag: {uid_name(sop_class).removesuffix(' Storage')}"
    return Kind(known, evidence, _foreign(tags, sop_class, words, known, component.upper(), unit))


def _foreign(
    tags: Tags, sop_class: str, words: set[str], modality: Modality | None, component: str, unit: str
) -> str | None:
    if sop_class in _PET:
        return "a PET image"
    if sop_class in _CAPTURE:
        return "a secondary capture"
    if is_result(tags):
        return "a result of medsr, not an acquired scan"
    if "LOCALIZER" in words | set(tags.words("ImageType")):
        return "a localizer"
    if found := sorted(words & _PROJECTIONS):
        return f"a projection (ImageType {found[0]})"
    if found := sorted(words & _MAPS):
        return f"a parameter map (ImageType {found[0]})"
    if modality == "MR":
        return _mr_component(tags, words, component)
    if modality == "CT":
        unit = unit.upper() or tags.text("RescaleType").upper()
        if unit not in _CT_UNITS:
            return f"a CT map in {one_line(unit)}, not in Hounsfield units"
        if tags.integer("BitsStored") == 8:
            return "an 8-bit CT: a display window, not Hounsfield units"
    return None


def _mr_component(tags: Tags, words: set[str], component: str) -> str | None:
    if words & _PHASE or component == "PHASE":
        return "a phase image"
    for word in (*sorted(words), component):
        if word in _COMPONENT:
            return f"{_COMPONENT[word]} of an MR image"
    ge = tags.private_number(_GE_COMPONENT)
    return _GE_COMPONENTS.get(int(ge)) if ge is not None else None
